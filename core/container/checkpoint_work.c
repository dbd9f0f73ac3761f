/* One checkpoint, from its intent to the archive.
 *
 * The intent is the directory ROOT/checkpoints/ID: a file that names what is to be undone
 * elsewhere, and the parts of the archive. The processes stand still from before the images to
 * after the copy of the layer, so that the two fit each other. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "container/checkpoint.h"
#include "container/checkpoint_files.h"
#include "container/checkpoint_layer.h"
#include "image/checkpoint.h"
#include "loop/child.h"
#include "plugin/cancel.h"

#define TARGET "archive" /* of the intent: the temporary file beside the location */
#define PARTS "parts"    /* becomes the archive */
#define REAP_MS 5000
#define RESUME_S 30

struct job {
	struct berth_container *c;
	const char *location;
	uint64_t deadline_ns;
	struct berth_cancel *cancel;
	char *dir;    /* of the intent */
	char *target; /* the temporary file */
	int parts;    /* DIR/parts */
	bool paused;
};

static char *intent_dir(const struct berth_daemon *d, const char *id)
{
	return berth_path(d->config->root, "checkpoints", id, NULL);
}

static uint64_t mark_of(const char *id)
{
	_cleanup_free_ char *name = berth_asprintf("checkpoint %s", id);
	return berth_child_mark(name);
}

/* ---- undo ---- */

static int resume(struct berth_container *c, struct berth_error **ret_err)
{
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	struct berth_ctr_args args = {.size = sizeof(args), .id = c->id, .bundle = bundle};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_ctr_state st;
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->pod->handler->instance, BERTH_OP_RUNTIME_RESUME, c->id);

	berth_call_set_deadline(call, berth_now_ns() + RESUME_S * 1000000000ull);
	if (berth_call_run(call, &args, NULL, &err) == 0)
		return 0;
	/* One that has ended meanwhile needs none. */
	_cleanup_(berth_error_freep) struct berth_error *ignored = NULL;
	if (berth_container_read_state(c, &st, &ignored) == 0 && st.status != BERTH_ST_PAUSED)
		return 0;
	berth_log_error("a container stands still: it could not be resumed", "container", c->id,
	        "error", err->msg);
	return berth_error_move(ret_err, &err);
}

static void remove_dir(const char *dir)
{
	int r = berth_rm_tree(AT_FDCWD, dir);
	if (r < 0)
		berth_log_warn(
		        "what a checkpoint left stays", "directory", dir, "error", strerror(-r));
}

/* Of what failed, or of a daemon that was killed. */
static void undo(const char *dir)
{
	_cleanup_free_ char *path = berth_path(dir, TARGET, NULL), *target = NULL;

	if (berth_read_file(AT_FDCWD, path, BERTH_LIMIT_STATE_FILE, &target, NULL) == 0 &&
	        *target == '/' && unlink(target) < 0 && errno != ENOENT)
		berth_log_warn(
		        "what a checkpoint left stays", "file", target, "error", strerror(errno));
	remove_dir(dir);
}

/* ---- where it goes ---- */

static int check_location(const struct job *j, char **ret_dir, struct berth_error **ret_err)
{
	const char *slash = strrchr(j->location, '/');
	_cleanup_free_ char *dir =
	        slash == j->location ? berth_strdup("/")
	                             : berth_strndup(j->location, (size_t)(slash - j->location));
	struct stat st;

	if (stat(dir, &st) < 0)
		return berth_error_set(ret_err,
		        errno == ENOENT ? BERTH_FAILED_PRECONDITION : berth_code_from_errno(errno),
		        "location: the directory %s: %s", dir, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return berth_error_set(
		        ret_err, BERTH_FAILED_PRECONDITION, "location: %s is no directory", dir);
	if (lstat(j->location, &st) == 0 && !S_ISREG(st.st_mode))
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "location: %s is there, and no regular file", j->location);
	*ret_dir = berth_take(dir);
	return 0;
}

static int make_dir(const char *path, struct berth_error **ret_err)
{
	return mkdir(path, 0700) < 0 ? berth_error_errno(ret_err, errno, "%s", path) : 0;
}

/* Another name than the archive's, which may be as long as one can be. */
static char *temporary(const char *dir, const char *id)
{
	_cleanup_free_ char *name = berth_asprintf(".berth-checkpoint-%s", id);
	return strcmp(dir, "/") == 0 ? berth_asprintf("/%s", name)
	                             : berth_asprintf("%s/%s", dir, name);
}

