/* A plugin's own life, whatever it serves. */
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "check.h"

static void cycle(struct session *s)
{
	for (int i = 0; i < 3; i++) {
		session_start(s);
		session_stop(s);
	}
}

/* Another instance, as a restart of the daemon in one process would have it. */
static void with_work(struct session *s)
{
	for (unsigned int i = 0; i < 2; i++) {
		session_start(s);
		s->ops->sweep(s);
		s->ops->tour(s, i);
		session_stop(s);
	}
}

static void typo(struct session *s)
{
	static const char key[] = "zz_no_such_key";
	json_t *more = json_pack("{s:i}", key, 1);

	expect(!session_try(s, more), "it starts with the key %s in its configuration", key);
	json_decref(more);
	expect(strstr(s->err->msg, key), "the error does not name the key %s: \"%s\"", key,
	        s->err->msg);
	expect(s->err->code == BERTH_INVALID_ARGUMENT, "%s: %s", berth_code_name(s->err->code),
	        s->err->msg);
	session_start(s); /* and nothing is left of the try */
	session_stop(s);
}

/* A map that holds what nobody knows is the wrong value of any key that has another. */
static void types(struct session *s)
{
	json_t *wrong = json_pack("{s:i}", "zz_no_such_key", 1), *value;
	const char *key;
	unsigned int n = 0;

	json_object_foreach (check.config, key, value) {
		if (json_is_object(value) || json_is_null(value))
			continue;
		json_t *more = json_pack("{s:O}", key, wrong);
		expect(!session_try(s, more), "it starts with a map as the value of %s", key);
		json_decref(more);
		expect(strstr(s->err->msg, key), "the error does not name the key %s: \"%s\"", key,
		        s->err->msg);
		expect(s->err->code == BERTH_INVALID_ARGUMENT, "%s: %s",
		        berth_code_name(s->err->code), s->err->msg);
		n++;
	}
	json_decref(wrong);
	if (n == 0)
		skip("--config has no key but maps");
	session_start(s);
	session_stop(s);
}

static const struct berth_instance *second(struct session *s)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	json_t *conf = json_copy(check.config);
	json_object_set_new(conf, "plugin_path", json_string(check.so));
	struct berth_instance *i = berth_instance_new(s->host, check.name, "second", conf, &err);

	json_decref(conf);
	if (!i)
		fail("a second instance, with directories of its own, does not start: %s",
		        err->msg);
	return i;
}

/* Runtimes have one instance for each handler. */
static void two_instances(struct session *s)
{
	session_start(s);
	expect(second(s) != s->instance, "one instance");
	s->ops->sweep(s);
	s->ops->tour(s, 0);
	session_stop(s);
}

/* The host refuses a plugin that lacks one, and names it: the list is its own. */
static void has_ops(struct session *s)
{
	session_start(s);
	session_stop(s);
}

static void features(struct session *s)
{
	const uint64_t known = BERTH_F_DETACHED_LAYERS | BERTH_F_WHITEOUT_OVERLAY |
	                       BERTH_F_WHITEOUT_AUFS | BERTH_F_IDMAP | BERTH_F_QUOTA |
	                       BERTH_F_XATTR_USER | BERTH_F_EXTERNAL_LAYERS | BERTH_F_CHECKPOINT;
	const uint64_t both = BERTH_F_WHITEOUT_OVERLAY | BERTH_F_WHITEOUT_AUFS;

	(void)s;
	expect(!(check.features & ~known), "unknown feature bits 0x%llx",
	        (unsigned long long)(check.features & ~known));
	expect((check.features & both) != both, "two ways of writing deletions");
	expect(!(check.features & both) || (check.features & BERTH_F_DETACHED_LAYERS),
	        "deletions are marked, but each layer begins with its parent's content");
}

#define T(name, root, fn, meaning)                \
	{                                         \
		name, KIND_ANY, root, fn, meaning \
	}
const struct test life_tests[] = {
        T("life.cycle", false, cycle,
                "create, start, stop and destroy, three times in one process."),
        T("life.ops", false, has_ops, "The ops that each plugin of the kind must have are there."),
        T("life.typo", false, typo,
                "A key that the plugin does not know is refused, by name: it asks for its keys one "
                "by one, in create()."),
        T("life.types", false, types,
                "A key of `--config` whose value is of a type that the plugin does not take is "
                "refused, by name."),
        {"life.features", KIND_STORAGE, false, features,
                "The feature bits are known, and fit each other."},
        T("life.work", true, with_work, "The same names can be used again in a later life."),
        {"life.instances", KIND_RUNTIME | KIND_NETWORK, true, two_instances,
                "Two instances, with directories of their own, live side by side."},
        {0}};
