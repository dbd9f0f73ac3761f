/* Checkpoints: the runtime has CRIU write down what its container's processes are. */
#include <berth/util.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runc.h"

#define CRIU "criu" /* runtimes and libcriu look for this name in PATH */
#define REST_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define LOG_TAIL 4096 /* of CRIU's log, for an error */
#define LOG_WORDS 1024

/* The directory of the CRIU that is to be used, from the arena; NULL where there is none. */
static char *criu_dir(struct berth_op *op, const struct runc *r)
{
	static const char *const dirs[] = {
	        "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"};

	if (r->criu)
		return access(r->criu, X_OK) == 0
		               ? runc_printf(op, r, "%.*s", (int)(strrchr(r->criu, '/') - r->criu),
		                         r->criu)
		               : NULL;
	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		char *path = runc_printf(op, r, "%s/" CRIU, dirs[i]);
		if (access(path, X_OK) == 0)
			return berth_dup(r->h, op, dirs[i]);
	}
	return NULL;
}

berth_status runc_checkpoint_conf(struct berth_op *op, struct runc *r, const struct berth_conf *c)
{
	const char *criu = r->h->conf_str(c, "criu", NULL);
	const char *base = criu ? strrchr(criu, '/') : NULL;

	r->checkpoints = r->h->conf_bool(c, "checkpoint", 1) != 0;
	if (!criu)
		return BERTH_OK;
	if (criu[0] != '/' || strcmp(base, "/" CRIU) != 0)
		return berth_fail(r->h, op, BERTH_E_INVALID,
		        "criu: '%s' is no absolute path of a file named " CRIU, criu);
	r->criu = strdup(criu);
	return r->criu ? BERTH_OK : berth_fail(r->h, op, BERTH_E_EXHAUSTED, "no memory");
}

/* Why there are no checkpoints; NULL where there are. crun may be built without CRIU, and then does
 * not know the command. */
static const char *why_not(struct berth_op *op, const struct runc *r)
{
	const char *argv[] = {r->path, "checkpoint", "--help", NULL};
	struct berth_run run = {.size = sizeof(run), .argv = argv, .term_grace_ms = 500};
	struct berth_run_result out = {.size = sizeof(out)};

	if (!r->checkpoints)
		return "'checkpoint' is false in its configuration";
	if (!criu_dir(op, r))
		return r->criu ? runc_printf(op, r, "criu: there is no %s", r->criu)
		               : "criu is not installed";
	if (r->h->run(op, &run, &out) != BERTH_OK || !WIFEXITED(out.wait_status) ||
	        WEXITSTATUS(out.wait_status) != 0)
		return runc_printf(
		        op, r, "%s is built without criu: it knows no 'checkpoint'", r->path);
	return NULL;
}

berth_status runc_checkpoint_start(struct berth_op *op, void *self)
{
	struct runc *r = self;
	const char *why = why_not(op, r);

	r->no_checkpoint = why ? strdup(why) : NULL;
	r->features = (struct berth_features){.size = sizeof(r->features),
	        .features = why ? 0 : BERTH_F_CHECKPOINT,
	        .no_checkpoint = r->no_checkpoint};
	return BERTH_OK;
}

const void *runc_extension(void *self, const char *id)
{
	const struct runc *r = self;
	return strcmp(id, BERTH_FEATURES_EXT) == 0 ? &r->features : NULL;
}

/* The lines of CRIU's log that tell of an error, one behind the other; NULL where there are none.
 */
static char *criu_words(struct berth_op *op, const struct runc *r, const char *work_dir)
{
	const char *path = runc_printf(op, r, "%s/dump.log", work_dir);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	char *text = r->h->op_alloc(op, LOG_TAIL + 1), *save = NULL;
	char *words = r->h->op_alloc(op, LOG_WORDS);
	size_t n = 0;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
		ssize_t got = pread(
		        fd, text, LOG_TAIL, st.st_size > LOG_TAIL ? st.st_size - LOG_TAIL : 0);
		text[got > 0 ? got : 0] = '\0';
	}
	close(fd);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *error = strstr(line, "Error (");
		if (error && n < LOG_WORDS)
			n += (size_t)snprintf(
			        words + n, LOG_WORDS - n, "%s%s", n ? "; " : "", error);
	}
	return n ? words : NULL;
}

static berth_status check(
        struct berth_op *op, const struct runc *r, const struct berth_checkpoint_args *a)
{
	berth_status st = runc_check_id(op, r, a->id);

	if (st != BERTH_OK)
		return st;
	if (a->flags)
		return berth_fail(r->h, op, BERTH_E_INVALID, "checkpoint %s: unknown flags 0x%x",
		        a->id, (unsigned)a->flags);
	if (!a->image_dir || a->image_dir[0] != '/' || !a->work_dir || a->work_dir[0] != '/')
		return berth_fail(r->h, op, BERTH_E_INVALID,
		        "checkpoint %s: no directories for its images and its log", a->id);
	struct berth_ctr_args args = {.size = sizeof(args), .id = a->id, .bundle = a->bundle};
	struct berth_ctr_state s = {.size = sizeof(s)};
	if ((st = runc_state(op, (void *)(uintptr_t)r, &args, &s)) != BERTH_OK)
		return st;
	if (s.status != BERTH_ST_RUNNING && s.status != BERTH_ST_PAUSED)
		return berth_fail(r->h, op, BERTH_E_PRECONDITION,
		        "checkpoint %s: the container is not running", a->id);
	return BERTH_OK;
}

berth_status runc_checkpoint(struct berth_op *op, void *self, const struct berth_checkpoint_args *a)
{
	const struct runc *r = self;
	berth_status st = check(op, r, a);

	if (st != BERTH_OK)
		return st;
	const char *dir = criu_dir(op, r);
	if (!dir)
		return berth_fail(r->h, op, BERTH_E_PRECONDITION,
		        "checkpoint %s: criu is not there any more", a->id);
	/* As other hosts do it: sockets that are connected and locks of files are no hindrance. */
	const char *words[] = {"checkpoint", "--image-path", a->image_dir, "--work-path",
	        a->work_dir, "--leave-running", "--tcp-established", "--file-locks", a->id, NULL};
	const char *env[] = {runc_printf(op, r, "PATH=%s:" REST_PATH, dir), NULL};
	struct runc_call call = {.what = "checkpoint", .id = a->id, .words = words, .env = env};
	char *said = NULL;
	st = runc_call(op, r, &call, &said);
	if (st != BERTH_OK || !said)
		return st;
	const char *criu = criu_words(op, r, a->work_dir);
	st = runc_status_of(said);
	/* What CRIU did not find is no container. */
	if (st == BERTH_E_UNKNOWN && criu &&
	        (strcasestr(criu, strerror(ENOSPC)) || strcasestr(criu, strerror(EDQUOT))))
		st = BERTH_E_EXHAUSTED;
	return r->h->fail(op, st, 0,
	        runc_printf(op, r, "checkpoint %s: %s%s%s", a->id, said, criu ? ": " : "",
	                criu ? criu : ""));
}
