/* core/ctl: the pure parts of berthctl. */
#include <errno.h>
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
#include "ctl/ctl.h"

static struct berth_arena *arena;

static int new_arena(void **state)
{
	arena = berth_arena_new();
	return 0;
}

static int free_arena(void **state)
{
	berth_arena_free(arena);
	return 0;
}

static void sizes_and_ages(void **state)
{
	static const struct {
		uint64_t n;
		const char *want;
	} sizes[] = {{0, "0B"}, {999, "999B"}, {1000, "1.00kB"}, {9994, "9.99kB"}, {9996, "10.0kB"},
	        {12345, "12.3kB"}, {99960, "100kB"}, {999499, "999kB"}, {999999, "1.00MB"},
	        {144000000, "144MB"}, {UINT64_MAX, "18.4EB"}};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(sizes); i++)
		assert_string_equal(ctl_size(arena, sizes[i].n), sizes[i].want);
	const int64_t s = 1000000000, now = 1800000000 * s;
	assert_string_equal(ctl_age(arena, now, now), "just now");
	assert_string_equal(ctl_age(arena, now + 5 * s, now), "just now");
	assert_string_equal(ctl_age(arena, now - s, now), "1 second ago");
	assert_string_equal(ctl_age(arena, now - 119 * s, now), "1 minute ago");
	assert_string_equal(ctl_age(arena, now - 7200 * s, now), "2 hours ago");
	assert_string_equal(ctl_age(arena, now - 86400 * 13 * s, now), "1 week ago");
	assert_string_equal(ctl_age(arena, 0, now), "unknown");
	assert_string_equal(ctl_short_id(arena, "sha256:0123456789abcdef"), "0123456789abc");
	assert_string_equal(ctl_short_id(arena, "ab"), "ab");
}

static void image_names(void **state)
{
	static const char *const cases[][3] = {
	        {"busybox", "busybox", "<none>"},
	        {"busybox:1.36", "busybox", "1.36"},
	        {"127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b", "<none>"},
	        {"127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b", "t"},
	        {"r/a@sha256:12", "r/a", "sha256:12"},
	};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++) {
		char *name, *tag;
		ctl_split_image(arena, cases[i][0], &name, &tag);
		assert_string_equal(name, cases[i][1]);
		assert_string_equal(tag, cases[i][2]);
	}
}

static void ports_and_mounts(void **state)
{
	Runtime__V1__PortMapping p;
	Runtime__V1__Mount m;
	struct berth_error *err = NULL;

	assert_int_equal(ctl_parse_port(arena, "8080:80", &p, &err), 0);
	assert_int_equal(p.host_port, 8080);
	assert_int_equal(p.container_port, 80);
	assert_int_equal(p.protocol, RUNTIME__V1__PROTOCOL__TCP);
	assert_string_equal(p.host_ip, "");
	assert_int_equal(ctl_parse_port(arena, "127.0.0.1:53:5353/udp", &p, &err), 0);
	assert_string_equal(p.host_ip, "127.0.0.1");
	assert_int_equal(p.host_port, 53);
	assert_int_equal(p.protocol, RUNTIME__V1__PROTOCOL__UDP);
	assert_int_equal(ctl_parse_port(arena, "[::1]:1:2/sctp", &p, &err), 0);
	assert_string_equal(p.host_ip, "::1");
	static const char *const bad_ports[] = {"", "80", "80:", ":80", "0:1", "65536:1", "1:x",
	        "1:2/x", "1:2/", "localhost:1:2", "1:2:3", "1 :2", "-1:2", "1:2:3:4"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad_ports); i++) {
		if (ctl_parse_port(arena, bad_ports[i], &p, &err) == 0)
			fail_msg("accepted %s", bad_ports[i]);
		assert_non_null(strstr(err->msg, bad_ports[i]));
		err = berth_error_free(err);
	}
	assert_int_equal(ctl_parse_mount(arena, "/a:/b:ro", &m, &err), 0);
	assert_string_equal(m.host_path, "/a");
	assert_string_equal(m.container_path, "/b");
	assert_true(m.readonly);
	assert_int_equal(ctl_parse_mount(arena, "/a:/b", &m, &err), 0);
	assert_false(m.readonly);
	static const char *const bad_mounts[] = {
	        "", "/a", "a:/b", "/a:b", "/a:/b:x", "/a:", "/a:/b:"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad_mounts); i++) {
		if (ctl_parse_mount(arena, bad_mounts[i], &m, &err) == 0)
			fail_msg("accepted %s", bad_mounts[i]);
		err = berth_error_free(err);
	}
}

