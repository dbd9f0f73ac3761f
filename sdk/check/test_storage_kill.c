/* Hosts that are killed: what was acknowledged is there, and nothing half-made is used. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "storage.h"

/* ---- between any two ops ---- */

#define STEPS 10

/* A pull of two layers, a container and a view, and the end of all. What list() must have after
 * each step. */
static const char *const after[STEPS + 1] = {"", "pull-1", "sha256:1", "sha256:1 pull-2",
        "sha256:1 sha256:2", "sha256:1 sha256:2 ctr", "sha256:1 sha256:2 ctr look",
        "sha256:1 sha256:2 ctr", "sha256:1 sha256:2", "sha256:1", ""};
static const struct change changes[2][2] = {{{FILE_IS, "f", "low"}, {FILE_IS, "g", "low"}},
        {{FILE_IS, "f", "high"}, {FILE_GONE, "g", NULL}}};

static void make_layer(struct session *s, int n)
{
	struct desc *d = NULL;
	char key[16];

	snprintf(key, sizeof(key), "pull-%d", n);
	ended(s, layer_prepare(s, key, n > 1 ? "sha256:1" : NULL, &d), OK, key,
	        "prepare of a layer");
	if (!describes(d))
		skip("the driver describes no mounts");
	layer_fill(s, d, changes[n - 1], 2);
	desc_free(d);
}

static void step(struct session *s, int n)
{
	switch (n) {
	case 0:
		make_layer(s, 1);
		break;
	case 1:
		ended(s, snap_commit(s, "pull-1", "sha256:1", NULL), OK, "pull-1", "commit");
		break;
	case 2:
		make_layer(s, 2);
		break;
	case 3:
		ended(s, snap_commit(s, "pull-2", "sha256:2", "sha256:1"), OK, "pull-2", "commit");
		break;
	case 4: {
		struct desc *d = must_prepare(s, "ctr", "sha256:2");
		on(s, d);
		put_file(s, "mine", "kept");
		off(s);
		desc_free(d);
		break;
	}
	case 5:
		desc_free(must_view(s, "look", "sha256:2"));
		break;
	default:
		must_remove(s, (const char *const[]){"look", "ctr", "sha256:2", "sha256:1"}[n - 6]);
	}
}

static void see_list(struct session *s, int n)
{
	const struct berth_snap_info *const *v;
	_cleanup_free_ char *want = berth_strdup(after[n]);
	uint32_t have = snap_list(s, &v), wanted = 0;
	char *save = NULL;

	for (uint32_t i = 0; i < have; i++)
		expect(strstr(after[n], v[i]->key), "killed after step %d, and list has '%s'", n,
		        v[i]->key);
	for (char *k = strtok_r(want, " ", &save); k; k = strtok_r(NULL, " ", &save), wanted++)
		expect(snap_listed(s, k), "killed after step %d, and list lacks '%s'", n, k);
	expect(snap_list(s, &v) == wanted, "list has more than it should");
}

static void see_content(struct session *s, int n)
{
	struct desc *d = NULL;

	if (n < 5 || n > 7)
		return;
	ended(s, snap_mounts(s, "ctr", &d), OK, "ctr", "mounts");
	on(s, d);
	see_file(s, "f", "high");
	see_file(s, "g", NULL);
	see_file(s, "mine", "kept");
	off(s);
	desc_free(d);
}

static void first_part(struct session *s, void *arg)
{
	int n = *(int *)arg;

	storage_sweep(s);
	for (int i = 0; i < n; i++)
		step(s, i);
	host_dies();
}

static void second_part(struct session *s, void *arg)
{
	int n = *(int *)arg;

	see_list(s, n);
	see_content(s, n);
	if (has(s, BERTH_OP_STORAGE_CLEANUP))
		ended(s, op(s, BERTH_OP_STORAGE_CLEANUP, NULL, NULL, NULL), OK, NULL, "cleanup");
	see_list(s, n);
	see_content(s, n);
	for (int i = n; i < STEPS; i++)
		step(s, i);
	see_list(s, STEPS);
}

