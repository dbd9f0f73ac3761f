/* Labels, and the categories of pods. SELinux itself is not needed: what the policy knows is told
 * by a stand-in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "container/container.h"

#define PROCESS "system_u:system_r:container_t:s0"
#define FILES "system_u:object_r:container_file_t:s0"

/* ---- a policy ---- */

static unsigned long known_categories = 1024;

static int canonical(const char *context, char **ret)
{
	*ret = NULL;
	if (strstr(context, "strange"))
		return -EINVAL;
	const char *last = strrchr(context, 'c');
	if (strstr(context, ":s0:c") && strtoul(last + 1, NULL, 10) >= known_categories)
		return -EINVAL;
	*ret = berth_strdup(context);
	return 0;
}

static char dir[64];

static void contexts_are(struct berth_selinux *s, const char *text)
{
	_cleanup_free_ char *path = berth_asprintf("%s/contexts", dir);

	*s = (struct berth_selinux){.on = true, .canonical = canonical};
	assert_int_equal(
	        berth_write_file_atomic(AT_FDCWD, path, text, strlen(text), 0644, false), 0);
	berth_selinux_read(s, path);
}

static void test_contexts_of_the_policy(void **state)
{
	static const struct {
		const char *text, *why;
	} bad[] = {
	        {"", "no context \"process\""},
	        {"process = \"a:b:c:s0\"\n", "no context \"file\""},
	        {"process = \"a:b:strange:s0\"\nfile = \"a:b:c:s0\"\n", "\"a:b:strange:s0\""},
	        {"process = \"a:b:c:s0\"\nfile = \"a:b:strange:s0\"\n", "\"a:b:strange:s0\""},
	};
	struct berth_selinux s;
	(void)state;

	contexts_are(&s, "# process = \"no\"\n\ncontent = \"x\"\nprocess = \"" PROCESS
	                 "\"\n  file=\"" FILES "\"  \nro_file = \"y\"\n");
	assert_null(s.why);
	assert_string_equal(s.process, PROCESS);
	assert_string_equal(s.file, FILES);
	assert_int_equal(s.categories, 1024);
	berth_selinux_finish(&s);
	known_categories = 200;
	contexts_are(&s, "process=" PROCESS "\nfile=" FILES);
	assert_int_equal(s.categories, 128);
	berth_selinux_finish(&s);
	known_categories = 1024;
	contexts_are(&s, "process=a:b:c\nfile=a:b:d");
	assert_non_null(s.process);
	assert_int_equal(s.categories, 0);
	berth_selinux_finish(&s);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		contexts_are(&s, bad[i].text);
		assert_null(s.process);
		assert_non_null(strstr(s.why, bad[i].why));
		berth_selinux_finish(&s);
	}
	s = (struct berth_selinux){.on = true, .canonical = canonical};
	berth_selinux_read(&s, "/no/such/file");
	assert_non_null(strstr(s.why, "/no/such/file"));
	berth_selinux_finish(&s);
}

/* ---- labels ---- */

static void composed(const struct berth_selinux_options o, const char *process, const char *file)
{
	_cleanup_free_ char *p = NULL, *f = NULL;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	if (berth_selinux_compose(PROCESS, FILES, &o, &p, &f, &err) < 0)
		fail_msg("%s", err->msg);
	assert_string_equal(p, process);
	assert_string_equal(f, file);
}

static void not_composed(const struct berth_selinux_options o, const char *text)
{
	char *p = NULL, *f = NULL;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	assert_int_equal(berth_selinux_compose(PROCESS, FILES, &o, &p, &f, &err), -1);
	assert_int_equal(err->code, BERTH_INVALID_ARGUMENT);
	assert_non_null(strstr(err->msg, text));
	assert_null(p);
	assert_null(f);
}