static void tables_line_up(void **state)
{
	static const char *const heads[] = {"A", "LONG"}, *const one[] = {"wide cell", "x"},
	                         *const two[] = {"h\xc3\xa9", NULL};
	struct ctl_table t;
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	ctl_table_init(&t, 2, heads);
	ctl_table_add(&t, one);
	ctl_table_add(&t, two);
	ctl_table_print(&t, f);
	fclose(f);
	assert_string_equal(text, "A           LONG\nwide cell   x\nh\xc3\xa9          \n");
	free(text);
}

static void log_lines(void **state)
{
	struct ctl_log_line l;
	static const char good[] = "2026-01-02T03:04:05.678901234Z stderr P  a b";
	assert_int_equal(ctl_parse_log_line(good, strlen(good), &l), 0);
	assert_true(l.is_stderr);
	assert_true(l.partial);
	assert_int_equal(l.time_len, 30);
	assert_int_equal(l.text_len, 4);
	assert_memory_equal(l.text, " a b", 4);
	assert_int_equal(ctl_parse_log_line("t stdout F:x ", 13, &l), 0);
	assert_false(l.is_stderr);
	assert_false(l.partial);
	assert_int_equal(l.text_len, 0);
	static const char *const bad[] = {"", "x", "t stdout", "t stdout F", "t stdin F x",
	        "t stdout X y", " stdout F x", "t  F x", "t stdout  x"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++)
		assert_int_equal(ctl_parse_log_line(bad[i], strlen(bad[i]), &l), -EINVAL);
}

/* What ctl_print_log writes to standard output for this file. */
static char *printed(const char *path, const struct ctl_log_opts *o)
{
	char out[] = "/tmp/berth-ctl-XXXXXX";
	struct berth_error *err = NULL;
	char *text = NULL;
	int fd = mkstemp(out), saved = dup(STDOUT_FILENO);
	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	int r = ctl_print_log(path, o, &err);
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	close(fd);
	if (r)
		fail_msg("%s", err->msg);
	assert_int_equal(berth_read_file(AT_FDCWD, out, 1 << 20, &text, NULL), 0);
	unlink(out);
	return text;
}

struct rotation {
	const char *path;
	int turn;
};

static void append(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_int_equal(berth_write_all(fd, text, strlen(text)), 0);
	close(fd);
}

/* The writer's side of a followed log: a line, half a line, the other half after a rotation. */
static bool rotate(void *arg)
{
	struct rotation *r = arg;
	_cleanup_free_ char *old = berth_asprintf("%s.old", r->path);
	switch (r->turn++) {
	case 0:
		append(r->path, "t stdout F three\nt stdout F fo");
		return true;
	case 1:
		append(r->path, "ur\n");
		assert_int_equal(rename(r->path, old), 0);
		append(r->path, "t stdout F five\n");
		return true;
	default:
		append(r->path, "t stdout F six\n");
		return false;
	}
}

static void logs_are_printed_and_followed(void **state)
{
	char path[] = "/tmp/berth-ctl-log-XXXXXX";
	struct ctl_log_opts o = {.tail = UINT64_MAX};
	struct rotation r = {path, 0};
	close(mkstemp(path));
	append(path, "t stdout F one\nt stdout P tw\nt stdout F o\n");
	char *text = printed(path, &o);
	assert_string_equal(text, "one\ntwo\n");
	free(text);
	o.timestamps = true;
	text = printed(path, &o);
	assert_string_equal(text, "t one\nt two\n");
	free(text);
	o = (struct ctl_log_opts){.tail = 1};
	text = printed(path, &o);
	assert_string_equal(text, "o\n");
	free(text);
	o.tail = 100;
	text = printed(path, &o);
	assert_string_equal(text, "one\ntwo\n");
	free(text);
	o = (struct ctl_log_opts){.tail = 0, .follow = true, .is_running = rotate, .arg = &r};
	text = printed(path, &o);
	assert_string_equal(text, "three\nfour\nfive\nsix\n");
	free(text);
	_cleanup_free_ char *old = berth_asprintf("%s.old", path);
	unlink(old);
	unlink(path);
}

