/* One berth-pull: its process, and what is said on its socket. [loop] */
#include "image/pull.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "image/shared.h"

#define SOCKET_BYTES (4 * BERTH_PULL_PACKET)

/* ---- words to and from the puller ---- */

void pull_send(struct berth_pull *p, json_t *packet, int fd)
{
	_cleanup_free_ char *text = json_dumps(packet, JSON_COMPACT);
	json_decref(packet);
	if (p->sock < 0)
		return;
	int r = pull_send_packet(p->sock, text, fd);
	if (r == 0 || r == -EPIPE || r == -ECONNRESET)
		return; /* one that is gone is noticed by its end */
	struct berth_error *err = NULL;
	berth_error_errno(&err, r, "pull of %s: berth-pull does not listen", p->key);
	pull_fail(p, err);
}

static void protocol_error(struct berth_pull *p, const char *what)
{
	struct berth_error *err = NULL;
	berth_error_set(&err, BERTH_INTERNAL, "pull of %s: berth-pull %s", p->key, what);
	pull_fail(p, err);
}

static void tell_progress(struct berth_pull *p, size_t n, uint64_t done, uint64_t total)
{
	for (struct berth_pull_part *a = p->parts; a; a = a->next) {
		if (a->progress)
			a->progress((unsigned int)n, p->layers[n].digest, done, total, a->arg);
	}
}

bool pull_layer_here(struct berth_pull *p, struct pull_layer *l)
{
	uint64_t can = berth_instance_features(p->storage);

	if (berth_layer_known(p->d, p->storage, l->chain_id)) {
		l->state = LAYER_COMMITTED;
		return true;
	}
	if (can & BERTH_F_EXTERNAL_LAYERS)
		l->external = berth_shared_layer(p->d, l->chain_id);
	if (l->external)
		l->state = LAYER_UNPACKED; /* it waits for its parent alone */
	return l->external != NULL;
}

/* The image stores were looked at for those who wait. */
static void resume(void *arg)
{
	struct berth_daemon *d = arg;

	for (struct berth_pull *p = d->images->pulls; p; p = p->next)
		p->stores_looked = p->stores_looked || p->have_waits;
	berth_pulls_resume(d);
}

static void answer_have(struct berth_pull *p)
{
	json_t *have = json_array();

	p->have_waits = p->stores_looked = false;
	for (size_t i = 0; i < p->n_layers; i++) {
		bool known = pull_layer_here(p, &p->layers[i]);
		json_array_append_new(have, json_boolean(known));
		tell_progress(p, i, known ? p->layers[i].size : 0, p->layers[i].size);
	}
	pull_send(p, json_pack("{s:s, s:o}", "t", "have", "have", have), -1);
}

static void on_layers(struct berth_pull *p)
{
	if (!p->copied || p->export || p->have_asked) {
		protocol_error(p, "asks for what it was not told of");
		return;
	}
	p->have_asked = true;
	p->have_waits = true;
	berth_pulls_resume(p->d);
}

static void on_image(struct berth_pull *p, const json_t *j)
{
	struct berth_error *err = NULL;

	if (p->have_asked || p->copied) {
		protocol_error(p, "named a second image before the first was stored");
		return;
	}
	if (pull_set_layers(p, json_object_get(j, "layers"), &err) < 0) {
		pull_fail(p, err);
		return;
	}
	p->have_asked = true;
	p->have_waits = true;
	berth_pulls_resume(p->d);
}

/* Not before removals are over, and the image stores were looked at. */
void berth_pulls_resume(struct berth_daemon *d)
{
	bool fresh = berth_shared_fresh(d), ask = false;

	for (struct berth_pull *p = d->images->pulls, *next; p && d->images->removals == 0;
	        p = next) {
		next = p->next;
		if (!p->have_waits || p->over)
			continue;
		if (!fresh && !p->stores_looked) {
			ask = true;
			continue;
		}
		answer_have(p);
		pull_advance(p);
	}
	if (ask)
		berth_shared_check(d, resume, d);
}

