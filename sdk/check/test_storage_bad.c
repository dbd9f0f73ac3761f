/* Storage as it is not meant to be used. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage.h"

#define INVALID BIT(BERTH_INVALID_ARGUMENT)
#define MISSING BIT(BERTH_NOT_FOUND)
#define EXISTS BIT(BERTH_ALREADY_EXISTS)
#define STATE BIT(BERTH_FAILED_PRECONDITION)

static void unknown(struct session *s)
{
	struct berth_snap_info i;

	session_start(s);
	storage_sweep(s);
	ended(s, snap_mounts(s, "nobody", NULL), MISSING, "nobody", "mounts of what is not there");
	ended(s, snap_stat(s, "nobody", &i), MISSING, "nobody", "stat of what is not there");
	ended(s, snap_commit(s, "nobody", "name", NULL), MISSING, "nobody",
	        "commit of what is not there");
	ended(s, snap_prepare(s, "ctr", "no-parent", NULL), MISSING, "no-parent",
	        "prepare on a parent that is not there");
	ended(s, snap_view(s, "look", "no-parent", NULL), MISSING, "no-parent",
	        "view of a parent that is not there");
	ended(s, snap_remove(s, "nobody"), OK, "nobody", "remove of what is not there");
	const struct berth_snap_info *const *v;
	expect(snap_list(s, &v) == 0, "what failed left '%s'", v[0]->key);
	session_stop(s);
}

static void taken(struct session *s)
{
	char a[128], b[128];
	struct desc *d = NULL;

	session_start(s);
	storage_sweep(s);
	two_layers(s, "taken", a, b);
	d = must_prepare(s, "ctr", b);
	on(s, d);
	put_file(s, "mine", "kept");
	off(s);
	desc_free(d);
	ended(s, snap_prepare(s, "ctr", b, NULL), EXISTS, "ctr", "prepare of what is there");
	ended(s, snap_view(s, "ctr", b, NULL), EXISTS, "ctr", "view of what is there");
	ended(s, snap_prepare(s, a, NULL, NULL), EXISTS, a, "prepare under a layer's name");
	ended(s, layer_prepare(s, "ctr", b, NULL), EXISTS, "ctr", "a layer under a name in use");
	/* A layer that another pull was faster with: the loser is told, and can be removed. */
	ended(s, layer_prepare(s, "pull-late", NULL, &d), OK, "pull-late", "prepare of a layer");
	ended(s, snap_commit(s, "pull-late", a, NULL), EXISTS, a, "commit under a name in use");
	desc_free(d);
	expect(snap_listed(s, "pull-late"), "a commit that failed lost its snapshot");
	must_remove(s, "pull-late");
	ended(s, snap_mounts(s, "ctr", &d), OK, "ctr", "mounts");
	on(s, d);
	see_file(s, "mine", "kept");
	see_two_layers(s);
	off(s);
	desc_free(d);
	storage_sweep(s);
	session_stop(s);
}

static void wrong_kind(struct session *s)
{
	char a[128], b[128];

	session_start(s);
	storage_sweep(s);
	two_layers(s, "kind", a, b);
	desc_free(must_prepare(s, "active", b));
	desc_free(must_view(s, "look", b));
	ended(s, snap_prepare(s, "x", "active", NULL), STATE | MISSING | INVALID, "active",
	        "prepare on what is not committed");
	ended(s, snap_view(s, "x", "look", NULL), STATE | MISSING | INVALID, "look",
	        "view of a view");
	ended(s, snap_commit(s, "look", "name", b), STATE | MISSING | INVALID, "look",
	        "commit of a view");
	ended(s, snap_commit(s, a, "name", NULL), STATE | MISSING | INVALID, a,
	        "commit of what is committed");
	ended(s, snap_mounts(s, a, NULL), STATE | MISSING, a, "mounts of what is committed");
	if (detached()) {
		const struct berth_snap_args args = {
		        .key = "x", .parent = a, .flags = BERTH_SNAP_F_LAYER};
		ended(s, snap_make(s, BERTH_OP_STORAGE_PREPARE, &args, NULL), INVALID, "x",
		        "prepare of a detached layer with a parent");
	}
	expect(!snap_listed(s, "x") && !snap_listed(s, "name"), "what failed left something");
	storage_sweep(s);
	session_stop(s);
}