static void test_compose(void **state)
{
	char many[600] = "s0";
	(void)state;

	composed((struct berth_selinux_options){0}, PROCESS, FILES);
	composed((struct berth_selinux_options){.type = "t", .role = ""}, "system_u:system_r:t:s0",
	        FILES);
	composed((struct berth_selinux_options){"u", "r", "t", "s0:c1,c2"}, "u:r:t:s0:c1,c2",
	        "u:object_r:container_file_t:s0:c1,c2");
	not_composed((struct berth_selinux_options){.type = "a:b"}, "selinux_options.type");
	not_composed((struct berth_selinux_options){.user = "a b"}, "selinux_options.user");
	not_composed((struct berth_selinux_options){.level = "s0:c1\n"}, "selinux_options.level");
	not_composed((struct berth_selinux_options){.role = "\xc3\xa4"}, "selinux_options.role");
	for (size_t n = strlen(many); n < 240; n = strlen(many))
		snprintf(many + n, sizeof(many) - n, "%sc%zu", n == 2 ? ":" : ",", n);
	not_composed((struct berth_selinux_options){.level = many}, "longer than 255");

	assert_true(berth_selinux_is_type("u:r:spc_t:s0", "spc_t"));
	assert_false(berth_selinux_is_type(PROCESS, "spc_t"));
	assert_false(berth_selinux_is_type(NULL, "spc_t"));
	assert_true(berth_selinux_same_level(PROCESS, FILES));
	assert_true(berth_selinux_same_level("a:b:c", "d:e:f"));
	assert_false(berth_selinux_same_level(PROCESS, "a:b:c:s0:c1"));
	assert_false(berth_selinux_same_level(PROCESS, "a:b:c"));
	_cleanup_free_ char *shared = berth_selinux_shared("a:b:c:s0:c1,c2");
	_cleanup_free_ char *range = berth_selinux_shared("a:b:c:s0-s0:c1,c2");
	_cleanup_free_ char *none = berth_selinux_shared("a:b:c");
	assert_string_equal(shared, "a:b:c:s0");
	assert_string_equal(range, "a:b:c:s0");
	assert_string_equal(none, "a:b:c");
}

/* ---- categories ---- */

static void test_what_a_pair_covers(void **state)
{
	static const char *const yes[] = {"s0:c3,c7", "s0:c7,c3", "s0:c3", "s0:c7", "s0-s0:c3,c7",
	        "s0:c3,c3.c3", "s1:c7.c7"},
	                         *const no[] = {"s0", "s0:c3,c8", "s0:c3.c7", "s0:c3,c7,c9",
	                                 "s0:c0.c1023", "s0-s0:c0.c1023", "s0:c", "s0:c3,",
	                                 "s0:3,7", "s0:c3.7", "s0:c7.c3", "s0:c3x", "s0:c3.c4"};
	const struct berth_mcs pair = {3, 7}, next = {3, 4};
	(void)state;

	for (size_t i = 0; i < BERTH_ARRAY_LEN(yes); i++) {
		_cleanup_free_ char *label = berth_asprintf("u:r:t:%s", yes[i]);
		if (!berth_mcs_covers(&pair, label))
			fail_msg("%s", label);
	}
	for (size_t i = 0; i < BERTH_ARRAY_LEN(no); i++) {
		_cleanup_free_ char *label = berth_asprintf("u:r:t:%s", no[i]);
		if (berth_mcs_covers(&pair, label))
			fail_msg("%s", label);
	}
	assert_true(berth_mcs_covers(&next, "u:r:t:s0:c3.c4"));
	assert_false(berth_mcs_covers(&pair, NULL));
	assert_false(berth_mcs_covers(&pair, "u:r:t"));
	_cleanup_free_ char *level = berth_mcs_level(&pair, "u:r:t:s2-s4:c0.c9");
	assert_string_equal(level, "s2:c3,c7");
}

struct seen {
	bool pairs[8][8];
	unsigned int n;
};

static bool seen_before(const struct berth_mcs *pair, const void *arg)
{
	const struct seen *s = arg;
	assert_true(pair->low < pair->high && pair->high < 8);
	return s->pairs[pair->low][pair->high];
}

static void test_each_pair_once(void **state)
{
	struct seen s = {0};
	struct berth_mcs pair;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	(void)state;

	while (berth_mcs_pick(8, seen_before, &s, &pair, &err) == 0) {
		s.pairs[pair.low][pair.high] = true;
		s.n++;
	}
	assert_int_equal(s.n, 8 * 7 / 2);
	assert_int_equal(err->code, BERTH_RESOURCE_EXHAUSTED);
}

/* ---- pods and containers ---- */

struct node {
	struct berth_daemon d;
	struct berth_pods pods;
	struct berth_containers containers;
	struct berth_config config;
	unsigned int n;
};

static void node_init(struct node *n)
{
	*n = (struct node){0};
	n->d.pods = &n->pods;
	n->d.containers = &n->containers;
	n->d.config = &n->config;
	contexts_are(&n->d.selinux, "process=" PROCESS "\nfile=" FILES);
}

static void node_finish(struct node *n)
{
	struct berth_container *c, *ctmp;
	struct berth_pod *p, *ptmp;

	HASH_ITER (hh, n->containers.by_id, c, ctmp) {
		berth_containers_drop(c);
	}
	HASH_ITER (hh_id, n->pods.by_id, p, ptmp) {
		berth_pods_drop(p);
	}
	berth_selinux_finish(&n->d.selinux);
}