bool berth_pull_wants(
        const struct berth_images *s, const struct berth_instance *storage, const char *chain_id)
{
	for (struct berth_pull *p = s->pulls; p; p = p->next) {
		for (size_t i = 0; p->storage == storage && i < p->n_layers; i++) {
			if (!p->have_waits && strcmp(p->layers[i].chain_id, chain_id) == 0)
				return true;
		}
	}
	return false;
}

static void on_progress(struct berth_pull *p, const json_t *j, size_t n)
{
	tell_progress(p, n, (uint64_t)json_integer_value(json_object_get(j, "done")),
	        (uint64_t)json_integer_value(json_object_get(j, "total")));
}

static void on_unpacked(struct berth_pull *p, const json_t *j, size_t n, int fd)
{
	struct pull_layer *l = &p->layers[n];
	json_int_t implied = json_integer_value(json_object_get(j, "implied"));

	if (l->state != LAYER_OPEN || implied < 0 || implied > BERTH_LIMIT_IMPLIED_DIRS) {
		protocol_error(p, "finished a layer that it does not have");
		return;
	}
	if (implied > 0 && fd >= 0) {
		/* A memfd: reading it waits for nothing. */
		if (lseek(fd, 0, SEEK_SET) < 0 ||
		        berth_read_fd(fd, (size_t)implied * BERTH_LIMIT_PATH, &l->implied,
		                &l->implied_len) < 0) {
			protocol_error(p, "sent no readable list of directories");
			return;
		}
		l->implied_n = (size_t)implied;
	}
	l->state = LAYER_UNPACKED;
	pull_fetched(p, n);
	tell_progress(p, n, l->size, l->size);
	pull_advance(p);
}

static void on_record(struct berth_pull *p, int fd)
{
	_cleanup_free_ char *text = NULL;

	if (fd < 0 || !p->have_asked || p->record || lseek(fd, 0, SEEK_SET) < 0 ||
	        berth_read_fd(fd, BERTH_PULL_RECORD, &text, NULL) < 0) {
		protocol_error(p, "sent no readable image record");
		return;
	}
	json_t *r = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	json_t *layers = json_object_get(r, "layers");
	bool ok = berth_digest_ok(json_string_value(json_object_get(r, "id"))) &&
	          berth_digest_ok(json_string_value(json_object_get(r, "digest"))) &&
	          json_is_object(json_object_get(r, "config")) &&
	          json_array_size(layers) == p->n_layers;
	for (size_t i = 0; ok && i < p->n_layers; i++) {
		const char *chain =
		        json_string_value(json_object_get(json_array_get(layers, i), "chain_id"));
		ok = chain && strcmp(chain, p->layers[i].chain_id) == 0;
	}
	if (!ok) {
		json_decref(r);
		protocol_error(p, "sent a malformed image record");
		return;
	}
	p->record = r;
	pull_advance(p);
}

static void on_exported(struct berth_pull *p)
{
	if (!p->export) {
		protocol_error(p, "wrote an image that it was not to write");
		return;
	}
	p->over = true;
	p->watch = berth_fdwatch_free(p->watch);
	p->sock = berth_close(p->sock);
	pull_end(p);
}

static void on_error(struct berth_pull *p, const json_t *j)
{
	struct berth_error *err = NULL;
	json_int_t code = json_integer_value(json_object_get(j, "code"));
	const char *text = json_string_value(json_object_get(j, "msg"));

	if (code < 1 || code > BERTH_UNAUTHENTICATED)
		code = BERTH_INTERNAL;
	berth_error_set(&err, (enum berth_code)code, "%s", text ? text : "berth-pull failed");
	pull_fail(p, err);
}

