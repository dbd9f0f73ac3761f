#include "container/checkpoint_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"

#define NEVER "0001-01-01T00:00:00Z" /* no time, as Go writes it */
/* Annotations by which those who read an archive know whose it is. */
#define CRIO "io.kubernetes.cri-o."

static char *time_text(uint64_t ns)
{
	time_t s = (time_t)(ns / 1000000000u);
	struct tm tm;
	char text[32];

	gmtime_r(&s, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	return berth_asprintf("%s.%09uZ", text, (unsigned int)(ns % 1000000000u));
}

static int write_json(int dir, const char *name, const json_t *j, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;

	if (!text)
		return berth_error_set(
		        ret_err, BERTH_FAILED_PRECONDITION, "%s: a text is no UTF-8", name);
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : berth_write_all(fd, text, strlen(text));
	return r < 0 ? berth_error_errno(ret_err, r, "%s", name) : 0;
}

static int write_config(const struct berth_container *c, int dir, struct berth_error **ret_err)
{
	const Runtime__V1__ContainerConfig *q = c->config;
	const struct berth_handler *h = c->pod->handler;
	_cleanup_free_ char *created = time_text(c->created_ns);
	_cleanup_free_ char *now = time_text(berth_realtime_ns());
	const char *hex = strchr(c->image_id, ':');
	json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "id", c->id,
	        "name", q->metadata ? q->metadata->name : c->name, "rootfsImage",
	        q->image ? q->image->image : "", "rootfsImageRef", hex ? hex + 1 : c->image_id,
	        "rootfsImageName", c->image_ref ? c->image_ref : "", "runtime", h->name,
	        "createdTime", created, "checkpointedTime", now, "restoredTime", NEVER, "restored",
	        0);
	int r = write_json(dir, "config.dump", j, ret_err);

	json_decref(j);
	return r;
}

/* A JSON text within JSON. */
static void set_json(json_t *to, const char *key, json_t *value)
{
	_cleanup_free_ char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;

	json_object_set_new(to, key, json_string(text ? text : "{}"));
	json_decref(value);
}

static void set_text(json_t *to, const char *key, const char *value)
{
	if (value && *value)
		json_object_set_new(to, key, json_string(value));
}

/* Maps of CRI. */
struct entry {
	ProtobufCMessage base;
	char *key, *value;
};

static json_t *map_json(void *const *entries, size_t n)
{
	json_t *j = json_object();
	for (size_t i = 0; i < n; i++) {
		const struct entry *e = entries[i];
		json_object_set_new(j, e->key, json_string(e->value));
	}
	return j;
}

static void annotate(const struct berth_container *c, json_t *a)
{
	const Runtime__V1__ContainerConfig *q = c->config;
	const Runtime__V1__PodSandboxMetadata *pod = c->pod->config->metadata;
	_cleanup_free_ char *created = time_text(c->created_ns);

	set_text(a, "io.container.manager", "cri-o");
	set_text(a, CRIO "ContainerID", c->id);
	set_text(a, CRIO "ContainerType", "container");
	set_text(a, CRIO "Created", created);
	set_text(a, CRIO "Name", c->name);
	set_text(a, CRIO "SandboxID", c->pod->id);
	set_text(a, CRIO "SandboxName", c->pod->name);
	set_text(a, CRIO "Image", q->image ? q->image->image : NULL);
	set_text(a, CRIO "ImageName", c->image_ref);
	set_text(a, CRIO "ImageRef", c->image_id);
	set_text(a, CRIO "LogPath", c->log_path);
	for (size_t i = 0; c->pod->ips && c->pod->ips[i]; i++) {
		_cleanup_free_ char *key = berth_asprintf(CRIO "IP.%zu", i);
		set_text(a, key, c->pod->ips[i]);
	}
	set_json(a, CRIO "Annotations", map_json((void *const *)q->annotations, q->n_annotations));
	set_json(a, CRIO "Labels", map_json((void *const *)q->labels, q->n_labels));
	set_json(a, CRIO "Metadata",
	        json_pack("{s:s, s:I}", "name", q->metadata ? q->metadata->name : "", "attempt",
	                (json_int_t)(q->metadata ? q->metadata->attempt : 0)));
	set_text(a, "io.kubernetes.pod.name", pod ? pod->name : NULL);
	set_text(a, "io.kubernetes.pod.namespace", pod ? pod->namespace_ : NULL);
	set_text(a, "io.kubernetes.pod.uid", pod ? pod->uid : NULL);
	set_text(a, "io.kubernetes.container.name", q->metadata ? q->metadata->name : NULL);
}