static void flags(struct session *s)
{
	const uint32_t unknown_flag = 1u << 30;
	const struct berth_snap_args a = {
	        .size = sizeof(a), .key = "odd", .name = "name", .flags = unknown_flag};

	session_start(s);
	storage_sweep(s);
	ended(s, snap_make(s, BERTH_OP_STORAGE_PREPARE, &a, NULL), INVALID, "odd",
	        "prepare with an unknown flag");
	ended(s, snap_make(s, BERTH_OP_STORAGE_VIEW, &a, NULL), INVALID, "odd",
	        "view with an unknown flag");
	desc_free(must_prepare(s, "odd", NULL));
	ended(s, op(s, BERTH_OP_STORAGE_COMMIT, "odd", &a, NULL), INVALID, "odd",
	        "commit with an unknown flag");
	expect(snap_listed(s, "odd") && !snap_listed(s, "name"), "a commit that failed was made");
	must_remove(s, "odd");
	session_stop(s);
}

/* A name is kept as it is or refused; it never leaves the driver's own places. */
static void names(struct session *s)
{
	char longest[300];
	const char *const odd[] = {"sha256:0123456789abcdef", "with space", "a:b", "a,b", "a\\b",
	        "a=b", "\xc3\xbc", "-rf", ".hidden", "..", "../../escape", "/tmp/absolute", "a/b",
	        "%2e%2e", "new\nline", "*", longest};
	struct desc *d;

	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	session_start(s);
	storage_sweep(s);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(odd); i++) {
		int code = snap_prepare(s, odd[i], NULL, &d);
		ended(s, code, OK | INVALID, NULL, "prepare under an odd name");
		if (code != 0) {
			expect(i > 0, "a ChainID is no name for it: %s", s->err->msg);
			continue;
		}
		if (describes(d)) {
			on(s, d);
			put_file(s, "f", odd[i]);
			off(s);
		}
		desc_free(d);
		expect(snap_listed(s, odd[i]), "list does not have '%s' as it was named", odd[i]);
		ended(s, snap_mounts(s, odd[i], &d), OK, NULL, "mounts under an odd name");
		if (describes(d)) {
			on(s, d);
			see_file(s, "f", odd[i]);
			off(s);
		}
		desc_free(d);
		must_remove(s, odd[i]);
	}
	expect(access("/tmp/absolute", F_OK) < 0, "a name became a path");
	storage_sweep(s);
	session_stop(s);
}

static void nameless(struct session *s)
{
	struct berth_snap_info i;
	const char *const none[] = {NULL, ""};

	session_start(s);
	storage_sweep(s);
	for (size_t n = 0; n < 2; n++) {
		const char *k = none[n];
		ended(s, snap_prepare(s, k, NULL, NULL), INVALID, NULL, "prepare without a name");
		ended(s, snap_view(s, k, NULL, NULL), INVALID, NULL, "view without a name");
		ended(s, snap_mounts(s, k, NULL), INVALID | MISSING, NULL, "mounts without a name");
		ended(s, snap_stat(s, k, &i), INVALID | MISSING, NULL, "stat without a name");
		ended(s, snap_commit(s, k, "x", NULL), INVALID | MISSING, NULL,
		        "commit without a name");
		ended(s, snap_remove(s, k), INVALID | OK, NULL, "remove without a name");
		desc_free(must_prepare(s, "work", NULL));
		ended(s, snap_commit(s, "work", k, NULL), INVALID, NULL, "commit to no name");
		must_remove(s, "work");
	}
	session_stop(s);
}

static void twice(struct session *s)
{
	char a[128], b[128];

	session_start(s);
	storage_sweep(s);
	two_layers(s, "twice", a, b);
	desc_free(must_prepare(s, "ctr", b));
	desc_free(must_view(s, "look", b));
	const char *const all[] = {"ctr", "look", b, a};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(all); i++) {
		must_remove(s, all[i]);
		ended(s, snap_remove(s, all[i]), OK, all[i], "the second remove");
		expect(!snap_listed(s, all[i]), "list has '%s' after its removal", all[i]);
	}
	/* The names are free again. */
	two_layers(s, "twice", a, b);
	storage_sweep(s);
	session_stop(s);
}