static void between(struct session *s)
{
	for (int n = 0; n <= STEPS; n++) {
		expect(!host_run(s, first_part, &n, 0), "the host was not killed");
		(void)host_run(s, second_part, &n, 0);
	}
}

/* ---- in the middle of one ---- */

struct mark {
	int begun, done; /* round and phase, see below */
};
static struct mark *marks; /* shared */

/* Endlessly: a layer is stored, a container made and written, and all removed. */
static void churn(struct session *s, void *arg)
{
	const struct change v[] = {{FILE_IS, "f", "whole"}, {FILE_IS, "g", "whole"}};
	char name[48], key[48];

	(void)arg;
	for (int round = marks->done / 4 + 1;; round++) {
		snprintf(name, sizeof(name), "sha256:r%d", round);
		snprintf(key, sizeof(key), "ctr-%d", round);
		marks->begun = round * 4;
		layer(s, name, NULL, v, 2);
		marks->done = round * 4;
		marks->begun = round * 4 + 1;
		desc_free(must_prepare(s, key, name));
		marks->done = round * 4 + 1;
		marks->begun = round * 4 + 2;
		must_remove(s, key);
		marks->done = round * 4 + 2;
		marks->begun = round * 4 + 3;
		must_remove(s, name);
		marks->done = round * 4 + 3;
	}
}

/* Is it there (1), is it not (0), or may it be either (-1)? Made by phase `from`, gone by `to`. */
static int should_be(int round, int from, int to)
{
	int made = round * 4 + from, gone = round * 4 + to;

	if (marks->done >= made && marks->begun < gone)
		return 1;
	return marks->begun < made || marks->done >= gone ? 0 : -1;
}

static void see(struct session *s, const char *key, int should, const char *what)
{
	bool there = snap_listed(s, key) != NULL;

	expect(should < 0 || there == (should == 1),
	        "killed in the middle (begun %d, done %d): the %s '%s' is %s", marks->begun,
	        marks->done, what, key, there ? "there, and was removed" : "gone, and was made");
}

static void aftermath(struct session *s, void *arg)
{
	char name[48], key[48];
	struct desc *d = NULL;
	int round = marks->begun / 4;

	(void)arg;
	snprintf(name, sizeof(name), "sha256:r%d", round);
	snprintf(key, sizeof(key), "ctr-%d", round);
	see(s, name, should_be(round, 0, 3), "layer");
	see(s, key, should_be(round, 1, 2), "container");
	if (snap_listed(s, name)) {
		ended(s, snap_view(s, "look", name, &d), OK, "look", "view");
		on(s, d);
		see_file(s, "f", "whole");
		see_file(s, "g", "whole");
		off(s);
		desc_free(d);
	}
	storage_sweep(s);
	if (has(s, BERTH_OP_STORAGE_CLEANUP))
		ended(s, op(s, BERTH_OP_STORAGE_CLEANUP, NULL, NULL, NULL), OK, NULL, "cleanup");
	/* What was begun can be done anew under the same names. */
	const struct change v[] = {{FILE_IS, "f", "again"}};
	layer(s, name, NULL, v, 1);
	desc_free(must_prepare(s, key, name));
	storage_sweep(s);
	marks->done = marks->begun | 3;
}

static void within(struct session *s)
{
	unsigned int rounds = check.brief ? 8 : 40;

	marks = shared_alloc(sizeof(*marks));
	marks->done = 3;
	for (unsigned int i = 0; i < rounds; i++) {
		bool ended_itself = host_run(s, churn, NULL, 1 + any_number(60000));
		expect(!ended_itself, "the host was not killed");
		(void)host_run(s, aftermath, NULL, 0);
	}
	note("killed %u times, in the end in round %d", rounds, marks->begun / 4);
}

#define T(name, fn, meaning)                          \
	{                                             \
		name, KIND_STORAGE, true, fn, meaning \
	}
const struct test storage_kill_tests[] = {
        T("storage.killed-between", between,
                "The host is killed (-9) between any two ops: the next one finds what there was, "
                "no more and no less, and goes on."),
        T("storage.killed-within", within,
                "The host is killed at any moment: what was acknowledged holds, what was under way "
                "is there as a whole or not at all, and can be done anew."),
        {0}};