static void *from_text(
        const ProtobufCMessageDescriptor *type, const char *text, struct berth_error **err)
{
	char path[] = "/tmp/berth-ctl-json-XXXXXX";
	close(mkstemp(path));
	append(path, text);
	void *m = ctl_from_file(arena, type, path, err);
	unlink(path);
	return m;
}

static void json_goes_both_ways(void **state)
{
	static const char text[] =
	        "{\"metadata\": {\"name\": \"p\", \"uid\": \"u\", \"namespace\": \"n\", "
	        "\"attempt\": 2},"
	        " \"log_directory\": \"/l\", \"portMappings\": [{\"protocol\": \"UDP\","
	        " \"container_port\": 80}, {\"protocol\": 0}], \"labels\": {\"a\": \"b\", \"c\": "
	        "\"d\"},"
	        " \"linux\": {\"security_context\": {\"run_as_user\": {\"value\": \"5000000000\"},"
	        " \"namespaceOptions\": {\"network\": \"NODE\", \"pid\": 1},"
	        " \"supplemental_groups\": [1, \"2\"], \"privileged\": true, \"selinux_options\": "
	        "null}}}";
	struct berth_error *err = NULL;
	Runtime__V1__PodSandboxConfig *p =
	        from_text(&runtime__v1__pod_sandbox_config__descriptor, text, &err);
	if (!p)
		fail_msg("%s", err->msg);
	assert_string_equal(p->metadata->namespace_, "n");
	assert_int_equal(p->metadata->attempt, 2);
	assert_int_equal(p->n_port_mappings, 2);
	assert_int_equal(p->port_mappings[0]->protocol, RUNTIME__V1__PROTOCOL__UDP);
	assert_int_equal(p->n_labels, 2);
	const Runtime__V1__LinuxSandboxSecurityContext *s = p->linux->security_context;
	assert_int_equal(s->run_as_user->value, 5000000000);
	assert_int_equal(s->namespace_options->network, RUNTIME__V1__NAMESPACE_MODE__NODE);
	assert_int_equal(s->n_supplemental_groups, 2);
	assert_int_equal(s->supplemental_groups[1], 2);
	assert_null(s->selinux_options);

	json_t *j = ctl_to_json(&p->base);
	json_t *mapping = json_array_get(json_object_get(j, "portMappings"), 0);
	assert_string_equal(json_string_value(json_object_get(mapping, "protocol")), "UDP");
	assert_string_equal(
	        json_string_value(json_object_get(json_object_get(j, "labels"), "c")), "d");
	json_t *user = json_object_get(
	        json_object_get(json_object_get(j, "linux"), "securityContext"), "runAsUser");
	assert_string_equal(json_string_value(json_object_get(user, "value")), "5000000000");
	ProtobufCMessage *again =
	        ctl_from_json(arena, &runtime__v1__pod_sandbox_config__descriptor, j, &err);
	assert_non_null(again);
	json_t *k = ctl_to_json(again);
	assert_true(json_equal(j, k));
	json_decref(j);
	json_decref(k);

	Runtime__V1__ExecSyncResponse e = RUNTIME__V1__EXEC_SYNC_RESPONSE__INIT;
	static const char *const encoded[] = {"", "YQ==", "YWI=", "YWJj", "YWJjZA=="};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(encoded); i++) {
		e.stdout.data = (uint8_t *)(uintptr_t) "abcd";
		e.stdout.len = i;
		j = ctl_to_json(&e.base);
		assert_string_equal(json_string_value(json_object_get(j, "stdout")), encoded[i]);
		json_decref(j);
	}
}

