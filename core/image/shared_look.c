/* One look at an image store: the child that reads it, and what becomes of its answer. [loop] */
#include "image/shared_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "image/pull.h"
#include "loop/child.h"

/* For an answer. A look may take as long as it does where the store goes on to answer: given up
 * halfway it would be begun from the start, and never be over. */
#define DEADLINE_MS 5000
#define PACKET_BYTES 65536

/* ---- the outcome of a look ---- */

static void look_over(struct shared_store *s)
{
	s->looking = false;
	s->watch = berth_fdwatch_free(s->watch);
	s->sock = berth_close(s->sock);
	s->deadline = berth_timer_free(s->deadline);
	s->index = berth_close(s->index);
	s->known = true;
	s->looked_ns = s->heard_ns = berth_now_ns();
	shared_looked(s->all);
}

static void went_down(struct shared_store *s, struct berth_error *err)
{
	if (s->up || !s->why || strcmp(s->why->msg, err->msg) != 0)
		berth_log_warn(
		        "an image store is not available", "store", s->dir, "error", err->msg);
	s->up = false;
	berth_error_free(s->why);
	s->why = err;
	look_over(s);
}

static void came_up(struct shared_store *s)
{
	if (!s->up)
		berth_log_info("an image store is available", "store", s->dir);
	s->up = true;
	s->why = berth_error_free(s->why);
	look_over(s);
}

/* `fd`: which layers can be used, -1 where that is as it was. */
static void on_told(struct shared_store *s, const char *generation, int *fd)
{
	bool same = s->told >= 0 && strcmp(s->generation, generation) == 0;
	json_t *doc = same ? NULL : pull_shared_told(s->index);
	json_t *layers = pull_shared_told(*fd);

	if (strlen(generation) > PULL_SHARED_GENERATION || (!same && !doc) ||
	        (!layers && (*fd >= 0 || !same))) {
		struct berth_error *err = NULL;
		berth_error_set(&err, BERTH_UNAVAILABLE,
		        "image store %s: berth-pull sent no readable index", s->dir);
		went_down(s, err);
	} else {
		strcpy(s->generation, generation);
		if (doc)
			shared_take_index(s, doc);
		if (layers) {
			shared_take_layers(s, layers);
			berth_close(s->told);
			s->told = berth_take_fd(fd);
		}
		came_up(s);
	}
	json_decref(doc);
	json_decref(layers);
}

/* ---- a look ---- */

static void on_deadline(void *arg);

static void on_alive(struct shared_store *s)
{
	s->heard_ns = berth_now_ns();
	berth_timer_free(s->deadline);
	s->deadline = berth_timer_start(s->all->d->loop, DEADLINE_MS, on_deadline, s);
	shared_looked(s->all);
}

/* False: nothing came. */
static bool hear(struct shared_store *s)
{
	struct berth_error *err = NULL;
	_cleanup_free_ char *packet = berth_zalloc(PACKET_BYTES);
	_cleanup_close_ int fd = -1;
	json_t *j = NULL;

	if (pull_receive(s->sock, packet, PACKET_BYTES, &j, &fd) == -EAGAIN)
		return false;
	const char *t = json_string_value(json_object_get(j, "t"));
	const char *generation = json_string_value(json_object_get(j, "generation"));
	const char *msg = json_string_value(json_object_get(j, "msg"));
	if (t && strcmp(t, "alive") == 0) {
		on_alive(s);
	} else if (t && strcmp(t, "index") == 0) {
		berth_close(s->index);
		s->index = berth_take_fd(&fd);
	} else if (t && generation && strcmp(t, "shared") == 0) {
		on_told(s, generation, &fd);
	} else {
		berth_error_set(&err, BERTH_UNAVAILABLE, "image store %s: %s", s->dir,
		        msg ? msg : "berth-pull ended early");
		went_down(s, err);
	}
	json_decref(j);
	return true;
}

static void on_answer(int sock, int events, void *arg)
{
	(void)sock;
	(void)events;
	hear(arg);
}

static bool take_flag(bool *flag)
{
	bool was = *flag;
	*flag = false;
	return was;
}

static void begin(struct shared_store *s);

static void on_exit_of_child(pid_t pid, int status, void *arg)
{
	struct shared_store *s = arg;

	(void)pid;
	(void)status;
	s->child = NULL;
	s->pidfd = berth_close(s->pidfd);
	s->abandoned = false;
	/* What it said last may still lie in the socket. */
	while (s->looking && s->sock >= 0 && hear(s))
		;
	if (s->looking && !s->again) {
		struct berth_error *err = NULL;
		berth_error_set(
		        &err, BERTH_UNAVAILABLE, "image store %s: berth-pull ended early", s->dir);
		went_down(s, err);
	}
	if (take_flag(&s->again))
		begin(s);
}