static int prepare(struct job *j, struct berth_error **ret_err)
{
	_cleanup_free_ char *all = intent_dir(j->c->d, ""), *dir = NULL;
	_cleanup_free_ char *target = berth_path(j->dir, TARGET, NULL);
	_cleanup_free_ char *parts = berth_path(j->dir, PARTS, NULL);
	_cleanup_free_ char *images = berth_path(parts, "checkpoint", NULL);
	_cleanup_free_ char *work = berth_path(j->dir, "work", NULL);

	if (check_location(j, &dir, ret_err) < 0)
		return -1;
	j->target = temporary(dir, j->c->id);
	int r = berth_mkdir_p(all, 0700);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", all);
	berth_fault("checkpoint-intent-before");
	if (make_dir(j->dir, ret_err) < 0)
		return -1;
	r = berth_write_file_atomic(AT_FDCWD, target, j->target, strlen(j->target), 0600, true);
	if (r == 0)
		r = berth_fsync_dir(all);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", target);
	berth_fault("checkpoint-intent-after");
	if (make_dir(parts, ret_err) < 0 || make_dir(images, ret_err) < 0 ||
	        make_dir(work, ret_err) < 0)
		return -1;
	j->parts = open(parts, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return j->parts < 0 ? berth_error_errno(ret_err, errno, "%s", parts) : 0;
}

/* ---- the parts ---- */

/* Where a runtime cannot, its images and the layer are of two moments. */
static int stand_still(struct job *j, struct berth_error **ret_err)
{
	struct berth_container *c = j->c;
	struct berth_instance *i = c->pod->handler->instance;
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	struct berth_ctr_args args = {.size = sizeof(args), .id = c->id, .bundle = bundle};

	if (!berth_instance_has_op(i, BERTH_OP_RUNTIME_PAUSE) ||
	        !berth_instance_has_op(i, BERTH_OP_RUNTIME_RESUME))
		return 0;
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(i, BERTH_OP_RUNTIME_PAUSE, c->id);
	berth_call_set_deadline(call, j->deadline_ns);
	berth_call_set_cancel(call, j->cancel);
	j->paused = true; /* also where it failed: it may have been half-way */
	return berth_call_run(call, &args, NULL, ret_err);
}

static int make_images(struct job *j, struct berth_error **ret_err)
{
	struct berth_container *c = j->c;
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	_cleanup_free_ char *images = berth_path(j->dir, PARTS, "checkpoint", NULL);
	_cleanup_free_ char *work = berth_path(j->dir, "work", NULL);
	struct berth_checkpoint_args args = {.size = sizeof(args),
	        .id = c->id,
	        .bundle = bundle,
	        .image_dir = images,
	        .work_dir = work};
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->pod->handler->instance, BERTH_OP_RUNTIME_CHECKPOINT, c->id);

	berth_call_set_deadline(call, j->deadline_ns);
	berth_call_set_cancel(call, j->cancel);
	berth_call_set_mark(call, mark_of(c->id));
	berth_fault("checkpoint-images-before");
	if (berth_call_run(call, &args, NULL, ret_err) < 0)
		return -1;
	berth_fault("checkpoint-images-after");
	return 0;
}

/* What of the log and the numbers there is goes with the images. */
static int keep_logs(const struct job *j, struct berth_error **ret_err)
{
	static const char *const names[] = {"dump.log", "stats-dump"};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++) {
		_cleanup_free_ char *from = berth_path(j->dir, "work", names[i], NULL);
		struct stat st;
		if (lstat(from, &st) < 0 || !S_ISREG(st.st_mode))
			continue;
		if (renameat(AT_FDCWD, from, j->parts, names[i]) < 0)
			return berth_error_errno(ret_err, errno, "%s", from);
	}
	return 0;
}

static struct berth_packer *start_packer(const struct job *j, const struct berth_ctr_layer *l,
        json_t *mounts, struct berth_error **ret_err)
{
	json_t *request = json_pack("{s:O, s:b}", "skip", mounts, "own", l->own);

	if (berth_ctr_layer_owners(j->c, l, request, ret_err) < 0) {
		json_decref(request);
		return NULL;
	}
	const struct berth_packer_opts o = {.dir = j->parts,
	        .deadline_ns = j->deadline_ns,
	        .cancel = j->cancel,
	        .request = request};
	return berth_packer_start(j->c->d, &o, ret_err);
}

/* The processes stand still, and go on before its return. */
static int take_parts(struct job *j, json_t *mounts, struct berth_packer **ret_packer,
        struct berth_error **ret_err)
{
	struct berth_ctr_layer layer = {.fds = {-1, -1, -1}};
	_cleanup_(berth_packer_freep) struct berth_packer *p = NULL;