static void on_packet(struct berth_pull *p, const json_t *j, int *fd)
{
	const char *t = json_string_value(json_object_get(j, "t"));
	json_t *nj = json_object_get(j, "n");
	size_t n = json_is_integer(nj) && json_integer_value(nj) >= 0
	                   ? (size_t)json_integer_value(nj)
	                   : SIZE_MAX;
	bool has_n = n < p->n_layers && !p->have_waits;

	if (!t)
		protocol_error(p, "sent a packet without a type");
	else if (strcmp(t, "image") == 0)
		on_image(p, j);
	else if (strcmp(t, "layers") == 0)
		on_layers(p);
	else if (strcmp(t, "exported") == 0)
		on_exported(p);
	else if (strcmp(t, "record") == 0)
		on_record(p, *fd);
	else if (strcmp(t, "error") == 0)
		on_error(p, j);
	else if (strcmp(t, "host") == 0)
		pull_host_heard(p->d->images, json_string_value(json_object_get(j, "host")),
		        json_is_true(json_object_get(j, "up")));
	else if (!has_n)
		protocol_error(p, "speaks of a layer that the image does not have");
	else if (strcmp(t, "open") == 0)
		pull_open(p, n);
	else if (strcmp(t, "fetch") == 0)
		pull_fetch(p, n);
	else if (strcmp(t, "source") == 0)
		pull_source(p, n);
	else if (strcmp(t, "opaque") == 0)
		pull_opaque(p, n, berth_take_fd(fd));
	else if (strcmp(t, "unpacked") == 0)
		on_unpacked(p, j, n, *fd);
	else if (strcmp(t, "progress") == 0)
		on_progress(p, j, n);
	else
		protocol_error(p, "sent a packet of an unknown type");
}

static void on_readable(int sock, int events, void *arg)
{
	struct berth_pull *p = arg;
	(void)sock;
	(void)events;

	for (int i = 0; i < 32 && !p->over && p->jobs < PULL_MAX_JOBS; i++) {
		json_t *j;
		_cleanup_close_ int fd = -1;
		int r = pull_receive(p->sock, p->packet, BERTH_PULL_PACKET, &j, &fd);
		if (r == -EAGAIN)
			return;
		if (r == -EBADMSG) {
			protocol_error(p, "sent what is not JSON");
			return;
		}
		if (r < 0) {
			/* It is gone; its exit says more. */
			p->watch = berth_fdwatch_free(p->watch);
			return;
		}
		on_packet(p, j, &fd);
		json_decref(j);
	}
	if (p->jobs >= PULL_MAX_JOBS && p->watch)
		berth_fdwatch_change(p->watch, 0); /* until a job ends */
}

/* ---- the process ---- */

static void on_exit_of_puller(pid_t pid, int status, void *arg)
{
	struct berth_pull *p = arg;
	(void)pid;

	p->child = NULL;
	p->ended = true;
	if (!p->over && p->sock >= 0) {
		/* What it said last may still lie in the socket. */
		on_readable(p->sock, UV_READABLE, p);
		for (int i = 0; i < 64 && !p->over && p->watch; i++)
			on_readable(p->sock, UV_READABLE, p);
	}
	if (!p->over && p->n_images > 0 && !p->have_asked && status == 0) {
		p->over = true;
	} else if (!p->over) {
		struct berth_error *err = NULL;
		berth_error_set(&err, BERTH_INTERNAL, "pull of %s: berth-pull %s %d", p->key,
		        WIFSIGNALED(status) ? "was killed by signal" : "ended early with status",
		        WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		pull_fail(p, err);
	}
	pull_end(p);
}

/* Of our own environment it gets what tells libcurl of proxies. */
static char **puller_env(void)
{
	static const char *const names[] = {"http_proxy", "HTTP_PROXY", "https_proxy",
	        "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"};
	char **env = berth_strv_append(NULL, "PATH=/usr/sbin:/usr/bin:/sbin:/bin");

	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++) {
		const char *value = getenv(names[i]);
		_cleanup_free_ char *line = berth_asprintf("%s=%s", names[i], value ? value : "");
		if (value)
			env = berth_strv_append(env, line);
	}
	return env;
}

struct starting {
	struct berth_pull *p;
	int sock; /* its end of the socket */
	pid_t pid;
	int pidfd;
	struct berth_error *err;
};

static void start_work(void *arg)
{
	struct starting *s = arg;
	_cleanup_(berth_strv_freep) char **env = puller_env();

	(void)!pull_spawn(s->p->d, (const char *const *)env, s->sock, &s->pid, &s->pidfd,
	        &s->err); /* told to start_done */
}

