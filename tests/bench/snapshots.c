/* How long a storage driver takes to make and mount a container's root file system, to take it away
 * again, and to list many snapshots.
 *
 *   snapshots PLUGIN.so STATE-DIR CONFIG-JSON [ROUNDS [LISTED]]
 *
 * Prints milliseconds, a line for each round: prepare and mount, unmount and remove; at the end the
 * list of LISTED snapshots. `tests/bench/snapshots` runs it by turns with containerd. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "../unit/testhost.h"

static struct testhost *h;
static char *target;

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void must(berth_status st, struct berth_op *op, const char *what)
{
	if (st == BERTH_OK)
		return;
	fprintf(stderr, "%s: %s\n", what, testop_error(op));
	exit(1);
}

static void prepare(const char *key, const char *parent, uint32_t flags, bool mounted)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = {
	        .size = sizeof(a), .key = key, .parent = parent, .flags = flags};
	struct berth_mounts_result m = {.size = sizeof(m)};
	struct berth_error *err = NULL;

	must(testhost_plugin(h)->storage->prepare(op, testhost_self(h), &a, &m), op, "prepare");
	if (mounted && berth_mount_apply(&m, target, &err) < 0) {
		fprintf(stderr, "mount: %s\n", err->msg);
		exit(1);
	}
}

static void drop(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = {.size = sizeof(a), .key = key};

	must(testhost_plugin(h)->storage->remove(op, testhost_self(h), &a), op, "remove");
}

static void make_layer(void)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = {.size = sizeof(a), .key = "layer.part", .name = "layer"};
	char path[512];

	prepare("layer.part", NULL, BERTH_SNAP_F_LAYER, true);
	snprintf(path, sizeof(path), "%s/file", target);
	FILE *f = fopen(path, "w");
	if (f)
		fclose(f);
	umount(target);
	must(testhost_plugin(h)->storage->commit(op, testhost_self(h), &a), op, "commit");
}

static void rounds(int n)
{
	for (int i = 0; i < n; i++) {
		char key[32];
		snprintf(key, sizeof(key), "round%d", i);
		double begin = now_ms();
		prepare(key, "layer", 0, true);
		double up = now_ms();
		umount(target);
		drop(key);
		printf("%.3f %.3f\n", up - begin, now_ms() - up);
		fflush(stdout);
	}
}

static void list_many(int n)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_list l = {.size = sizeof(l)};

	for (int i = 0; i < n; i++) {
		char key[32];
		snprintf(key, sizeof(key), "many%d", i);
		prepare(key, "layer", 0, false);
	}
	double begin = now_ms();
	must(testhost_plugin(h)->storage->list(op, testhost_self(h), &l), op, "list");
	printf("list of %u: %.3f\n", l.n, now_ms() - begin);
	for (int i = 0; i < n; i++) {
		char key[32];
		snprintf(key, sizeof(key), "many%d", i);
		drop(key);
	}
}

int main(int argc, char **argv)
{
	_cleanup_free_ char *msg = NULL;

	if (argc < 4) {
		fprintf(stderr, "usage: snapshots PLUGIN.so STATE-DIR CONFIG [ROUNDS [LISTED]]\n");
		return 2;
	}
	target = berth_asprintf("%s.mnt", argv[2]);
	if (berth_mkdir_p(argv[2], 0700) < 0 || berth_mkdir_p(target, 0755) < 0)
		return 1;
	h = testhost_new(argv[1], argv[2], NULL, argv[3]);
	if (testhost_start(h, &msg) != BERTH_OK) {
		fprintf(stderr, "%s\n", msg);
		return 1;
	}
	make_layer();
	rounds(argc > 4 ? atoi(argv[4]) : 20);
	if (argc > 5)
		list_many(atoi(argv[5]));
	drop("layer");
	testhost_free(h);
	free(target);
	return 0;
}
