/* What the feature bits promise. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "mount/mount.h"
#include "storage.h"

/* ---- maps of ids ---- */

#define HOST_ID 300000
#define IDS 65536

static void write_map(pid_t pid, const char *name)
{
	_cleanup_free_ char *path = berth_asprintf("/proc/%d/%s", (int)pid, name);
	_cleanup_free_ char *map = berth_asprintf("0 %d %d", HOST_ID, IDS);
	int r = berth_write_value(path, map);

	expect(r == 0, "%s: %s", path, strerror(-r));
}

/* A user namespace with the map, as an fd. */
static int user_namespace(void)
{
	int ready[2], go[2];
	char c;

	expect(pipe2(ready, O_CLOEXEC) == 0 && pipe2(go, O_CLOEXEC) == 0, "pipe");
	pid_t pid = fork();
	if (pid == 0) {
		if (unshare(CLONE_NEWUSER) < 0)
			_exit(1);
		(void)!write(ready[1], "", 1);
		close(go[1]);
		(void)!read(go[0], &c, 1);
		_exit(0);
	}
	close(ready[1]);
	close(go[0]);
	if (read(ready[0], &c, 1) != 1)
		skip("no user namespaces here");
	write_map(pid, "uid_map");
	write_map(pid, "gid_map");
	_cleanup_free_ char *path = berth_asprintf("/proc/%d/ns/user", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	expect(fd >= 0, "%s: %s", path, strerror(errno));
	close(ready[0]);
	close(go[1]);
	waitpid(pid, NULL, 0);
	return fd;
}

static void owner_is(struct session *s, const char *path, uid_t uid)
{
	_cleanup_free_ char *p = berth_asprintf("%s/%s", s->mnt, path);
	struct stat st;

	expect(lstat(p, &st) == 0, "%s: %s", path, strerror(errno));
	expect(st.st_uid == uid && st.st_gid == uid, "\"%s\" belongs to %u:%u, not to %u", path,
	        st.st_uid, st.st_gid, uid);
}

static void mapped(struct session *s)
{
	const struct berth_idmap map = {.container_id = 0, .host_id = HOST_ID, .count = IDS};
	const struct berth_snap_args args = {.key = "ctr",
	        .parent = "sha256:map",
	        .uid_maps = &map,
	        .gid_maps = &map,
	        .n_uid_maps = 1,
	        .n_gid_maps = 1};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_free_ char *scratch = berth_asprintf("%s/layers", s->dir);
	struct desc *d = NULL;

	if (!(check.features & BERTH_F_IDMAP))
		skip("without BERTH_F_IDMAP");
	int fd = user_namespace();
	session_start(s);
	storage_sweep(s);
	const struct change c[] = {{FILE_IS, "f", "x"}, {FILE_IS, "d/g", "y"}};
	layer(s, "sha256:map", NULL, c, 2);
	ended(s, snap_make(s, BERTH_OP_STORAGE_PREPARE, &args, &d), OK, "ctr", "prepare with maps");
	const struct berth_mount_how how = {.userns_fd = fd, .scratch = scratch};
	if (berth_mount_apply_as(&d->r, s->mnt, &how, &err) < 0) {
		if (err->code == BERTH_FAILED_PRECONDITION)
			skip("%s", err->msg);
		fail("%s", err->msg);
	}
	owner_is(s, "", HOST_ID);
	owner_is(s, "f", HOST_ID);
	owner_is(s, "d/g", HOST_ID);
	off(s);
	desc_free(d);
	d = must_prepare(s, "plain", "sha256:map"); /* the layer is as it was */
	on(s, d);
	owner_is(s, "f", 0);
	off(s);
	desc_free(d);
	close(fd);
	storage_sweep(s);
	session_stop(s);
}

/* ---- limits ---- */

/* The least that it takes counts: a file system of its own begins with more. */
static const uint64_t limits[] = {8ull << 20, 64ull << 20, 512ull << 20};

/* How much fits; the errno that ended it. */
static uint64_t fill(struct session *s, uint64_t most, int *ret_errno)
{
	_cleanup_free_ char *p = berth_asprintf("%s/big", s->mnt);
	static char block[1 << 20];
	_cleanup_close_ int fd = open(p, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	uint64_t n = 0;

	expect(fd >= 0, "%s: %s", p, strerror(errno));
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (char)any_number(256);
	*ret_errno = 0;
	while (n < most && *ret_errno == 0) {
		ssize_t w = write(fd, block, sizeof(block));
		if (w < 0 || fsync(fd) < 0)
			*ret_errno = errno;
		n += w > 0 ? (uint64_t)w : 0;
	}
	return n;
}

/* prepare with the least limit that is taken; which that is. */
static uint64_t prepare_limited(struct session *s, struct desc **ret)
{
	struct berth_snap_args a = {.key = "small", .parent = "sha256:q"};
	const unsigned int may_be = OK | BIT(BERTH_FAILED_PRECONDITION) | BIT(BERTH_UNIMPLEMENTED);

	for (size_t i = 0; i < BERTH_ARRAY_LEN(limits); i++) {
		bool last = i + 1 == BERTH_ARRAY_LEN(limits);
		a.size_limit = limits[i];
		int code = snap_make(s, BERTH_OP_STORAGE_PREPARE, &a, ret);
		ended(s, code, may_be | (last ? 0u : BIT(BERTH_INVALID_ARGUMENT)), "small",
		        "prepare with a limit");
		if (code)
			expect(!snap_listed(s, "small"), "a prepare that failed was made");
		if (code && code != BERTH_INVALID_ARGUMENT)
			skip("no limits here");
		if (code == 0)
			return limits[i];
	}
	return 0;
}

static void limited(struct session *s)
{
	struct desc *d = NULL;
	int e = 0;

	if (!(check.features & BERTH_F_QUOTA))
		skip("without BERTH_F_QUOTA");
	session_start(s);
	storage_sweep(s);
	const struct change c[] = {{FILE_IS, "f", "x"}};
	layer(s, "sha256:q", NULL, c, 1);
	unsigned long long limit = prepare_limited(s, &d);
	on(s, d);
	unsigned long long n = fill(s, 4 * limit, &e);
	expect(e == ENOSPC || e == EDQUOT, "of a limit of %llu bytes %llu are taken, then: %s",
	        limit, n, strerror(e));
	expect(n > limit / 4 && n < limit * 2, "of a limit of %llu bytes %llu can be used", limit,
	        n);
	off(s);
	desc_free(d);
	/* A neighbour has no limit but its driver's own, and a restart keeps the first one's. */
	d = must_prepare(s, "large", "sha256:q");
	on(s, d);
	n = fill(s, limits[0] * 2, &e);
	expect(e == 0, "a snapshot without a limit takes %llu bytes: %s", n, strerror(e));
	off(s);
	desc_free(d);
	session_stop(s);
	session_start(s);
	ended(s, snap_mounts(s, "small", &d), OK, "small", "mounts");
	on(s, d);
	(void)fill(s, 4 * limit, &e);
	expect(e == ENOSPC || e == EDQUOT, "after a restart the limit is gone");
	off(s);
	desc_free(d);
	storage_sweep(s);
	session_stop(s);
}

/* ---- many at once ---- */

#define LANES 6
#define CHAIN 4

struct stress {
	struct session *s;
	unsigned int lanes;
	char wrong[512];
};

/* One client: pulls CHAIN layers that all pull, then a container comes and goes. */
struct client {
	struct stress *all;
	unsigned int number, step, rounds;
	struct flight *f;
	char key[64], name[64], parent[64];
	struct berth_mounts_result r;
	struct berth_snap_info info;
};

static void next_step(struct flight *f);

static void fly(struct client *c, enum berth_opcode opcode, uint32_t flag_bits, const char *parent,
        const char *name)
{
	const struct berth_snap_args a = {.size = sizeof(a),
	        .key = c->key,
	        .parent = parent,
	        .name = name,
	        .flags = flag_bits};

	c->f = flight_start(c->all->s, opcode, c->key, &a,
	        opcode == BERTH_OP_STORAGE_STAT ? (void *)&c->info : (void *)&c->r, next_step, c);
}

/* Steps of a layer: prepare, commit, remove what was late; of a container: prepare, stat, remove.
 */
static void begin_step(struct client *c)
{
	unsigned int n = c->step / 3, part = c->step % 3;
	bool first = n == 0;

	snprintf(c->key, sizeof(c->key), n < CHAIN ? "pull-%u-%u" : "ctr-%u", c->number, n);
	snprintf(c->name, sizeof(c->name), "sha256:s%u", n);
	snprintf(c->parent, sizeof(c->parent), "sha256:s%u", n - 1);
	if (n < CHAIN && part == 0)
		fly(c, BERTH_OP_STORAGE_PREPARE, BERTH_SNAP_F_LAYER,
		        first || detached() ? NULL : c->parent, NULL);
	else if (n < CHAIN && part == 1)
		fly(c, BERTH_OP_STORAGE_COMMIT, 0, first ? NULL : c->parent, c->name);
	else if (n < CHAIN || part == 2)
		fly(c, BERTH_OP_STORAGE_REMOVE, 0, NULL, NULL);
	else if (part == 0)
		fly(c, BERTH_OP_STORAGE_PREPARE, 0, c->parent, NULL);
	else
		fly(c, BERTH_OP_STORAGE_STAT, 0, NULL, NULL);
}

static void next_step(struct flight *f)
{
	struct client *c = f->arg;
	bool commit = f->op == BERTH_OP_STORAGE_COMMIT;

	if (f->code && !(commit && f->code == BERTH_ALREADY_EXISTS) && !*c->all->wrong)
		snprintf(c->all->wrong, sizeof(c->all->wrong), "%s of %s: %s", berth_op_name(f->op),
		        f->object, f->msg);
	flight_end(f);
	c->step++;
	if (c->step == 3 * (CHAIN + 1)) {
		c->step = 3 * CHAIN; /* containers come and go */
		if (--c->rounds == 0) {
			c->all->lanes--;
			return;
		}
	}
	begin_step(c);
}

static void crowd(struct session *s)
{
	struct client clients[LANES] = {0};
	struct stress all = {.s = s, .lanes = LANES};

	session_start(s);
	storage_sweep(s);
	for (unsigned int i = 0; i < LANES; i++) {
		clients[i] =
		        (struct client){.all = &all, .number = i, .rounds = check.brief ? 5 : 25};
		begin_step(&clients[i]);
	}
	for (unsigned int ms = 0; all.lanes && ms < 90000; ms += 10) {
		const struct berth_snap_info *const *v;
		(void)snap_list(s, &v); /* meanwhile */
		session_idle(s, 10);
	}
	expect(!all.lanes, "%u of %d clients wait for ever", all.lanes, LANES);
	expect(!*all.wrong, "%s", all.wrong);
	const struct berth_snap_info *const *v;
	uint32_t n = snap_list(s, &v);
	expect(n == CHAIN, "%u snapshots are left and not the %d layers", n, CHAIN);
	storage_sweep(s);
	session_stop(s);
}

/* ---- cancelled ---- */

/* An op that is cancelled, or whose deadline passes, at any moment: it returns soon, and what it
 * left is nothing or all. */
static void interrupt(struct session *s, unsigned int round, bool deadline)
{
	char key[64];
	bool making = round % 2 == 0;
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = {.size = sizeof(a), .key = key, .parent = "sha256:big"};

	snprintf(key, sizeof(key), "ctr-%u", round);
	if (!making)
		desc_free(must_prepare(s, key, "sha256:big"));
	int code = op_interrupted(s, making ? BERTH_OP_STORAGE_PREPARE : BERTH_OP_STORAGE_REMOVE,
	        key, &a, &r, any_number(check.brief ? 5000 : 20000) * 1000ull + 1, deadline);
	if (code == 0)
		expect(making == (snap_listed(s, key) != NULL), "list is wrong about '%s'", key);
	if (!snap_listed(s, key))
		desc_free(must_prepare(s, key, "sha256:big"));
	struct desc *d = NULL;
	ended(s, snap_mounts(s, key, &d), OK, key, "mounts of what was interrupted");
	on(s, d);
	see_file(s, "last", "whole"); /* never a half */
	off(s);
	desc_free(d);
	must_remove(s, key);
}

static void big_layer(struct session *s)
{
	struct desc *d = NULL;
	char path[64];

	ended(s, layer_prepare(s, "pull-big", NULL, &d), OK, "pull-big", "prepare of a layer");
	on(s, d);
	for (int i = 0; i < 400; i++) {
		snprintf(path, sizeof(path), "d%d/f%d", i % 20, i);
		put_file(s, path, path);
	}
	put_file(s, "last", "whole");
	off(s);
	desc_free(d);
	ended(s, snap_commit(s, "pull-big", "sha256:big", NULL), OK, "pull-big", "commit");
}

static void interrupted(struct session *s, bool deadline)
{
	session_start(s);
	storage_sweep(s);
	big_layer(s);
	for (unsigned int i = 0; i < (check.brief ? 10u : 60u); i++)
		interrupt(s, i, deadline);
	storage_sweep(s);
	session_stop(s);
}

static void cancelled(struct session *s)
{
	interrupted(s, false);
}

static void late(struct session *s)
{
	interrupted(s, true);
}

#define T(name, fn, meaning)                          \
	{                                             \
		name, KIND_STORAGE, true, fn, meaning \
	}
const struct test storage_feature_tests[] = {
        T("storage.idmap", mapped,
                "BERTH_F_IDMAP: mounted by the host with the map, everything belongs to the mapped "
                "ids; the layer is as it was."),
        T("storage.quota", limited,
                "BERTH_F_QUOTA: a snapshot takes no more than its limit, also after a restart; "
                "others have none."),
        T("storage.crowd", crowd,
                "Clients that pull the same layers at once: each is stored once, the others are "
                "told; containers come and go meanwhile."),
        T("storage.cancel", cancelled,
                "A cancelled op returns within 2 s, and what it left is nothing or all."),
        T("storage.deadline", late, "So does one whose deadline passes."), {0}};
