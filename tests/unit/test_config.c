/* core/config: what is read, what is refused and how it is said. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "config/config.h"

static struct berth_config *parse(const char *text)
{
	struct berth_config *c = NULL;
	struct berth_error *err = NULL;
	if (berth_config_parse("t.yaml", text, strlen(text), &c, &err))
		fail_msg("%s: %s", text, err->msg);
	return c;
}

static void refused(const char *text, const char *want)
{
	struct berth_config *c = NULL;
	struct berth_error *err = NULL;
	if (berth_config_parse("t.yaml", text, strlen(text), &c, &err) == 0)
		fail_msg("accepted: %s", text);
	assert_int_equal(err->code, BERTH_INVALID_ARGUMENT);
	if (!strstr(err->msg, want))
		fail_msg("'%s' gave '%s', not '%s'", text, err->msg, want);
	assert_null(c);
	berth_error_free(err);
}

static void an_empty_file_has_the_defaults(void **state)
{
	_cleanup_(berth_config_freep) struct berth_config *c = parse("# nothing\n");
	assert_string_equal(c->root, "/var/lib/berth");
	assert_string_equal(c->run, "/run/berth");
	assert_string_equal(c->cri.listen, "/run/berth/berth.sock");
	assert_string_equal(c->storage.driver, "storage-overlay");
	assert_string_equal(c->network.plugin, "net-cni");
	assert_string_equal(c->runtimes.default_handler, "runc");
	assert_int_equal(json_object_size(c->plugins), 3);
	assert_int_equal(c->images.parallel_layers, 6);
	assert_string_equal(c->images.import_dir, "");
	assert_int_equal(berth_strv_len(c->images.certs_dirs), 2);
	assert_null(c->images.pinned);
	assert_int_equal(c->cri.max_receive_bytes, 16 << 20);
	assert_int_equal(c->cri.cgroup_driver, BERTH_CGROUPFS);
	assert_int_equal(c->log.level, BERTH_LOG_LVL_INFO);
}

static const char full[] =
        "root: /srv/root\n"
        "run: /srv/run\n"
        "plugins:\n"
        "  storage-overlay: {}\n"
        "  runtime-runc: { path: /x/runc.so, timeout: 5, debug: true }\n"
        "  net-cni: { conf_dir: /etc/cni/net.d, bin_dirs: [/opt/cni/bin, /usr/lib/cni] }\n"
        "  spare:\n"
        "storage: { driver: storage-overlay }\n"
        "network: { plugin: net-cni }\n"
        "runtimes:\n"
        "  default: crun\n"
        "  handlers:\n"
        "    runc: { plugin: runtime-runc, path: /usr/sbin/runc }\n"
        "    crun: &crun { plugin: runtime-runc, path: /usr/bin/crun, timeout: 7 }\n"
        "    other: *crun\n"
        "images: { parallel_layers: 3, auth_files: [], registries: /r, policy: /p }\n"
        "cri:\n"
        "  cgroup_driver: systemd\n"
        "  max_receive_bytes: \"1MiB\"\n"
        "  max_send_bytes: 70000\n"
        "log:\n";

static void all_keys_are_read(void **state)
{
	_cleanup_(berth_config_freep) struct berth_config *c = parse(full);
	assert_string_equal(c->cri.listen, "/srv/run/berth.sock");
	assert_int_equal(json_object_size(c->plugins), 4);
	assert_true(json_is_object(json_object_get(c->plugins, "spare")));
	assert_int_equal(c->images.parallel_layers, 3);
	assert_null(c->images.auth_files);
	assert_int_equal(c->cri.cgroup_driver, BERTH_CGROUP_SYSTEMD);
	assert_int_equal(c->cri.max_receive_bytes, 1 << 20);
	assert_int_equal(c->cri.max_send_bytes, 70000);

	const char *plugin = NULL;
	json_t *j = berth_config_handler(c, "other", &plugin);
	assert_string_equal(plugin, "runtime-runc");
	assert_string_equal(json_string_value(json_object_get(j, "path")), "/usr/bin/crun");
	assert_int_equal(json_integer_value(json_object_get(j, "timeout")), 7);
	assert_true(json_is_true(json_object_get(j, "debug")));
	assert_null(json_object_get(j, "plugin"));
	json_decref(j);
	assert_null(berth_config_handler(c, "none", &plugin));
	j = json_object_get(json_object_get(c->plugins, "runtime-runc"), "timeout");
	assert_int_equal(json_integer_value(j), 5);
}

static char *printed(const struct berth_config *c)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	berth_config_print(f, c);
	fclose(f);
	return text;
}

static void what_is_printed_loads_again(void **state)
{
	const char *const texts[] = {full, "",
	        "cri: { stream_address: \"a\\\"b: #\\u00e9 \\x07\" }",
	        "network: {plugin: ''}\nlog: {level: debug}\nroot: '/a b: c'"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(texts); i++) {
		_cleanup_(berth_config_freep) struct berth_config *a = parse(texts[i]);
		_cleanup_free_ char *first = printed(a);
		_cleanup_(berth_config_freep) struct berth_config *b = parse(first);
		_cleanup_free_ char *second = printed(b);
		assert_string_equal(first, second);
		assert_true(json_equal(a->plugins, b->plugins));
		assert_true(json_equal(a->runtimes.handlers, b->runtimes.handlers));
		assert_string_equal(a->cri.stream_address, b->cri.stream_address);
		assert_string_equal(a->root, b->root);
	}
}

static void mistakes_are_named(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
	        {"rooot: /x", "t.yaml:1: unknown key 'rooot'; did you mean 'root'?"},
	        {"\ncri:\n  lisen: /x",
	                "t.yaml:3: unknown key 'cri.lisen'; did you mean 'cri.listen'?"},
	        {"image: {}", "unknown key 'image'; did you mean 'images'?"},
	        {"driver: x", "unknown key 'driver'; did you mean 'storage.driver'?"},
	        {"storage: {level: x}", "unknown key 'storage.level'; did you mean 'log.level'?"},
	        {"zzzzzzzzzz: x", "t.yaml:1: unknown key 'zzzzzzzzzz'"},
	        {"root: /a\nroot: /b", "t.yaml:2: key 'root' is there already, in line 1"},
	        {"root: 5", "root must be text, not a number (quote it to make it text)"},
	        {"root:", "root must be text, not empty"},
	        {"root: [/a]", "root must be text, not a list"},
	        {"root: var", "root must be an absolute path, not 'var'"},
	        {"root: ''", "root is empty"},
	        {"cri: x", "cri must be a map of keys, not text"},
	        {"plugins: [a]", "plugins must be a map of names, not a list"},
	        {"plugins: {a: 1}", "plugins.a must be a map of keys, not a number"},
	        {"plugins: {../a: {}}", "plugins: '../a' is no name"},
	        {"plugins: {.a: {}}", "plugins: '.a' is no name"},
	        {"images: {parallel_layers: 0}",
	                "images.parallel_layers must lie between 1 and 32"},
	        {"images: {parallel_layers: '6'}", "must be a whole number, not text"},
	        {"images: {parallel_layers: 6KiB}", "must be a whole number, not text"},
	        {"images: {parallel_layers: 99999999999999999999999}", "must be a whole number"},
	        {"images: {certs_dirs: /x}", "images.certs_dirs must be a list of paths, not text"},
	        {"images: {certs_dirs: [x]}", "must be an absolute path, not 'x'"},
	        {"images: {pinned: x}", "images.pinned must be a list of texts, not text"},
	        {"images: {pinned: [\"\"]}", "images.pinned has an empty text"},
	        {"cri: {max_send_bytes: 17EiB}", "must be a size such as 16MiB"},
	        {"cri: {max_send_bytes: 99999999999GiB}", "must be a size such as 16MiB"},
	        {"cri: {max_send_bytes: 1GiB}", "must lie between"},
	        {"cri: {cgroup_driver: system}",
	                "is one of cgroupfs, systemd, not 'system'; did you mean 'systemd'?"},
	        {"storage: {driver: storage-overlai}",
	                "t.yaml:1: storage.driver: 'storage-overlai' is not in plugins; did you "
	                "mean 'storage-overlay'?"},
	        {"plugins: {storage-overlay: {}, net-cni: {}}",
	                "t.yaml: runtimes.handlers.runc.plugin: 'runtime-runc' is not in plugins"},
	        {"plugins: {storage-overlay: {path: 5}, net-cni: {}, runtime-runc: {}}",
	                "t.yaml:1: plugins.storage-overlay.path must be text: the plugin's file"},
	        {"\nruntimes: {default: kata}",
	                "t.yaml:2: runtimes.default: 'kata' is not in runtimes.handlers"},
	        {"runtimes: {handlers: {runc: {}}}", "runtimes.handlers.runc.plugin is missing"},
	        {"runtimes: {handlers: {runc: {plugin: runtime-runc, size_limit: [1]}}}",
	                "runtimes.handlers.runc.size_limit must be a size such as 10GiB"},
	        {"runtimes: {handlers: {runc: {plugin: runtime-runc, size_limit: much}}}",
	                "runtimes.handlers.runc.size_limit must be a size"},
	        {"storage: {size_limit: ten}", "storage.size_limit must be a size such as 16MiB"},
	        {"[a, b]", "the configuration must be a map of keys, not a list"},
	        {"word", "the configuration must be a map of keys, not text"},
	        {"a: b: c", "t.yaml:1: mapping values are not allowed"},
	        {"root: \"/a\n", "t.yaml:"},
	        {"root: /a\n---\nrun: /b\n", "t.yaml:2: a second document"},
	        {"root: !!str /a", "tags (!...) are not supported"},
	        {"<<: {root: /a}", "merge keys (<<) are not supported"},
	        {"root: *x", "alias '*x' has no anchor before it"},
	        {"plugins: &a {x: *a}", "alias '*a' has no anchor before it"},
	        {"[a]: b", "a key must be a plain word"},
	        {"root: \"/a\\0b\"", "a value contains a NUL byte"},
	        {"\"ro\\0ot\": b", "a key contains a NUL byte"},
	        {"root: \xff", "t.yaml:1: "},
	};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++)
		refused(cases[i].text, cases[i].want);
}

static void all_mistakes_are_told_at_once(void **state)
{
	refused("rot: /x\nrun: 5\nlog: {level: loud}\n",
	        "t.yaml:1: unknown key 'rot'; did you mean 'root'?\n"
	        "t.yaml:2: run must be text, not a number (quote it to make it text)\n"
	        "t.yaml:3: log.level is one of error, warn, info, debug, not 'loud'");
}

static void bombs_are_bounded(void **state)
{
	struct berth_buf b = {0};
	berth_buf_adds(&b, "plugins:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
	for (int i = 1; i < 12; i++) {
		berth_buf_addf(&b, "  a%d: &a%d [", i, i);
		for (int j = 0; j < 10; j++)
			berth_buf_addf(&b, "%s*a%d", j ? ", " : "", i - 1);
		berth_buf_adds(&b, "]\n");
	}
	refused(b.data, "more than 8192 values in one file");
	berth_buf_finish(&b);

	berth_buf_adds(&b, "plugins: ");
	for (int i = 0; i < 100; i++)
		berth_buf_adds(&b, "{a: ");
	refused(b.data, "nested deeper than 24 levels");
	berth_buf_finish(&b);

	/* Depth built by aliases, each of them shallow. */
	berth_buf_adds(&b, "plugins:\n  a0: &a0 {x: y}\n");
	for (int i = 1; i < 30; i++)
		berth_buf_addf(&b, "  a%d: &a%d {x: *a%d}\n", i, i, i - 1);
	refused(b.data, "nested deeper than 24 levels");
	berth_buf_finish(&b);

	for (int i = 0; i < 50; i++)
		berth_buf_addf(&b, "key%d: 1\n", i);
	refused(b.data, "t.yaml: and 30 more");
	berth_buf_finish(&b);

	_cleanup_free_ char *big = berth_zalloc((2 << 20) + 1);
	memset(big, '#', 2 << 20);
	refused(big, "larger than 1048576 bytes");
}

