#include "image/shared.h"

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
#include "pull/shared.h"

#define LOOK_AGAIN_MS 30000
#define FRESH_NS 2000000000ull /* so long one look is good for all who ask */
#define DEADLINE_MS 5000       /* for an answer */
#define PACKET_BYTES 65536

struct store {
	struct berth_shared *all;
	const char *dir;
	char generation[PULL_SHARED_GENERATION + 1];
	struct berth_image *by_id;
	json_t *layers;          /* ChainID -> can it be used? */
	bool known, up;          /* known: it was looked at, or did not answer */
	uint64_t looked_ns;      /* the last answer */
	struct berth_error *why; /* it is not up */
	/* a look */
	bool looking, abandoned, starting;
	bool again; /* once the last child has ended */
	int sock, pidfd;
	struct berth_child_watch *child; /* maybe of an abandoned one */
	struct berth_fdwatch *watch;
	struct berth_timer *deadline;
};

struct waiter {
	struct waiter *next;
	void (*fn)(void *arg);
	void *arg;
};

struct berth_shared {
	struct berth_daemon *d;
	struct store *v;
	size_t n;
	struct waiter *waiters;
	struct berth_timer *timer;
	unsigned int starting; /* children, on workers */
	bool stopped;          /* it is freed once none is */
};

static void forget_images(struct store *s)
{
	struct berth_image *i, *tmp;

	HASH_ITER (hh, s->by_id, i, tmp) {
		HASH_DEL(s->by_id, i);
		berth_image_unref(i);
	}
	json_decref(berth_take(s->layers));
}

/* ---- the outcome of a look ---- */

static void tell_waiters(struct berth_shared *all)
{
	if (!berth_shared_fresh(all->d))
		return;
	struct waiter *w = berth_take(all->waiters);
	while (w) {
		struct waiter *next = w->next;
		w->fn(w->arg);
		free(w);
		w = next;
	}
}

static void look_over(struct store *s)
{
	s->looking = false;
	s->watch = berth_fdwatch_free(s->watch);
	s->sock = berth_close(s->sock);
	s->deadline = berth_timer_free(s->deadline);
	s->known = true;
	s->looked_ns = berth_now_ns();
	tell_waiters(s->all);
}

static void went_down(struct store *s, struct berth_error *err)
{
	if (s->up || !s->why || strcmp(s->why->msg, err->msg) != 0)
		berth_log_warn(
		        "an image store is not available", "store", s->dir, "error", err->msg);
	s->up = false;
	berth_error_free(s->why);
	s->why = err;
	look_over(s);
}

static void came_up(struct store *s)
{
	if (!s->up)
		berth_log_info("an image store is available", "store", s->dir);
	s->up = true;
	s->why = berth_error_free(s->why);
	look_over(s);
}

static char **names_of(const json_t *list)
{
	char **v = NULL;
	size_t i;
	json_t *e;
	json_array_foreach ((json_t *)(uintptr_t)list, i, e) {
		if (json_is_string(e))
			v = berth_strv_append(v, json_string_value(e));
	}
	return v;
}

static void take_image(struct store *s, const json_t *j)
{
	json_t *record = json_object_get(j, "record");
	const char *id = json_string_value(json_object_get(record, "id"));

	struct berth_image *i = NULL;

	if (!berth_digest_ok(id))
		return;
	HASH_FIND_STR(s->by_id, id, i);
	if (i)
		return;
	i = berth_new(struct berth_image);
	i->refs = 1;
	i->id = berth_strdup(id);
	i->record = json_incref(record);
	i->tags = names_of(json_object_get(j, "tags"));
	i->digests = names_of(json_object_get(j, "digests"));
	i->size = (uint64_t)json_integer_value(json_object_get(record, "size"));
	i->store = s->dir;
	HASH_ADD_KEYPTR(hh, s->by_id, i->id, strlen(i->id), i);
}

static void take_index(struct store *s, json_t *doc)
{
	json_t *images = json_object_get(doc, "images"), *image;
	size_t i;

	forget_images(s);
	json_array_foreach (images, i, image) {
		take_image(s, image);
	}
	s->layers = json_incref(json_object_get(doc, "layers"));
	berth_log_info("an image store was read", "store", s->dir, "generation", s->generation);
}