/* A parent goes last, or its going harms nobody. */
static void with_children(struct session *s)
{
	char a[128], b[128];

	session_start(s);
	storage_sweep(s);
	two_layers(s, "parent", a, b);
	desc_free(must_prepare(s, "ctr", b));
	const char *const parents[] = {b, a};
	for (size_t i = 0; i < 2; i++) {
		int code = snap_remove(s, parents[i]);
		ended(s, code, OK | STATE, parents[i], "remove of a parent");
		if (code)
			expect(snap_listed(s, parents[i]), "a remove that failed was made");
	}
	struct desc *d = NULL;
	ended(s, snap_mounts(s, "ctr", &d), OK, "ctr", "mounts after the parents' removal");
	on(s, d);
	see_two_layers(s);
	off(s);
	desc_free(d);
	storage_sweep(s);
	session_stop(s);
}

/* What is still mounted: it may be busy, but nothing is lost or hangs. */
static void mounted(struct session *s)
{
	session_start(s);
	storage_sweep(s);
	const struct change c[] = {{FILE_IS, "f", "x"}};
	layer(s, "sha256:m", NULL, c, 1);
	struct desc *d = must_prepare(s, "ctr", "sha256:m");
	on(s, d);
	desc_free(d);
	int code = snap_remove(s, "ctr");
	ended(s, code, OK | STATE | BIT(BERTH_UNAVAILABLE), "ctr", "remove of what is mounted");
	off(s);
	must_remove(s, "ctr");
	storage_sweep(s);
	session_stop(s);
}

/* The host does not ask for what the feature bits lack. */
static void not_asked(struct session *s)
{
	const struct berth_idmap map = {.container_id = 0, .host_id = 100000, .count = 65536};
	const struct berth_snap_args mapped = {.key = "mapped",
	                                     .uid_maps = &map,
	                                     .gid_maps = &map,
	                                     .n_uid_maps = 1,
	                                     .n_gid_maps = 1},
	                             limited = {.key = "limited", .size_limit = 1 << 20};

	session_start(s);
	storage_sweep(s);
	if (!(check.features & BERTH_F_IDMAP))
		ended(s, snap_make(s, BERTH_OP_STORAGE_PREPARE, &mapped, NULL),
		        BIT(BERTH_UNIMPLEMENTED), "mapped", "maps for a driver without them");
	if (!(check.features & BERTH_F_QUOTA))
		ended(s, snap_make(s, BERTH_OP_STORAGE_PREPARE, &limited, NULL),
		        BIT(BERTH_UNIMPLEMENTED), "limited", "a limit for a driver without them");
	const struct berth_snap_info *const *v;
	(void)v;
	expect(snap_list(s, &v) == 0, "what failed left something");
	session_stop(s);
}

#define T(name, fn, meaning)                          \
	{                                             \
		name, KIND_STORAGE, true, fn, meaning \
	}
const struct test storage_bad_tests[] = {
        T("storage.unknown", unknown,
                "Ops on what is not there are NOT_FOUND and leave nothing; removing it is OK."),
        T("storage.taken", taken,
                "A name in use is ALREADY_EXISTS, and what has it is unharmed; a commit that lost "
                "leaves its snapshot."),
        T("storage.wrong-kind", wrong_kind,
                "A parent must be committed, a commit takes an active snapshot, and what is "
                "committed is not mounted."),
        T("storage.flags", flags, "Unknown flags are INVALID."),
        T("storage.names", names,
                "Any name is kept as it is, or INVALID; a ChainID is kept. No name becomes a "
                "path."),
        T("storage.nameless", nameless, "Without a name: INVALID."),
        T("storage.twice", twice, "The second remove is OK, and the name is free."),
        T("storage.children", with_children,
                "A parent cannot be removed (FAILED_PRECONDITION), or its children do not miss "
                "it."),
        T("storage.busy", mounted,
                "Removing what is mounted works or fails clearly; when it is not any more, it "
                "works."),
        T("storage.not-asked", not_asked,
                "Maps of ids and limits do not reach a driver without the feature bit: "
                "UNIMPLEMENTED."),
        {0}};
