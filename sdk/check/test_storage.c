/* Storage as it is meant to be used. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "storage.h"

static void begin(struct session *s)
{
	session_start(s);
	storage_sweep(s); /* with --state: what was there */
}

static void end(struct session *s)
{
	storage_sweep(s);
	if (has(s, BERTH_OP_STORAGE_CLEANUP))
		ended(s, op(s, BERTH_OP_STORAGE_CLEANUP, NULL, NULL, NULL), OK, NULL, "cleanup");
	session_stop(s);
}

static void prepared(struct session *s)
{
	struct berth_snap_info i;

	begin(s);
	struct desc *d = must_prepare(s, "ctr-1", NULL);
	if (!describes(d))
		skip("the driver describes no mounts");
	on(s, d);
	put_file(s, "etc/hello", "world");
	off(s);
	desc_free(d);
	ended(s, snap_mounts(s, "ctr-1", &d), OK, "ctr-1", "mounts");
	on(s, d);
	see_file(s, "etc/hello", "world");
	off(s);
	desc_free(d);
	ended(s, snap_stat(s, "ctr-1", &i), OK, "ctr-1", "stat");
	expect(i.kind == BERTH_SNAP_ACTIVE, "stat: kind %u, not active", i.kind);
	expect(i.key && strcmp(i.key, "ctr-1") == 0, "stat: its key is \"%s\"", i.key ? i.key : "");
	expect(!i.parent || !*i.parent, "stat: a parent where there is none");
	const struct berth_snap_info *l = snap_listed(s, "ctr-1");
	expect(l && l->kind == BERTH_SNAP_ACTIVE, "list does not have it as active");
	must_remove(s, "ctr-1");
	expect(!snap_listed(s, "ctr-1"), "list has what was removed");
	end(s);
}

static void root_directory(struct session *s)
{
	struct stat st;
	char a[128], b[128];

	begin(s);
	two_layers(s, "root", a, b);
	struct desc *d = must_prepare(s, "ctr", b);
	on(s, d);
	expect(stat(s->mnt, &st) == 0, "stat: %s", strerror(errno));
	expect((st.st_mode & 07777) == 0755, "the root directory has the mode %04o, not 0755",
	        (unsigned int)st.st_mode & 07777);
	expect(st.st_uid == 0 && st.st_gid == 0, "the root directory belongs to %u:%u", st.st_uid,
	        st.st_gid);
	off(s);
	desc_free(d);
	end(s);
}

static void committed(struct session *s)
{
	struct berth_snap_info i;

	begin(s);
	struct desc *d = must_prepare(s, "work", NULL);
	if (!describes(d))
		skip("the driver describes no mounts");
	on(s, d);
	put_file(s, "f", "base");
	off(s);
	desc_free(d);
	ended(s, snap_commit(s, "work", "base", NULL), OK, "work", "commit");
	expect(!snap_listed(s, "work"), "after a commit the active snapshot is still listed");
	ended(s, snap_stat(s, "base", &i), OK, "base", "stat");
	expect(i.kind == BERTH_SNAP_COMMITTED, "stat: kind %u, not committed", i.kind);
	/* A child sees it, and changes nothing of it. */
	d = must_prepare(s, "child", "base");
	on(s, d);
	see_file(s, "f", "base");
	put_file(s, "f", "changed");
	put_file(s, "g", "new");
	off(s);
	desc_free(d);
	ended(s, snap_stat(s, "child", &i), OK, "child", "stat");
	expect(i.parent && strcmp(i.parent, "base") == 0, "stat: its parent is \"%s\"",
	        i.parent ? i.parent : "");
	struct desc *other = must_prepare(s, "other", "base");
	on(s, other);
	see_file(s, "f", "base");
	see_file(s, "g", NULL);
	off(s);
	desc_free(other);
	ended(s, snap_commit(s, "child", "base-2", "base"), OK, "child", "commit of a child");
	other = must_view(s, "look", "base-2");
	on(s, other);
	see_file(s, "f", "changed");
	see_file(s, "g", "new");
	off(s);
	desc_free(other);
	end(s);
}