static void on_index(struct store *s, const char *generation, int fd)
{
	_cleanup_free_ char *text = NULL;
	struct berth_error *err = NULL;
	size_t len = 0;

	if (fd < 0) {
		came_up(s);
		return;
	}
	/* A memfd: reading it waits for nothing. */
	json_t *doc = NULL;
	if (lseek(fd, 0, SEEK_SET) == 0 &&
	        berth_read_fd(fd, 2 * PULL_SHARED_INDEX, &text, &len) == 0)
		doc = json_loadb(text, len, 0, NULL);
	if (!doc || strlen(generation) > PULL_SHARED_GENERATION) {
		json_decref(doc);
		berth_error_set(&err, BERTH_UNAVAILABLE,
		        "image store %s: berth-pull sent no readable index", s->dir);
		went_down(s, err);
		return;
	}
	strcpy(s->generation, generation);
	take_index(s, doc);
	json_decref(doc);
	came_up(s);
}

/* ---- a look ---- */

static void on_answer(int sock, int events, void *arg)
{
	struct store *s = arg;
	struct berth_error *err = NULL;
	_cleanup_free_ char *packet = berth_zalloc(PACKET_BYTES);
	_cleanup_close_ int fd = -1;
	json_t *j = NULL;

	(void)sock;
	(void)events;
	if (pull_receive(s->sock, packet, PACKET_BYTES, &j, &fd) == -EAGAIN)
		return;
	const char *t = json_string_value(json_object_get(j, "t"));
	const char *generation = json_string_value(json_object_get(j, "generation"));
	const char *msg = json_string_value(json_object_get(j, "msg"));
	if (t && generation && strcmp(t, "shared") == 0) {
		on_index(s, generation, fd);
	} else {
		berth_error_set(&err, BERTH_UNAVAILABLE, "image store %s: %s", s->dir,
		        msg ? msg : "berth-pull ended early");
		went_down(s, err);
	}
	json_decref(j);
}

static bool take_flag(bool *flag)
{
	bool was = *flag;
	*flag = false;
	return was;
}

static void begin(struct store *s);

static void on_exit_of_child(pid_t pid, int status, void *arg)
{
	struct store *s = arg;

	(void)pid;
	(void)status;
	s->child = NULL;
	s->pidfd = berth_close(s->pidfd);
	s->abandoned = false;
	/* What it said last may still lie in the socket. */
	if (s->looking && s->sock >= 0)
		on_answer(s->sock, 0, s);
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
	struct store *s = arg;
	struct berth_error *err = NULL;

	s->abandoned = s->child != NULL || s->starting;
	s->again = false;
	if (s->pidfd >= 0)
		(void)!berth_pidfd_kill(s->pidfd, SIGKILL);
	berth_error_set(&err, BERTH_UNAVAILABLE, "image store %s: it does not answer", s->dir);
	went_down(s, err);
}