static void put(const char *dir, const char *name, const char *text)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", dir, name);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(berth_write_all(fd, text, strlen(text)), 0);
}

static void drop_ins_are_merged_in_order(void **state)
{
	char dir[] = "/tmp/berth-config-XXXXXX";
	_cleanup_(berth_config_freep) struct berth_config *c = NULL;
	struct berth_error *err = NULL;
	assert_non_null(mkdtemp(dir));
	_cleanup_free_ char *file = berth_asprintf("%s/b.yaml", dir);
	_cleanup_free_ char *drop = berth_asprintf("%s/berth.d", dir);
	assert_int_equal(mkdir(drop, 0755), 0);

	put(dir, "b.yaml",
	        "root: /a\ncri: {cgroup_driver: systemd, listen: /l1}\n"
	        "images: {auth_files: [/1, /2]}\n");
	put(drop, "20-x.yaml", "root: /c\n");
	put(drop, "10-x.yaml", "root: /b\ncri: {listen: /l2}\nimages: {auth_files: [/3]}\n");
	put(drop, "30-x.yaml", "# nothing\n");
	put(drop, "99-not.yml", "nonsense: 1\n");
	put(drop, ".40-hidden.yaml", "nonsense: 1\n");
	assert_int_equal(berth_config_load(file, &c, &err), 0);
	assert_string_equal(c->root, "/c");
	assert_string_equal(c->cri.listen, "/l2");
	assert_int_equal(c->cri.cgroup_driver, BERTH_CGROUP_SYSTEMD);
	assert_int_equal(berth_strv_len(c->images.auth_files), 1);
	c = berth_config_free(c);

	put(drop, "20-x.yaml", "\ncri:\n  listn: /c\n");
	assert_int_equal(berth_config_load(file, &c, &err), -1);
	assert_non_null(strstr(err->msg, "/berth.d/20-x.yaml:3: unknown key 'cri.listn'; did you"));
	err = berth_error_free(err);
	put(drop, "20-x.yaml", "- a\n");
	assert_int_equal(berth_config_load(file, &c, &err), -1);
	assert_non_null(strstr(err->msg, "/berth.d/20-x.yaml:1: the configuration must be a map"));
	err = berth_error_free(err);

	_cleanup_free_ char *missing = berth_asprintf("%s/none.yaml", dir);
	assert_int_equal(berth_config_load(missing, &c, &err), -1);
	assert_int_equal(err->code, BERTH_NOT_FOUND);
	assert_non_null(strstr(err->msg, missing));
	berth_error_free(err);
	assert_int_equal(berth_rm_tree(AT_FDCWD, dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(an_empty_file_has_the_defaults),
	        cmocka_unit_test(all_keys_are_read),
	        cmocka_unit_test(what_is_printed_loads_again),
	        cmocka_unit_test(mistakes_are_named),
	        cmocka_unit_test(all_mistakes_are_told_at_once),
	        cmocka_unit_test(bombs_are_bounded),
	        cmocka_unit_test(drop_ins_are_merged_in_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