static void viewed(struct session *s)
{
	char a[128], b[128];
	const char *const parents[] = {a, b};

	begin(s);
	two_layers(s, "view", a, b);
	for (size_t i = 0; i < 2; i++) {
		char key[32];
		snprintf(key, sizeof(key), "view-%zu", i);
		struct desc *d = must_view(s, key, parents[i]);
		on(s, d);
		see_file(s, "a", i ? "another" : "one");
		_cleanup_free_ char *p = berth_asprintf("%s/new", s->mnt);
		int fd = open(p, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		expect(fd < 0 && errno == EROFS, "a view of '%s' can be written to", parents[i]);
		off(s);
		desc_free(d);
		const struct berth_snap_info *l = snap_listed(s, key);
		expect(l && l->kind == BERTH_SNAP_VIEW, "list does not have '%s' as a view", key);
	}
	end(s);
}

static void layers(struct session *s)
{
	char a[128], b[128];

	begin(s);
	two_layers(s, "layers", a, b);
	struct desc *d = must_view(s, "image", b);
	on(s, d);
	see_two_layers(s);
	off(s);
	desc_free(d);
	d = must_prepare(s, "ctr", b);
	on(s, d);
	see_two_layers(s);
	put_file(s, "a", "the container's");
	off(s);
	desc_free(d);
	d = must_view(s, "again", b);
	on(s, d);
	see_two_layers(s); /* what a container writes stays its own */
	off(s);
	desc_free(d);
	d = must_view(s, "lower", a);
	on(s, d);
	see_file(s, "a", "one");
	see_file(s, "dir/b", "two");
	see_file(s, "old/y", "y");
	off(s);
	desc_free(d);
	end(s);
}

/* With DETACHED_LAYERS: the upper one is there before the lower one is. */
static void any_order(struct session *s)
{
	const struct change one[] = {{FILE_IS, "f", "low"}, {FILE_IS, "g", "low"}},
	                    two[] = {{FILE_IS, "f", "high"}};
	struct desc *low = NULL, *high = NULL;

	if (!detached())
		skip("without BERTH_F_DETACHED_LAYERS");
	begin(s);
	ended(s, layer_prepare(s, "pull-2", NULL, &high), OK, "pull-2", "prepare of a layer");
	layer_fill(s, high, two, 1);
	ended(s, layer_prepare(s, "pull-1", NULL, &low), OK, "pull-1", "prepare of a layer");
	layer_fill(s, low, one, 2);
	ended(s, snap_commit(s, "pull-1", "sha256:1", NULL), OK, "pull-1", "commit of a layer");
	ended(s, snap_commit(s, "pull-2", "sha256:2", "sha256:1"), OK, "pull-2",
	        "commit of a layer");
	desc_free(low);
	desc_free(high);
	struct desc *d = must_prepare(s, "ctr", "sha256:2");
	on(s, d);
	see_file(s, "f", "high");
	see_file(s, "g", "low");
	off(s);
	desc_free(d);
	end(s);
}

#define DEEP 100

static void deep(struct session *s)
{
	char name[64], parent[64], file[64], text[64];
	uint64_t began = berth_now_ns();

	begin(s);
	for (int i = 0; i < DEEP; i++) {
		snprintf(name, sizeof(name), "sha256:deep-%d", i);
		snprintf(parent, sizeof(parent), "sha256:deep-%d", i - 1);
		snprintf(file, sizeof(file), "d/%d", i);
		snprintf(text, sizeof(text), "layer %d", i);
		const struct change v[] = {{FILE_IS, "top", text}, {FILE_IS, file, text}};
		layer(s, name, i ? parent : NULL, v, 2);
	}
	uint64_t made = berth_now_ns();
	struct desc *d = must_prepare(s, "ctr", name);
	on(s, d);
	note("%d layers stored in %llu ms; a container on them in %llu ms", DEEP,
	        (unsigned long long)(made - began) / 1000000,
	        (unsigned long long)(berth_now_ns() - made) / 1000000);
	see_file(s, "top", text);
	for (int i = 0; i < DEEP; i++) {
		snprintf(file, sizeof(file), "d/%d", i);
		snprintf(text, sizeof(text), "layer %d", i);
		see_file(s, file, text);
	}
	put_file(s, "d/50", "written");
	see_file(s, "d/50", "written");
	off(s);
	desc_free(d);
	end(s);
}

static void listed(struct session *s)
{
	enum { N = 60 };
	const struct berth_snap_info *const *v;
	char key[64];
	unsigned int kinds[4] = {0};

	begin(s);
	const struct change c[] = {{FILE_IS, "f", "x"}};
	layer(s, "sha256:base", NULL, c, 1);
	for (int i = 0; i < N; i++) {
		snprintf(key, sizeof(key), "snap-%d", i);
		desc_free(i % 2 ? must_view(s, key, "sha256:base")
		                : must_prepare(s, key, "sha256:base"));
	}
	uint32_t n = snap_list(s, &v);
	expect(n == N + 1, "list has %u snapshots of %d", n, N + 1);
	for (uint32_t i = 0; i < n; i++) {
		expect(v[i]->kind >= 1 && v[i]->kind <= 3, "list: '%s' has the kind %u", v[i]->key,
		        v[i]->kind);
		kinds[v[i]->kind]++;
		if (v[i]->kind != BERTH_SNAP_COMMITTED)
			expect(v[i]->parent && strcmp(v[i]->parent, "sha256:base") == 0,
			        "list: '%s' has the parent \"%s\"", v[i]->key,
			        v[i]->parent ? v[i]->parent : "");
		uint64_t age = berth_realtime_ns() - v[i]->created_ns;
		expect(v[i]->created_ns && age < 3600000000000ull, "list: '%s' was made at %llu",
		        v[i]->key, (unsigned long long)v[i]->created_ns);
	}
	expect(kinds[1] == N / 2 && kinds[2] == N / 2 && kinds[3] == 1, "list: other kinds");
	for (int i = 0; i < N; i++) {
		snprintf(key, sizeof(key), "snap-%d", i);
		expect(snap_listed(s, key), "list lacks '%s'", key);
	}
	end(s);
}

/* A restart of the machine: what was mounted is not, and the run directory is empty. */
static void rebooted(struct session *s)
{
	char a[128], b[128];

	begin(s);
	two_layers(s, "boot", a, b);
	desc_free(must_prepare(s, "never-mounted", b));
	const struct berth_snap_info *const *v;
	uint32_t n = snap_list(s, &v);
	session_stop(s);
	int r = berth_rm_tree(AT_FDCWD, s->run_root);
	expect(r == 0 && mkdir(s->run_root, 0711) == 0, "%s: %s", s->run_root, strerror(-r));
	session_start(s);
	expect(snap_list(s, &v) == n, "after a restart list has %u snapshots of %u",
	        snap_list(s, &v), n);
	struct desc *d = must_view(s, "look", b);
	on(s, d);
	see_two_layers(s);
	off(s);
	desc_free(d);
	end(s);
}

/* Asked once: a driver may keep what it has counted for a while. */
static void usage(struct session *s)
{
	struct berth_snap_info i;
	enum { SIZE = 4 << 20 };

	begin(s);
	const struct change c[] = {{FILE_IS, "f", "x"}};
	layer(s, "sha256:usage", NULL, c, 1);
	struct desc *d = must_prepare(s, "ctr", "sha256:usage");
	on(s, d);
	char *text = berth_zalloc(SIZE + 1);
	for (size_t n = 0; n < SIZE; n++)
		text[n] = (char)('a' + any_number(26));
	put_file(s, "big", text);
	free(text);
	int fd = open(s->mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	expect(fd >= 0 && syncfs(fd) == 0, "syncfs: %s", strerror(errno));
	close(fd);
	off(s);
	desc_free(d);
	ended(s, snap_stat(s, "ctr", &i), OK, "ctr", "stat");
	if (i.bytes == 0)
		note("stat() does not know bytes: the host counts them");
	else
		expect(i.bytes >= SIZE / 2 && i.bytes < SIZE * 4ull,
		        "stat: %llu bytes, of which %d were written", (unsigned long long)i.bytes,
		        SIZE);
	end(s);
}

static void tour(struct session *s, unsigned int round)
{
	char a[128], b[128], name[32], key[48];
	struct berth_snap_info i;

	snprintf(name, sizeof(name), "tour-%u", round);
	snprintf(key, sizeof(key), "ctr-%u", round);
	two_layers(s, name, a, b);
	struct desc *d = must_prepare(s, key, b);
	on(s, d);
	put_file(s, "written", "x");
	off(s);
	desc_free(d);
	ended(s, snap_mounts(s, key, NULL), OK, key, "mounts");
	ended(s, snap_stat(s, key, &i), OK, key, "stat");
	(void)snap_prepare(s, key, b, NULL); /* and what fails */
	(void)snap_prepare(s, "orphan", "no-parent", NULL);
	(void)snap_view(s, "orphan", "no-parent", NULL);
	(void)snap_mounts(s, "nobody", NULL);
	(void)snap_stat(s, "nobody", &i);
	(void)snap_commit(s, "nobody", "nothing", NULL);
	(void)snap_commit(s, key, a, b);
	ended(s, snap_remove(s, "nobody"), OK, "nobody", "remove of nothing");
	snprintf(name, sizeof(name), "view-%u", round);
	desc_free(must_view(s, name, b));
	must_remove(s, name);
	must_remove(s, key);
	must_remove(s, b);
	must_remove(s, a);
	storage_sweep(s);
	if (has(s, BERTH_OP_STORAGE_CLEANUP))
		ended(s, op(s, BERTH_OP_STORAGE_CLEANUP, NULL, NULL, NULL), OK, NULL, "cleanup");
}

const struct kind kind_storage = {.name = "storage", .tour = tour, .sweep = storage_sweep};

#define T(name, fn, meaning)                          \
	{                                             \
		name, KIND_STORAGE, true, fn, meaning \
	}
const struct test storage_tests[] = {
        T("storage.prepare", prepared,
                "What an active snapshot holds is there again when it is mounted again; stat and "
                "list know it; removed it is gone."),
        T("storage.root", root_directory,
                "The root of a container's file system is root's, with the mode 0755."),
        T("storage.commit", committed,
                "A child has its parent's content, and changes nothing of the parent."),
        T("storage.view", viewed, "A view cannot be written to."),
        T("storage.layers", layers,
                "Layers add, change, delete and replace as image layers do, with deletions "
                "written as the feature bits say."),
        T("storage.any-order", any_order,
                "BERTH_F_DETACHED_LAYERS: layers unpack in any order, and learn their parent at "
                "commit."),
        T("storage.deep", deep, "An image of 100 layers; each of its files is there."),
        T("storage.list", listed,
                "list() has each snapshot once, with its kind, its parent and when it was made."),
        T("storage.reboot", rebooted,
                "With run_dir empty and nothing mounted everything is found again."),
        T("storage.usage", usage, "stat() answers 0, or about as many bytes as were written."),
        {0}};