static void start_done(void *arg)
{
	struct starting *s = arg;
	struct berth_pull *p = s->p;

	if (s->err) {
		p->ended = true;
		pull_fail(p, s->err);
		pull_end(p);
	} else {
		p->pid = s->pid;
		p->pidfd = s->pidfd;
		p->child = berth_child_watch(p->d->loop, p->pid, p->pidfd, on_exit_of_puller, p);
		if (p->over) /* given up meanwhile */
			(void)!berth_pidfd_kill(p->pidfd, SIGKILL);
	}
	free(s);
}

int pull_start(struct berth_pull *p, struct berth_error **ret_err)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return berth_error_errno(ret_err, errno, "pull of %s: a socket", p->key);
	int bytes = SOCKET_BYTES;
	for (int i = 0; i < 2; i++)
		setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	struct starting *s = berth_new(struct starting);
	*s = (struct starting){.p = p, .sock = pair[1], .pidfd = -1};
	/* Entering cgroups and the exec take milliseconds. */
	if (berth_work(p->d->flows, p->d->loop, start_work, start_done, s) < 0) {
		free(s);
		close(pair[0]);
		close(pair[1]);
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "pull of %s: too many requests are under way", p->key);
	}
	p->sock = pair[0];
	p->watch = berth_fdwatch_start(p->d->loop, p->sock, UV_READABLE, on_readable, p);
	return 0;
}

static const char *architecture(const char **ret_variant)
{
	static struct utsname u;
	*ret_variant = NULL;
	uname(&u);
	if (strcmp(u.machine, "x86_64") == 0)
		return "amd64";
	if (strcmp(u.machine, "aarch64") == 0) {
		*ret_variant = "v8";
		return "arm64";
	}
	if (strncmp(u.machine, "armv", 4) == 0) {
		*ret_variant = strncmp(u.machine, "armv6", 5) == 0 ? "v6" : "v7";
		return "arm";
	}
	if (strcmp(u.machine, "i686") == 0)
		return "386";
	return u.machine; /* ppc64le, s390x, riscv64 are called so by all */
}

static json_t *string_list(char *const *v)
{
	json_t *a = json_array();
	for (; v && *v; v++)
		json_array_append_new(a, json_string(*v));
	return a;
}

json_t *pull_first_packet(struct berth_pull *p, const struct berth_pull_request *r)
{
	const struct berth_config *c = p->d->config;
	uint64_t features = berth_instance_features(p->storage);
	const char *variant, *arch = architecture(&variant);
	_cleanup_free_ char *name = p->ref.repository ? berth_ref_name(&p->ref) : NULL;
	json_t *platform = r->platform ? json_incref(r->platform)
	                               : json_pack("{s:s, s:s, s:s*}", "os", "linux",
	                                         "architecture", arch, "variant", variant);
	json_t *how = json_pack("{s:o, s:I, s:b, s:s}", "platform", platform, "parallel",
	        (json_int_t)c->images.parallel_layers, "detached",
	        (features & BERTH_F_DETACHED_LAYERS) != 0, "whiteout",
	        (features & BERTH_F_WHITEOUT_OVERLAY) ? "overlay"
	        : (features & BERTH_F_WHITEOUT_AUFS)  ? "aufs"
	                                              : "delete");
	json_t *j = p->export   ? pull_export_packet(p)
	            : p->copied ? pull_copy_packet(p)
	                        : json_pack("{s:s}", "t", p->import ? "import" : "pull");
	json_object_update_missing(j, how);
	json_decref(how);
	if (p->copied)
		return j;
	if (p->import) {
		if (name)
			json_object_set_new(j, "ref", json_string(name));
		return j;
	}
	json_object_set_new(j, "image", json_string(name));
	json_object_set_new(j, "registries", json_string(c->images.registries));
	json_object_set_new(j, "certs_dirs", string_list(c->images.certs_dirs));
	json_object_set_new(j, "auth_files", string_list(c->images.auth_files));
	json_object_set_new(j, "down", pull_hosts_down(p->d->images));
	if (r->auth)
		json_object_set(j, "auth", r->auth);
	return j;
}
