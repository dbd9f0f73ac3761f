/* SELinux labels of pods. */
#include <string.h>

#include "base/mem.h"
#include "container/container.h"
#include "mount/relabel.h"
#include "pod/pod.h"
#include "spec/podfiles.h"

/* Who sees the node's processes, or shares memory with them, is not kept apart from them. */
bool berth_pod_unconfined(const struct berth_pod *p)
{
	return berth_pod_pid_mode(p->config) == RUNTIME__V1__NAMESPACE_MODE__NODE ||
	       berth_pod_ipc_mode(p->config) == RUNTIME__V1__NAMESPACE_MODE__NODE;
}

/* By any pod or container that there is; also one that is being made, or could not be removed. */
static bool taken(const struct berth_mcs *pair, const void *arg)
{
	const struct berth_daemon *d = arg;
	struct berth_pod *p, *tmp;

	HASH_ITER (hh_id, d->pods->by_id, p, tmp) {
		if (berth_mcs_covers(pair, p->mount_label))
			return true;
		for (const struct berth_container *c = p->containers; c; c = c->next)
			if (berth_mcs_covers(pair, c->mount_label))
				return true;
	}
	return false;
}

static int label(struct berth_pod *p, struct berth_selinux_options *o, struct berth_error **ret_err)
{
	const struct berth_selinux *s = &p->d->selinux;
	_cleanup_free_ char *level = NULL;
	struct berth_mcs pair;

	if (s->categories && !(o->level && *o->level)) {
		if (berth_mcs_pick(s->categories, taken, p->d, &pair, ret_err) < 0)
			return -1;
		o->level = level = berth_mcs_level(&pair, s->process);
	}
	return berth_selinux_compose(
	        s->process, s->file, o, &p->process_label, &p->mount_label, ret_err);
}

int berth_pod_label(struct berth_pod *p, struct berth_error **ret_err)
{
	const struct berth_selinux *s = &p->d->selinux;
	const Runtime__V1__LinuxPodSandboxConfig *l = p->config->linux;
	const Runtime__V1__SELinuxOption *said =
	        l && l->security_context ? l->security_context->selinux_options : NULL;
	struct berth_selinux_options o = {0};
	int r = 0;

	if (!s->on || berth_pod_unconfined(p))
		return 0;
	if (said)
		o = (struct berth_selinux_options){said->user, said->role, said->type, said->level};
	if (s->process)
		r = label(p, &o, ret_err);
	else if (berth_selinux_asked(&o) && !berth_pod_privileged(p->config))
		r = berth_error_set(
		        ret_err, BERTH_FAILED_PRECONDITION, "selinux_options: %s", s->why);
	return r < 0 ? berth_error_wrap(ret_err, "pod sandbox %s", p->name) : 0;
}

int berth_pod_label_files(const struct berth_pod *p, bool shared, struct berth_error **ret_err)
{
	static const char *const names[] = {"hostname", "resolv.conf", "hosts"};
	_cleanup_free_ char *dir = berth_pod_dir(p);

	if (!p->mount_label)
		return 0;
	_cleanup_free_ char *with =
	        shared ? berth_selinux_shared(p->mount_label) : berth_strdup(p->mount_label);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++) {
		_cleanup_free_ char *path = berth_path(dir, names[i], NULL);
		if (berth_label_file(path, with, ret_err) < 0)
			return berth_error_wrap(ret_err, "pod sandbox %s", p->id);
	}
	return 0;
}