static int write_spec(
        const struct berth_container *c, int dir, const json_t *spec, struct berth_error **ret_err)
{
	json_t *copy = json_deep_copy(spec);

	if (!json_is_object(json_object_get(copy, "annotations")))
		json_object_set_new(copy, "annotations", json_object());
	annotate(c, json_object_get(copy, "annotations"));
	int r = write_json(dir, "spec.dump", copy, ret_err);
	json_decref(copy);
	return r;
}

/* What each container has, and its new host makes anew. */
static bool is_usual(const char *path)
{
	static const char *const usual[] = {
	        "/dev", "/dev/shm", "/proc", "/run", "/run/.containerenv", "/run/secrets", "/sys"};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(usual); i++)
		if (strcmp(path, usual[i]) == 0)
			return true;
	return false;
}

static bool is_bind(const json_t *mount)
{
	const char *type = json_string_value(json_object_get(mount, "type"));
	const json_t *option;
	size_t i;

	if (type && strcmp(type, "bind") == 0)
		return true;
	json_array_foreach (json_object_get(mount, "options"), i, option) {
		const char *s = json_string_value(option);
		if (s && (strcmp(s, "bind") == 0 || strcmp(s, "rbind") == 0))
			return true;
	}
	return false;
}

static void add_bind(json_t *list, const json_t *mount, const char *destination)
{
	const char *source = json_string_value(json_object_get(mount, "source"));
	struct stat st;

	/* A source that has gone is of no use to who restores it. */
	if (!source || is_usual(destination) || stat(source, &st) < 0)
		return;
	json_array_append_new(
	        list, json_pack("{s:s, s:s, s:s, s:i}", "source", source, "destination",
	                      destination, "file_type", S_ISDIR(st.st_mode) ? "directory" : "file",
	                      "permissions", (int)(st.st_mode & 0777)));
}

static int write_mounts(
        int dir, const json_t *spec, json_t **ret_mounts, struct berth_error **ret_err)
{
	json_t *binds = json_array(), *mounts = json_array();
	size_t i;
	const json_t *m;

	json_array_foreach (json_object_get(spec, "mounts"), i, m) {
		const char *to = json_string_value(json_object_get(m, "destination"));
		if (!to)
			continue;
		json_array_append_new(mounts, json_string(to + strspn(to, "/")));
		if (is_bind(m))
			add_bind(binds, m, to);
	}
	int r = json_array_size(binds) ? write_json(dir, "bind.mounts", binds, ret_err) : 0;
	json_decref(binds);
	if (r == 0)
		*ret_mounts = mounts;
	else
		json_decref(mounts);
	return r;
}

int berth_checkpoint_files(
        const struct berth_container *c, int dir, json_t **ret_mounts, struct berth_error **ret_err)
{
	_cleanup_free_ char *bundle = berth_container_bundle(c), *text = NULL;
	_cleanup_free_ char *path = berth_path(bundle, "config.json", NULL);
	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_STATE_FILE, &text, NULL);

	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", path);
	json_t *spec = json_loads(text, 0, NULL);
	r = spec ? write_config(c, dir, ret_err)
	         : berth_error_set(ret_err, BERTH_DATA_LOSS, "%s is no JSON", path);
	if (r == 0)
		r = write_spec(c, dir, spec, ret_err);
	if (r == 0)
		r = write_mounts(dir, spec, ret_mounts, ret_err);
	json_decref(spec);
	return r;
}