/* It may hang where no signal reaches it: it is left to itself, and until it has ended no other one
 * is sent. */
static void on_deadline(void *arg)
{
	struct shared_store *s = arg;
	struct berth_error *err = NULL;

	s->abandoned = s->child != NULL || s->starting;
	s->again = false;
	if (s->pidfd >= 0)
		(void)!berth_pidfd_kill(s->pidfd, SIGKILL);
	berth_error_set(&err, BERTH_UNAVAILABLE, "image store %s: it does not answer", s->dir);
	went_down(s, err);
}

struct starting {
	struct shared_store *s;
	struct berth_daemon *d;
	int sock; /* its end of the socket */
	pid_t pid;
	int pidfd;
	struct berth_error *err;
};

static void start_work(void *arg)
{
	struct starting *t = arg;
	const char *const env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};

	(void)!pull_spawn(t->d, env, t->sock, &t->pid, &t->pidfd, &t->err); /* told to start_done */
}

static void start_done(void *arg)
{
	struct starting *t = arg;
	struct shared_store *s = t->s;

	s->starting = false;
	s->all->starting--;
	if (!t->err) {
		s->pidfd = t->pidfd;
		s->child =
		        berth_child_watch(s->all->d->loop, t->pid, t->pidfd, on_exit_of_child, s);
	}
	if (!t->err && (s->abandoned || s->all->stopped))
		(void)!berth_pidfd_kill(s->pidfd, SIGKILL);
	if (t->err && s->looking) {
		berth_error_wrap(&t->err, "image store %s", s->dir);
		t->err->code = BERTH_UNAVAILABLE;
		went_down(s, berth_take(t->err));
	}
	if (t->err || !s->child)
		s->abandoned = false;
	berth_error_free(t->err);
	free(t);
	if (s->all->stopped && s->all->starting == 0)
		shared_free(s->all);
}

static int start_child(struct shared_store *s, struct berth_error **ret_err)
{
	struct berth_daemon *d = s->all->d;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return berth_error_errno(ret_err, errno, "a socket");
	struct starting *t = berth_new(struct starting);
	*t = (struct starting){.s = s, .d = d, .sock = pair[1], .pidfd = -1};
	if (berth_work(d->flows, d->loop, start_work, start_done, t) < 0) {
		free(t);
		close(pair[0]);
		close(pair[1]);
		return berth_error_set(
		        ret_err, BERTH_RESOURCE_EXHAUSTED, "too many requests are under way");
	}
	s->starting = true;
	s->all->starting++;
	s->sock = pair[0];
	s->watch = berth_fdwatch_start(d->loop, s->sock, UV_READABLE, on_answer, s);
	return 0;
}

/* What is sent before the child runs waits in the socket. */
static void begin(struct shared_store *s)
{
	struct berth_error *err = NULL;

	if (start_child(s, &err) < 0) {
		berth_error_wrap(&err, "image store %s", s->dir);
		err->code = BERTH_UNAVAILABLE;
		went_down(s, err);
		return;
	}
	json_t *q = json_pack("{s:s, s:s, s:s, s:s}", "t", "shared", "dir", s->dir, "known",
	        s->generation, "whiteout", "overlay");
	_cleanup_free_ char *text = json_dumps(q, JSON_COMPACT);
	json_decref(q);
	(void)!pull_send_packet(s->sock, text, s->told);
}

void shared_look(struct shared_store *s)
{
	struct berth_error *err = NULL;

	if (s->looking)
		return;
	if (s->abandoned) {
		berth_error_set(
		        &err, BERTH_UNAVAILABLE, "image store %s: it does not answer", s->dir);
		went_down(s, err);
		return;
	}
	s->looking = true;
	s->began_ns = berth_now_ns();
	s->deadline = berth_timer_start(s->all->d->loop, DEADLINE_MS, on_deadline, s);
	/* The last one has answered, and is about to end. */
	s->again = s->child != NULL || s->starting;
	if (!s->again)
		begin(s);
}

/* ---- for shared.c ---- */

void shared_look_end(struct shared_store *s)
{
	s->looking = s->again = false;
	s->watch = berth_fdwatch_free(s->watch);
	s->deadline = berth_timer_free(s->deadline);
	s->sock = berth_close(s->sock);
	s->index = berth_close(s->index);
	s->told = berth_close(s->told);
	if (s->pidfd >= 0)
		(void)!berth_pidfd_kill(s->pidfd, SIGKILL);
}

void shared_look_forget(struct shared_store *s)
{
	s->child = berth_child_unwatch(s->child);
	s->pidfd = berth_close(s->pidfd);
}