static void json_mistakes_are_named(void **state)
{
	static const char *const cases[][2] = {
	        {"{\"metadata\": {\"nam\": 1}}",
	                "metadata.nam: PodSandboxMetadata has no such field"},
	        {"{\"hostname\": 1}", "hostname must be text"},
	        {"{\"labels\": []}", "labels must be a map"},
	        {"{\"labels\": {\"a\": 1}}", "labels.a must be text"},
	        {"{\"port_mappings\": {}}", "port_mappings must be a list"},
	        {"{\"port_mappings\": [{\"host_port\": \"x\"}]}",
	                "port_mappings[0].host_port must be a whole number"},
	        {"{\"port_mappings\": [{\"host_port\": 99999999999}]}",
	                "must be a number of 32 bits"},
	        {"{\"port_mappings\": [{\"protocol\": \"X\"}]}",
	                "port_mappings[0].protocol must be one of TCP, UDP, SCTP"},
	        {"{\"metadata\": {\"attempt\": -1}}", "metadata.attempt must be 0 or more"},
	        {"{\"linux\": {\"security_context\": {\"privileged\": 1}}}",
	                "linux.security_context.privileged must be true or false"},
	        {"{\"hostname\": ", ":1: "},
	        {"hostname: [", "did not find expected node content"},
	        {"- a", "must be a map of fields"},
	};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++) {
		struct berth_error *err = NULL;
		if (from_text(&runtime__v1__pod_sandbox_config__descriptor, cases[i][0], &err))
			fail_msg("accepted %s", cases[i][0]);
		if (!strstr(err->msg, cases[i][1]))
			fail_msg("'%s' gave '%s'", cases[i][0], err->msg);
		berth_error_free(err);
	}
}

static void yaml_files_are_read(void **state)
{
	struct berth_error *err = NULL;
	Runtime__V1__ContainerConfig *k = from_text(&runtime__v1__container_config__descriptor,
	        "metadata: {name: c}\nimage:\n  image: busybox\ncommand: [sh, -c]\n"
	        "envs:\n- key: A\n  value: b c\nlinux:\n  resources: {cpu_shares: 100}\n",
	        &err);
	if (!k)
		fail_msg("%s", err->msg);
	assert_string_equal(k->image->image, "busybox");
	assert_int_equal(k->n_command, 2);
	assert_int_equal(k->envs[0]->value.len, 3);
	assert_int_equal(k->linux->resources->cpu_shares, 100);
}

static int parse(struct ctl *c, const char *line, bool *help, struct berth_error **err)
{
	char *argv[32], *save = NULL;
	int argc = 0;
	*c = (struct ctl){.arena = arena};
	for (char *w = strtok_r(berth_arena_strdup(arena, line), " ", &save); w;
	        w = strtok_r(NULL, " ", &save))
		argv[argc++] = w;
	argv[argc] = NULL;
	*help = false;
	return ctl_parse(c, argc, argv, help, err);
}

static void command_lines(void **state)
{
	struct ctl c;
	bool help;
	struct berth_error *err = NULL;

	unsetenv("BERTH_RUNTIME_ENDPOINT");
	assert_int_equal(parse(&c, "berthctl ps -aq --pod=p1 -o json", &help, &err), 0);
	assert_string_equal(c.endpoint, "/run/berth/berth.sock");
	assert_true(c.json && ctl_flag(&c, "all") && ctl_flag(&c, "quiet"));
	assert_string_equal(ctl_text(&c, "pod"), "p1");
	assert_false(ctl_flag(&c, "no-trunc"));
	ctl_parse_finish(&c);

	assert_int_equal(
	        parse(&c,
	                "berthctl --runtime-endpoint /s --timeout 1.5 run -e A=b --env C=d "
	                "-p 1:2 img sh -c -x --name y",
	                &help, &err),
	        0);
	assert_string_equal(c.endpoint, "/s");
	assert_int_equal(c.timeout_ms, 1500);
	assert_int_equal(berth_strv_len(ctl_list(&c, "env")), 2);
	assert_null(ctl_text(&c, "name"));
	assert_int_equal(c.n_args, 6);
	assert_string_equal(c.args[3], "-x");
	ctl_parse_finish(&c);

	assert_int_equal(parse(&c, "berthctl logs web -f --tail 5 -t", &help, &err), 0);
	assert_string_equal(c.args[0], "web");
	assert_int_equal(ctl_number(&c, "tail", 9), 5);
	assert_true(ctl_flag(&c, "follow") && ctl_flag(&c, "timestamps"));
	ctl_parse_finish(&c);
	assert_int_equal(parse(&c, "berthctl image import /x name", &help, &err), 0);
	assert_string_equal(c.command->name, "image import");
	assert_int_equal(c.n_args, 2);
	ctl_parse_finish(&c);
	assert_int_equal(parse(&c, "berthctl rm -- -odd", &help, &err), 0);
	assert_string_equal(c.args[0], "-odd");
	ctl_parse_finish(&c);
	assert_int_equal(parse(&c, "berthctl stop --help", &help, &err), 0);
	assert_true(help);
	assert_string_equal(c.command->name, "stop");
	ctl_parse_finish(&c);
	assert_int_equal(parse(&c, "berthctl help image import", &help, &err), 0);
	assert_true(help && c.command);
	ctl_parse_finish(&c);

	static const char *const bad[][2] = {
	        {"berthctl", "a command is missing"},
	        {"berthctl imges", "unknown command 'imges'; did you mean 'images'?"},
	        {"berthctl image", "unknown command 'image'"},
	        {"berthctl ps --al", "unknown option '--al'; did you mean '--all'?"},
	        {"berthctl ps -z", "unknown option '-z'"},
	        {"berthctl ps x", "ps takes no argument 'x'"},
	        {"berthctl ps --all=1", "--all takes no value"},
	        {"berthctl logs", "logs needs CONTAINER"},
	        {"berthctl logs --tail x c", "--tail must be a number, not 'x'"},
	        {"berthctl logs --tail", "--tail needs a value"},
	        {"berthctl -o xml ps", "--output is json or table, not 'xml'"},
	        {"berthctl --timeout x ps", "--timeout must be seconds"},
	        {"berthctl ps -p a -p b", "--pod is given twice"},
	};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		assert_int_equal(parse(&c, bad[i][0], &help, &err), -1);
		if (!strstr(err->msg, bad[i][1]))
			fail_msg("'%s' gave '%s'", bad[i][0], err->msg);
		err = berth_error_free(err);
		ctl_parse_finish(&c);
	}
}