	int r = stand_still(j, ret_err);
	berth_fault("checkpoint-paused");
	if (r == 0)
		r = make_images(j, ret_err);
	if (r == 0)
		r = berth_ctr_layer_open(j->c, &layer, ret_err);
	if (r == 0)
		r = (p = start_packer(j, &layer, mounts, ret_err)) ? 0 : -1;
	if (r == 0)
		r = berth_packer_diff(p, &layer.fds, ret_err);
	_cleanup_(berth_error_freep) struct berth_error *stands = NULL;
	if (j->paused && resume(j->c, &stands) < 0)
		r = r < 0 ? berth_error_wrap(ret_err, "it stands still (%s)", stands->msg)
		          : berth_error_move(ret_err, &stands);
	berth_ctr_layer_close(j->c, &layer);
	if (r == 0)
		*ret_packer = berth_take(p);
	return r;
}

/* ---- the archive ---- */

static int publish(struct job *j, struct berth_packer *p, struct berth_error **ret_err)
{
	_cleanup_close_ int fd = -1;
	_cleanup_free_ char *dir = berth_strdup(j->target);

	(void)unlink(j->target); /* of an intent that power took */
	berth_fault("checkpoint-archive-before");
	fd = open(j->target, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "%s", j->target);
	if (berth_packer_pack(p, fd, ret_err) < 0)
		return berth_error_wrap(ret_err, "%s", j->location);
	berth_fault("checkpoint-archive-after");
	if (berth_cancel_is_set(j->cancel))
		return berth_error_set(ret_err, BERTH_CANCELLED, "%s", j->location);
	if (rename(j->target, j->location) < 0)
		return berth_error_errno(ret_err, errno, "%s", j->location);
	*(strrchr(dir, '/') + 1) = '\0';
	int r = berth_fsync_dir(dir);
	berth_fault("checkpoint-renamed");
	return r < 0 ? berth_error_errno(ret_err, r, "%s", dir) : 0;
}

static int make(struct job *j, struct berth_error **ret_err)
{
	_cleanup_(berth_packer_freep) struct berth_packer *p = NULL;
	json_t *mounts = NULL;

	if (prepare(j, ret_err) < 0 || berth_checkpoint_files(j->c, j->parts, &mounts, ret_err) < 0)
		return -1;
	int r = take_parts(j, mounts, &p, ret_err);
	json_decref(mounts);
	if (r < 0 || keep_logs(j, ret_err) < 0)
		return -1;
	return publish(j, p, ret_err);
}

int berth_checkpoint_make(struct berth_container *c, const char *location, uint64_t timeout_s,
        struct berth_cancel *cancel, struct berth_error **ret_err)
{
	struct job j = {.c = c,
	        .location = location,
	        .deadline_ns = berth_now_ns() + timeout_s * 1000000000u,
	        .cancel = cancel,
	        .dir = intent_dir(c->d, c->id),
	        .parts = -1};

	undo(j.dir); /* where a removal of it failed */
	int r = make(&j, ret_err);
	berth_close(j.parts);
	undo(j.dir);
	free(j.dir);
	free(j.target);
	return r;
}

/* ---- recovery ---- */

static void recover_one(struct berth_daemon *d, const char *id)
{
	_cleanup_free_ char *dir = intent_dir(d, id);
	struct berth_error *err = NULL;
	struct berth_container *c = NULL;

	/* A criu of it that is still at work, first: it could hold its processes again. */
	berth_kill_tree(0, mark_of(id), REAP_MS);
	HASH_FIND(hh, d->containers->by_id, id, strlen(id), c);
	if (c && c->phase == BERTH_CTR_RUNNING && c->pod->handler &&
	        berth_instance_has_op(c->pod->handler->instance, BERTH_OP_RUNTIME_RESUME)) {
		struct berth_ctr_state st;
		if (berth_container_read_state(c, &st, &err) == 0 && st.status == BERTH_ST_PAUSED)
			(void)!resume(c, &err); /* told in the log */
		berth_error_free(err);
	}
	berth_log_info("a half-made checkpoint is undone", "container", id);
	undo(dir);
	d->counts.repaired++;
}

void berth_checkpoints_recover(struct berth_daemon *d)
{
	_cleanup_free_ char *all = intent_dir(d, "");
	_cleanup_(berth_strv_freep) char **ids = NULL;
	DIR *dir = opendir(all);

	for (struct dirent *e; dir && (e = readdir(dir));)
		if (e->d_name[0] != '.')
			ids = berth_strv_append(ids, e->d_name);
	if (dir)
		closedir(dir);
	for (char **id = ids; id && *id; id++)
		recover_one(d, *id);
}
