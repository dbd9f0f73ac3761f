#include "store_fixture.h"

const char *config = "{}";

#define PLUGIN BERTH_TEST_STORE_DRIVER
#define STATE "/dev/shm/berth-common-XXXXXX" /* where a sync costs nothing */

struct testhost *load(void)
{
	return testhost_new(PLUGIN, state, NULL, config);
}

void start(void)
{
	_cleanup_free_ char *msg = NULL;

	h = load();
	if (testhost_start(h, &msg) != BERTH_OK)
		fail_msg("%s", msg);
}

void refused(const char *part)
{
	_cleanup_free_ char *msg = NULL;

	h = load();
	berth_status st = testhost_start(h, &msg);
	h = testhost_kill(h);
	if (st == BERTH_OK || !msg || !strstr(msg, part))
		fail_msg("%d '%s', expected '%s'", (int)st, msg, part);
}

void restart(void)
{
	h = testhost_kill(h);
	start();
}

int setup(void **s)
{
	state = berth_strdup(STATE);
	assert_non_null(mkdtemp(state));
	start();
	return 0;
}

int setup_inside(void **s)
{
	config = "{\"inside\": true}";
	return setup(s);
}

int teardown(void **s)
{
	h = testhost_free(h);
	config = "{}";
	int r = berth_rm_tree(AT_FDCWD, state);
	free(state);
	return r;
}

void shell(const char *script)
{
	_cleanup_free_ char *cmd = berth_asprintf("cd '%s' && %s", state, script);
	assert_int_equal(system(cmd), 0);
}

/* As layers come where they stand on their parent's content. */
void make_layer(const char *name, const char *parent)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_free_ char *key = berth_asprintf("pull %s", name);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = layer_args(key, strcmp(config, "{}") == 0 ? parent : NULL);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	a = args(key, parent, name);
	OK(op, ops()->commit(op, testhost_self(h), &a));
}

void prepare(const char *key, const char *parent)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args(key, parent, NULL);
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
}

void cleanup(void)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	OK(op, ops()->cleanup(op, testhost_self(h)));
}

bool there(const char *name)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", state, name);

	return access(path, F_OK) == 0;
}