static void every_command_has_its_help(void **state)
{
	for (const struct ctl_command *k = ctl_commands; k->name; k++) {
		char *text = NULL;
		size_t n = 0, options = 0;
		FILE *f = open_memstream(&text, &n);
		ctl_help(f, k);
		fclose(f);
		assert_non_null(strstr(text, k->name));
		for (const struct ctl_option *o = k->options; o && o->name; o++, options++)
			assert_non_null(strstr(text, o->name));
		assert_in_range(options, 0, CTL_OPTIONS_MAX);
		free(text);
	}
}

static void plain_progress(void **state)
{
	Berth__Admin__V1__LayerProgress l[2] = {
	        BERTH__ADMIN__V1__LAYER_PROGRESS__INIT, BERTH__ADMIN__V1__LAYER_PROGRESS__INIT};
	Berth__Admin__V1__LayerProgress *layers[2] = {&l[0], &l[1]};
	Berth__Admin__V1__PullProgress m = BERTH__ADMIN__V1__PULL_PROGRESS__INIT;
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	struct ctl_progress *p = ctl_progress_new(f, false);
	m.layers = layers;
	m.n_layers = 2;
	l[0].digest = (char *)(uintptr_t) "sha256:0123456789abcdef";
	l[1].digest = (char *)(uintptr_t) "sha256:fedcba9876543210";
	l[0].total_bytes = 5000000;
	ctl_progress_show(p, &m);
	l[0].state = BERTH__ADMIN__V1__LAYER_STATE__LAYER_UNPACKED;
	ctl_progress_show(p, &m);
	ctl_progress_show(p, &m);
	l[1].state = BERTH__ADMIN__V1__LAYER_STATE__LAYER_PRESENT;
	ctl_progress_show(p, &m);
	ctl_progress_free(p);
	fclose(f);
	assert_string_equal(text, "layer 1 of 2: 0123456789abc done, 5.00MB\n"
	                          "layer 2 of 2: fedcba9876543 already here\n");
	free(text);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, new_arena, free_arena)
int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(sizes_and_ages),
	        TEST(image_names),
	        TEST(ports_and_mounts),
	        TEST(tables_line_up),
	        TEST(log_lines),
	        TEST(logs_are_printed_and_followed),
	        TEST(json_goes_both_ways),
	        TEST(json_mistakes_are_named),
	        TEST(yaml_files_are_read),
	        TEST(command_lines),
	        TEST(every_command_has_its_help),
	        TEST(plain_progress),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