struct request {
	Runtime__V1__PodSandboxConfig pod;
	Runtime__V1__PodSandboxMetadata meta;
	Runtime__V1__LinuxPodSandboxConfig l;
	Runtime__V1__LinuxSandboxSecurityContext sec;
	Runtime__V1__NamespaceOption ns;
	Runtime__V1__SELinuxOption o;
};

#define S(s) ((char *)(uintptr_t)(s))

static struct berth_pod *pod_of(struct node *n, struct request *q, const char *level)
{
	char id[BERTH_ID_LEN + 1];
	Runtime__V1__NamespaceMode pid = q->ns.pid;
	bool privileged = q->sec.privileged;

	runtime__v1__pod_sandbox_config__init(&q->pod);
	runtime__v1__pod_sandbox_metadata__init(&q->meta);
	runtime__v1__linux_pod_sandbox_config__init(&q->l);
	runtime__v1__linux_sandbox_security_context__init(&q->sec);
	runtime__v1__namespace_option__init(&q->ns);
	runtime__v1__selinux_option__init(&q->o);
	q->ns.pid = pid;
	q->sec.privileged = privileged;
	_cleanup_free_ char *name = berth_asprintf("p%u", n->n++);
	q->meta.name = name;
	q->o.level = S(level);
	q->sec.namespace_options = &q->ns;
	q->sec.selinux_options = &q->o;
	q->l.security_context = &q->sec;
	q->pod.linux = &q->l;
	q->pod.metadata = &q->meta;
	snprintf(id, sizeof(id), "%064u", n->n);
	return berth_pod_new(&n->d, id, &q->pod, "h");
}

static struct berth_pod *pod_at(struct node *n, const char *level)
{
	struct request q = {0};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_pod *p = pod_of(n, &q, level);

	if (berth_pod_label(p, &err) < 0)
		fail_msg("%s", err->msg);
	berth_pods_add(p);
	berth_pod_unref(p);
	return p;
}

static int no_pod(struct node *n, struct request *q, const char *level, const char *text)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_pod *p = pod_of(n, q, level);

	assert_int_equal(berth_pod_label(p, &err), -1);
	assert_non_null(strstr(err->msg, text));
	berth_pod_unref(p);
	return err->code;
}

/* In a policy of four categories there are six pairs. */
static void test_levels_of_pods(void **state)
{
	struct node n;
	struct request q = {0};
	struct berth_pod *p[6];
	(void)state;

	known_categories = 4;
	node_init(&n);
	assert_int_equal(n.d.selinux.categories, 4);
	for (size_t i = 0; i < 6; i++) {
		p[i] = pod_at(&n, i == 0 ? "s0:c2,c1" : "");
		assert_non_null(strstr(p[i]->process_label, "container_t:s0:c"));
		assert_true(berth_selinux_same_level(p[i]->process_label, p[i]->mount_label));
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(p[i]->process_label, p[k]->process_label);
	}
	assert_string_equal(p[0]->mount_label, "system_u:object_r:container_file_t:s0:c2,c1");
	assert_int_equal(no_pod(&n, &q, "", "all 6 pairs"), BERTH_RESOURCE_EXHAUSTED);
	/* What is given is used as it is, by more than one, and free once nobody has it. */
	struct berth_pod *twice = pod_at(&n, "s0:c2,c1");
	berth_pods_drop(p[0]);
	assert_int_equal(no_pod(&n, &q, "", "all 6 pairs"), BERTH_RESOURCE_EXHAUSTED);
	berth_pods_drop(twice);
	assert_true(berth_selinux_same_level(pod_at(&n, "")->process_label, "u:r:t:s0:c1,c2"));
	node_finish(&n);
	known_categories = 1024;
}

static void test_pods_without_labels(void **state)
{
	struct node n;
	struct request q = {0};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	(void)state;

	node_init(&n);
	q.ns.pid = RUNTIME__V1__NAMESPACE_MODE__NODE;
	struct berth_pod *p = pod_of(&n, &q, "s0:c1,c2");
	assert_int_equal(berth_pod_label(p, &err), 0);
	assert_null(p->process_label);
	assert_null(p->mount_label);
	berth_pod_unref(p);
	node_finish(&n);

	/* A policy without containers: only who asks is told. */
	node_init(&n);
	berth_selinux_finish(&n.d.selinux);
	contexts_are(&n.d.selinux, "");
	q = (struct request){0};
	assert_null(pod_at(&n, "")->process_label);
	assert_int_equal(
	        no_pod(&n, &q, "s0:c1,c2", "no context \"process\""), BERTH_FAILED_PRECONDITION);
	n.d.selinux.on = false;
	assert_null(pod_at(&n, "s0:c1,c2")->process_label);
	node_finish(&n);
}

