/* Owners in a container whose pod has a user namespace. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "container/container.h"
#include "mount/mount.h"
#include "pod/userns.h"
#include "spec/podfiles.h"

int berth_container_maps(
        const struct berth_container *c, struct berth_ctr_maps *ret, struct berth_error **ret_err)
{
	const Runtime__V1__UserNamespace *u = berth_pod_userns(c->pod->config);

	*ret = (struct berth_ctr_maps){.userns_fd = -1};
	if (!u)
		return 0;
	/* The driver may have been another when the pod was made. */
	if (berth_userns_check(c->d, c->pod->handler, ret_err) < 0 ||
	        berth_pod_userns_open(c->pod, &ret->userns_fd, ret_err) < 0)
		return -1;
	ret->mapped = true;
	ret->uids = berth_idmaps(u->uids, u->n_uids);
	ret->gids = berth_idmaps(u->gids, u->n_gids);
	ret->n_uids = (uint32_t)u->n_uids;
	ret->n_gids = (uint32_t)u->n_gids;
	return 0;
}

void berth_ctr_maps_finish(struct berth_ctr_maps *m)
{
	if (m->mapped)
		berth_close(m->userns_fd);
	free(m->uids);
	free(m->gids);
	*m = (struct berth_ctr_maps){0};
}

void berth_ctr_maps_give(const struct berth_ctr_maps *m, struct berth_snap_args *args)
{
	args->uid_maps = m->uids;
	args->gid_maps = m->gids;
	args->n_uid_maps = m->n_uids;
	args->n_gid_maps = m->n_gids;
}

static bool go_on(void *arg)
{
	return berth_container_wanted(arg);
}

int berth_ctr_mount(struct berth_container *c, const struct berth_ctr_maps *m,
        const struct berth_mounts_result *res, const char *target, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_container_dir(c);
	_cleanup_free_ char *scratch = berth_path(dir, "layers", NULL);
	const struct berth_mount_how how = {.userns_fd = m->mapped ? m->userns_fd : -1,
	        .context = c->mount_label,
	        .go_on = go_on,
	        .arg = c,
	        .scratch = scratch};

	return berth_mount_apply_as(res, target, &how, ret_err);
}

static int make_userns(const struct berth_container *c, size_t i, const Runtime__V1__Mount *m,
        int *ret, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_container_stage_dir(c);
	_cleanup_free_ char *path = berth_asprintf("%s/%zu.userns", dir, i);

	if (berth_userns_make(c->d, path, m->uidmappings, m->n_uidmappings, m->gidmappings,
	            m->n_gidmappings, ret_err) < 0)
		return berth_error_wrap(ret_err, "uidMappings, gidMappings");
	*ret = open(path, O_RDONLY | O_CLOEXEC);
	if (*ret < 0)
		return berth_error_errno(ret_err, errno, "%s", path);
	/* The mounts keep it. */
	if (berth_umount(path, true, ret_err) < 0) {
		*ret = berth_close(*ret);
		return -1;
	}
	return 0;
}

int berth_container_mount_userns(
        const struct berth_container *c, size_t i, int *ret, struct berth_error **ret_err)
{
	const Runtime__V1__UserNamespace *u = berth_pod_userns(c->pod->config);
	const Runtime__V1__Mount *m = c->config->mounts[i];

	*ret = -1;
	if (!m->n_uidmappings && !m->n_gidmappings)
		return 0;
	if (u && berth_idmaps_equal(u->uids, u->n_uids, m->uidmappings, m->n_uidmappings) &&
	        berth_idmaps_equal(u->gids, u->n_gids, m->gidmappings, m->n_gidmappings))
		return berth_pod_userns_open(c->pod, ret, ret_err);
	return make_userns(c, i, m, ret, ret_err);
}
