#include "spec_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

#define ID "c0ffee0000000000000000000000000000000000000000000000000000000000"
#define POD "b0a70000000000000000000000000000000000000000000000000000000000ff"

static void need(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

void fixture_write(const struct fixture *f, const char *name, const char *text)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", f->dir, name);
	_cleanup_free_ char *parent = berth_strndup(path, (size_t)(strrchr(path, '/') - path));
	need(berth_mkdir_p(parent, 0755) == 0, parent);
	need(berth_write_file_atomic(AT_FDCWD, path, text, strlen(text), 0644, false) == 0, path);
}

struct fixture *fixture_new(void)
{
	static char *args[] = {(char *)(uintptr_t) "/bin/true"};
	struct fixture *f = berth_new(struct fixture);

	strcpy(f->dir, "/tmp/berth-spec-XXXXXX");
	need(mkdtemp(f->dir) != NULL, f->dir);
	f->rootfs = berth_asprintf("%s/rootfs", f->dir);
	fixture_write(f, "rootfs/etc/passwd",
	        "root:x:0:0:root:/root:/bin/sh\n"
	        "# a comment:x:1:1::/:\n"
	        "broken line\n"
	        "app:x:1000:1000:An App:/home/app:/bin/sh\n"
	        "app2:x:1000:2000::/never:\n"
	        "short:x:1500:1500\n");
	fixture_write(f, "rootfs/etc/group",
	        "root:x:0:root\nwheel:x:10:root,app\napp:x:1000:\nextra:x:50000:other,app\n"
	        "appendix:x:60001:apple\n");
	f->in.rootfs = f->rootfs;
	f->in.rootfs_fd = open(f->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
	need(f->in.rootfs_fd >= 0, f->rootfs);

	runtime__v1__container_config__init(&f->c);
	runtime__v1__container_metadata__init(&f->meta);
	runtime__v1__image_spec__init(&f->image_spec);
	runtime__v1__linux_container_config__init(&f->lin);
	runtime__v1__linux_container_resources__init(&f->res);
	runtime__v1__linux_container_security_context__init(&f->sec);
	runtime__v1__namespace_option__init(&f->ns);
	runtime__v1__security_profile__init(&f->seccomp);
	runtime__v1__capability__init(&f->caps);
	runtime__v1__pod_sandbox_config__init(&f->pod);
	runtime__v1__pod_sandbox_metadata__init(&f->pod_meta);
	runtime__v1__linux_pod_sandbox_config__init(&f->pod_linux);
	runtime__v1__linux_sandbox_security_context__init(&f->pod_sec);
	runtime__v1__namespace_option__init(&f->pod_ns);
	f->meta.name = (char *)(uintptr_t) "ctr";
	f->image_spec.image = (char *)(uintptr_t) "localhost/test:1";
	f->c.metadata = &f->meta;
	f->c.image = &f->image_spec;
	f->c.command = args;
	f->c.n_command = 1;
	f->c.linux = &f->lin;
	f->lin.security_context = &f->sec;
	f->lin.resources = &f->res;
	f->sec.namespace_options = &f->ns;
	f->ns.network = f->ns.ipc = RUNTIME__V1__NAMESPACE_MODE__NODE;
	f->ns.pid = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	f->pod_meta.name = (char *)(uintptr_t) "pod";
	f->pod_meta.namespace_ = (char *)(uintptr_t) "ns";
	f->pod_meta.uid = (char *)(uintptr_t) "uid-1";
	f->pod.metadata = &f->pod_meta;
	f->pod.linux = &f->pod_linux;
	f->pod_linux.security_context = &f->pod_sec;
	f->pod_sec.namespace_options = &f->pod_ns;
	f->pod_ns = f->ns;

	berth_spec_host_probe(&f->host);
	f->image = json_object();
	f->in.config = &f->c;
	f->in.pod_config = &f->pod;
	f->in.image_config = f->image;
	f->in.image_ref = "localhost/test:1";
	f->in.container_id = ID;
	f->in.pod_id = POD;
	f->in.handler = "runc";
	f->in.handler_rro = true;
	f->in.hostname = "node-1";
	f->in.cgroup_parent = "";
	f->in.host = &f->host;
	return f;
}

void fixture_free(struct fixture *f)
{
	berth_spec_out_finish(&f->out);
	berth_error_free(f->err);
	json_decref(f->image);
	close(f->in.rootfs_fd);
	need(berth_rm_tree(AT_FDCWD, f->dir) == 0, f->dir);
	free(f->rootfs);
	free(f);
}

int fixture_build(struct fixture *f)
{
	berth_spec_out_finish(&f->out);
	f->err = berth_error_free(f->err);
	f->in.image_config = f->image;
	int r = berth_spec_container(&f->in, &f->out, &f->err);
	if (r == 0 && f->err)
		abort();
	return r;
}

json_t *fixture_get(const struct fixture *f, const char *path)
{
	json_t *v = f->out.config;
	char key[128];

	while (v && *path) {
		size_t n = strcspn(path, ".");
		snprintf(key, sizeof(key), "%.*s", (int)n, path);
		v = json_is_array(v) ? json_array_get(v, (size_t)atoi(key))
		                     : json_object_get(v, key);
		path += n;
		path += *path == '.';
	}
	return v;
}

const char *fixture_str(const struct fixture *f, const char *path)
{
	const char *s = json_string_value(fixture_get(f, path));
	return s ? s : "(none)";
}

const char *fixture_env(const struct fixture *f, const char *name)
{
	json_t *v, *env = fixture_get(f, "process.env");
	size_t i, n = strlen(name);
	const char *found = NULL;

	json_array_foreach (env, i, v) {
		const char *s = json_string_value(v);
		if (strncmp(s, name, n) == 0 && s[n] == '=') {
			need(!found, "a variable is there twice");
			found = s + n + 1;
		}
	}
	return found;
}

json_t *fixture_mount(const struct fixture *f, const char *dest)
{
	json_t *v, *mounts = fixture_get(f, "mounts");
	size_t i;

	json_array_foreach (mounts, i, v) {
		if (strcmp(json_string_value(json_object_get(v, "destination")), dest) == 0)
			return v;
	}
	return NULL;
}

int fixture_has(const json_t *list, const char *word)
{
	json_t *v;
	size_t i;

	json_array_foreach (list, i, v) {
		if (strcmp(json_string_value(v), word) == 0)
			return 1;
	}
	return 0;
}
