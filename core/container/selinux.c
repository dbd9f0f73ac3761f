/* SELinux labels of containers, and of the volumes that they are given. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "container/container.h"
#include "mount/relabel.h"

#define LONG_S 10          /* clients wait for it, and their operators ask why */
#define UNCONFINED "spc_t" /* as policies for containers call it: it reads what it wants */

static bool privileged(const struct berth_container *c)
{
	const Runtime__V1__LinuxContainerConfig *l = c->config->linux;
	return l && l->security_context && l->security_context->privileged;
}

static struct berth_selinux_options options(const struct berth_container *c)
{
	const Runtime__V1__LinuxContainerConfig *l = c->config->linux;
	const Runtime__V1__SELinuxOption *o =
	        l && l->security_context ? l->security_context->selinux_options : NULL;

	return o ? (struct berth_selinux_options){o->user, o->role, o->type, o->level}
	         : (struct berth_selinux_options){0};
}

/* Of a pod without labels. */
static int without(const struct berth_container *c, const struct berth_selinux_options *o,
        struct berth_error **ret_err)
{
	const struct berth_selinux *s = &c->d->selinux;

	if (!s->on || !berth_selinux_asked(o) || privileged(c) || berth_pod_unconfined(c->pod))
		return 0;
	return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
	        "container %s: selinux_options: %s", c->name,
	        s->why ? s->why : "its pod sandbox was made without labels");
}

int berth_container_label(struct berth_container *c, struct berth_error **ret_err)
{
	const struct berth_pod *p = c->pod;
	const struct berth_selinux_options o = options(c);
	_cleanup_free_ char *process = NULL;

	if (!p->process_label || !p->mount_label)
		return without(c, &o, ret_err);
	if (berth_selinux_compose(
	            p->process_label, p->mount_label, &o, &process, &c->mount_label, ret_err) < 0)
		return berth_error_wrap(ret_err, "container %s", c->name);
	/* What it writes has a label all the same: others must not be able to change it. */
	if (privileged(c))
		return 0;
	if (p->handler && p->handler->no_selinux)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "container %s: the runtime of the handler \"%s\" was built without "
		        "SELinux, and cannot run it as %s",
		        c->name, p->handler->name, process);
	c->process_label = berth_take(process);
	return 0;
}

int berth_container_check_labels(struct berth_container *c, struct berth_error **ret_err)
{
	const char *labels[] = {c->process_label, c->mount_label};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(labels); i++) {
		_cleanup_free_ char *as_written = NULL;
		if (labels[i] &&
		        berth_selinux_check(&c->d->selinux, labels[i], &as_written, ret_err) < 0)
			return -1;
	}
	/* Of levels that differ none could read what has the other's. */
	return c->process_label &&
	                       !berth_selinux_same_level(c->process_label, c->pod->process_label)
	               ? berth_pod_label_files(c->pod, true, ret_err)
	               : 0;
}

bool berth_container_wanted(const struct berth_container *c)
{
	return !c->pod->ending && !c->d->draining;
}

/* ---- volumes ---- */

/* Also of one that is privileged, and has no label for another reason. */
static bool reads_all(const struct berth_container *c)
{
	const char *type = options(c).type;
	return type && *type ? strcmp(type, UNCONFINED) == 0
	                     : berth_selinux_is_type(c->pod->process_label, UNCONFINED);
}

static bool wants(const struct berth_container *c, const Runtime__V1__Mount *m)
{
	return m->selinux_relabel && c->mount_label && *m->host_path == '/' && !reads_all(c);
}

bool berth_container_relabels(const struct berth_container *c)
{
	for (size_t i = 0; i < c->config->n_mounts; i++)
		if (wants(c, c->config->mounts[i]))
			return true;
	return false;
}

static bool go_on(void *arg)
{
	return berth_container_wanted(arg);
}

static int relabel(struct berth_container *c, const char *host_path, const char *with,
        struct berth_error **ret_err)
{
	/* As it is mounted later: without links, made where it is missing. */
	_cleanup_free_ char *path = realpath(host_path, NULL);

	if (!path && errno == ENOENT) {
		int r = berth_mkdir_p(host_path, 0755);
		if (r < 0)
			return berth_error_errno(ret_err, r, "make host path %.256s", host_path);
		path = realpath(host_path, NULL);
	}
	if (!path)
		return berth_error_errno(ret_err, errno, "host path %.256s", host_path);
	if (!berth_relabel_allowed(path))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "host path %.256s is the node's own, which needs the labels it has", path);
	uint64_t begin = berth_now_ns();
	int r = berth_relabel(path, with, go_on, c, ret_err);
	uint64_t took_s = (berth_now_ns() - begin) / 1000000000u;
	if (took_s >= LONG_S)
		berth_log_info("relabelling a volume took long", "container", c->id, "path", path,
		        "result", r < 0 ? (*ret_err)->msg : "done");
	return r;
}

int berth_container_relabel(struct berth_container *c, struct berth_error **ret_err)
{
	_cleanup_free_ char *with = NULL;

	if (berth_selinux_check(&c->d->selinux, c->mount_label, &with, ret_err) < 0)
		return -1;
	for (size_t i = 0; i < c->config->n_mounts; i++) {
		const Runtime__V1__Mount *m = c->config->mounts[i];
		if (wants(c, m) && relabel(c, m->host_path, with, ret_err) < 0)
			return berth_error_wrap(ret_err, "mounts[%zu]: selinux_relabel", i);
	}
	return 0;
}