struct starting {
	struct store *s;
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

static void free_all(struct berth_shared *all);

static void start_done(void *arg)
{
	struct starting *t = arg;
	struct store *s = t->s;

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
		free_all(s->all);
}

static int start_child(struct store *s, struct berth_error **ret_err)
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
static void begin(struct store *s)
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
	(void)!send(s->sock, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void look(struct store *s)
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
	s->deadline = berth_timer_start(s->all->d->loop, DEADLINE_MS, on_deadline, s);
	/* The last one has answered, and is about to end. */
	s->again = s->child != NULL || s->starting;
	if (!s->again)
		begin(s);
}

static bool fresh(const struct store *s)
{
	return !s->looking && s->known && berth_now_ns() - s->looked_ns < FRESH_NS;
}

static void look_at_all(void *arg)
{
	struct berth_shared *all = arg;
	for (size_t i = 0; i < all->n; i++)
		if (!fresh(&all->v[i]))
			look(&all->v[i]);
}

static void look_now_and_then(void *arg)
{
	struct berth_shared *all = arg;
	berth_timer_free(all->timer);
	all->timer = berth_timer_start(all->d->loop, LOOK_AGAIN_MS, look_now_and_then, all);
	look_at_all(all);
}

/* ---- for the others ---- */

void berth_shared_start(struct berth_daemon *d)
{
	char **dirs = d->config->images.additional_stores;
	size_t n = berth_strv_len(dirs);

	if (n == 0)
		return;
	struct berth_shared *all = d->images->shared = berth_new(struct berth_shared);
	all->d = d;
	all->n = n;
	all->v = berth_new_array(struct store, n);
	for (size_t i = 0; i < n; i++) {
		all->v[i].all = all;
		all->v[i].dir = dirs[i];
		all->v[i].sock = all->v[i].pidfd = -1;
	}
	look_now_and_then(all);
}

static void free_all(struct berth_shared *all)
{
	for (size_t i = 0; i < all->n; i++) {
		struct store *s = &all->v[i];
		s->child = berth_child_unwatch(s->child);
		s->pidfd = berth_close(s->pidfd);
	}
	free(all->v);
	free(all);
}

void berth_shared_stop(struct berth_daemon *d)
{
	struct berth_shared *all = berth_take(d->images->shared);

	if (!all)
		return;
	all->timer = berth_timer_free(all->timer);
	for (size_t i = 0; i < all->n; i++) {
		struct store *s = &all->v[i];
		s->looking = s->again = false;
		s->watch = berth_fdwatch_free(s->watch);
		s->deadline = berth_timer_free(s->deadline);
		s->sock = berth_close(s->sock);
		if (s->pidfd >= 0)
			(void)!berth_pidfd_kill(s->pidfd, SIGKILL);
		forget_images(s);
		s->why = berth_error_free(s->why);
	}
	while (all->waiters) {
		struct waiter *w = all->waiters;
		all->waiters = w->next;
		free(w);
	}
	all->stopped = true;
	if (all->starting == 0)
		free_all(all);
}

bool berth_shared_fresh(const struct berth_daemon *d)
{
	const struct berth_shared *all = d->images->shared;

	for (size_t i = 0; all && i < all->n; i++)
		if (!fresh(&all->v[i]))
			return false;
	return true;
}

void berth_shared_check(struct berth_daemon *d, void (*fn)(void *arg), void *arg)
{
	struct berth_shared *all = d->images->shared;

	if (berth_shared_fresh(d)) {
		fn(arg);
		return;
	}
	struct waiter *w = berth_new(struct waiter);
	w->fn = fn;
	w->arg = arg;
	w->next = all->waiters;
	all->waiters = w;
	look_at_all(all);
}

/* Among those before `before`; NULL: among all. */
static struct berth_image *find_before(
        const struct berth_shared *all, const struct store *before, const char *id)
{
	struct berth_image *found = NULL;

	for (size_t i = 0; all && i < all->n && &all->v[i] != before && !found; i++)
		HASH_FIND_STR(all->v[i].by_id, id, found);
	return found;
}

struct berth_image *berth_shared_by_id(const struct berth_daemon *d, const char *id)
{
	return find_before(d->images->shared, NULL, id);
}

struct berth_image *berth_shared_next(const struct berth_daemon *d, const struct berth_image *after)
{
	const struct berth_shared *all = d->images->shared;
	struct berth_image *own, *i;
	size_t n = 0;

	while (all && after && n < all->n && all->v[n].dir != after->store)
		n++;
	for (; all && n < all->n; n++, after = NULL) {
		i = after ? after->hh.next : all->v[n].by_id;
		for (; i; i = i->hh.next) {
			HASH_FIND_STR(d->images->by_id, i->id, own);
			/* What two stores have is told once. */
			if (!own && !find_before(all, &all->v[n], i->id))
				return i;
		}
	}
	return NULL;
}

char *berth_shared_layer(const struct berth_daemon *d, const char *chain_id)
{
	const struct berth_shared *all = d->images->shared;

	for (size_t i = 0; all && i < all->n; i++)
		if (all->v[i].up && json_is_true(json_object_get(all->v[i].layers, chain_id)))
			return berth_asprintf(
			        "%s/layers/%s/fs", all->v[i].dir, strchr(chain_id, ':') + 1);
	return NULL;
}

static bool lies_in(const char *path, const char *dir)
{
	size_t n = strlen(dir);
	return strncmp(path, dir, n) == 0 && path[n] == '/';
}

int berth_shared_usable(
        const struct berth_daemon *d, const char *path, struct berth_error **ret_err)
{
	const struct berth_shared *all = d->images->shared;

	for (size_t i = 0; all && i < all->n; i++) {
		const struct store *s = &all->v[i];
		if (!lies_in(path, s->dir))
			continue;
		if (s->up)
			return 0;
		return berth_error_set(ret_err, BERTH_UNAVAILABLE, "%s",
		        s->why ? s->why->msg : "an image store was not looked at yet");
	}
	return berth_error_set(ret_err, BERTH_UNAVAILABLE,
	        "a layer lies in %s, which is in none of images.additional_stores", path);
}