static struct berth_container *ctr(struct berth_pod *p, const Runtime__V1__SELinuxOption *o,
        bool privileged, enum berth_code code)
{
	Runtime__V1__ContainerConfig config = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	Runtime__V1__ContainerMetadata meta = RUNTIME__V1__CONTAINER_METADATA__INIT;
	Runtime__V1__LinuxContainerConfig l = RUNTIME__V1__LINUX_CONTAINER_CONFIG__INIT;
	Runtime__V1__LinuxContainerSecurityContext sec =
	        RUNTIME__V1__LINUX_CONTAINER_SECURITY_CONTEXT__INIT;
	Runtime__V1__Mount m = RUNTIME__V1__MOUNT__INIT, *mounts[] = {&m};
	char id[BERTH_ID_LEN + 1];
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	m.host_path = m.container_path = S("/v");
	m.selinux_relabel = 1;
	config.mounts = mounts;
	config.n_mounts = 1;
	meta.name = S("c");
	config.metadata = &meta;
	config.linux = &l;
	l.security_context = &sec;
	sec.privileged = privileged;
	sec.selinux_options = (Runtime__V1__SELinuxOption *)(uintptr_t)o;
	berth_random_hex(id, BERTH_ID_LEN / 2);
	struct berth_container *c = berth_container_new(p, id, &config);
	int r = berth_container_label(c, &err);
	assert_int_equal(r < 0 ? err->code : BERTH_OK_, code);
	if (r == 0)
		berth_containers_add(c);
	berth_container_unref(c);
	return r == 0 ? c : NULL;
}

static void test_labels_of_containers(void **state)
{
	struct node n;
	Runtime__V1__SELinuxOption o = RUNTIME__V1__SELINUX_OPTION__INIT;
	struct berth_handler handler = {.name = S("h")};
	(void)state;

	known_categories = 4;
	node_init(&n);
	struct berth_pod *p = pod_at(&n, "s0:c0,c1");
	struct berth_container *c = ctr(p, NULL, false, BERTH_OK_);
	assert_string_equal(c->process_label, p->process_label);
	assert_string_equal(c->mount_label, p->mount_label);
	assert_true(berth_container_relabels(c));
	/* Its own level is another's as little as a pod's is. */
	o.level = S("s0:c2,c3");
	o.role = S("r");
	c = ctr(p, &o, false, BERTH_OK_);
	assert_string_equal(c->process_label, "system_u:r:container_t:s0:c2,c3");
	assert_string_equal(c->mount_label, "system_u:object_r:container_file_t:s0:c2,c3");
	for (size_t i = 0; i < 4; i++) {
		struct berth_pod *other = pod_at(&n, "");
		assert_false(berth_selinux_same_level(other->process_label, "u:r:t:s0:c0,c1"));
		assert_false(berth_selinux_same_level(other->process_label, "u:r:t:s0:c2,c3"));
	}
	runtime__v1__selinux_option__init(&o);
	o.type = S("spc_t");
	c = ctr(p, &o, false, BERTH_OK_);
	assert_string_equal(c->process_label, "system_u:system_r:spc_t:s0:c0,c1");
	assert_false(berth_container_relabels(c));
	c = ctr(p, &o, true, BERTH_OK_);
	assert_null(c->process_label);
	assert_false(berth_container_relabels(c));
	c = ctr(p, NULL, true, BERTH_OK_);
	assert_null(c->process_label);
	assert_string_equal(c->mount_label, p->mount_label);
	assert_true(berth_container_relabels(c));
	o.type = S("a b");
	ctr(p, &o, false, BERTH_INVALID_ARGUMENT);
	/* A runtime that would leave the label out. */
	handler.no_selinux = true;
	p->handler = &handler;
	ctr(p, NULL, false, BERTH_FAILED_PRECONDITION);
	ctr(p, NULL, true, BERTH_OK_);
	/* A pod of before there were labels. */
	free(berth_take(p->process_label));
	assert_null(ctr(p, NULL, false, BERTH_OK_)->process_label);
	ctr(p, &o, false, BERTH_FAILED_PRECONDITION);
	node_finish(&n);
	known_categories = 1024;
}

static int start(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/berth-selinux-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int end(void **state)
{
	(void)state;
	return berth_rm_tree(AT_FDCWD, dir);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, start, end)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_contexts_of_the_policy),
	        cmocka_unit_test(test_compose), cmocka_unit_test(test_what_a_pair_covers),
	        cmocka_unit_test(test_each_pair_once), T(test_levels_of_pods),
	        T(test_pods_without_labels), T(test_labels_of_containers)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
