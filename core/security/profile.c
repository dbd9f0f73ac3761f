#include "security/profile.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

/* libseccomp's lower-case name, the OCI name, Go's name, and what runs beside it on one kernel. */
struct arch {
	uint32_t token;
	const char *name, *oci, *go, *compat;
};
static const struct arch arches[] = {
        {SCMP_ARCH_X86_64, "x86_64", "SCMP_ARCH_X86_64", "amd64", "SCMP_ARCH_X86 SCMP_ARCH_X32"},
        {SCMP_ARCH_X86, "x86", "SCMP_ARCH_X86", "386", ""},
        {SCMP_ARCH_X32, "x32", "SCMP_ARCH_X32", "x32", ""},
        {SCMP_ARCH_AARCH64, "aarch64", "SCMP_ARCH_AARCH64", "arm64", "SCMP_ARCH_ARM"},
        {SCMP_ARCH_ARM, "arm", "SCMP_ARCH_ARM", "arm", ""},
        {SCMP_ARCH_PPC64LE, "ppc64le", "SCMP_ARCH_PPC64LE", "ppc64le", ""},
        {SCMP_ARCH_S390X, "s390x", "SCMP_ARCH_S390X", "s390x", "SCMP_ARCH_S390"},
        {SCMP_ARCH_S390, "s390", "SCMP_ARCH_S390", "s390", ""},
        {SCMP_ARCH_RISCV64, "riscv64", "SCMP_ARCH_RISCV64", "riscv64", ""},
        {SCMP_ARCH_MIPSEL64, "mipsel64", "SCMP_ARCH_MIPSEL64", "mips64le",
                "SCMP_ARCH_MIPSEL SCMP_ARCH_MIPSEL64N32"},
};

static const char *const actions[] = {"SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO", "SCMP_ACT_TRACE",
        "SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY"};
static const char *const operators[] = {"SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ",
        "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"};

static bool one_of(const char *s, const char *const *set, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(s, set[i]) == 0)
			return true;
	return false;
}

static const struct arch *native(void)
{
	uint32_t token = seccomp_arch_native();
	for (size_t i = 0; i < BERTH_ARRAY_LEN(arches); i++)
		if (arches[i].token == token)
			return &arches[i];
	return NULL;
}

static bool is_native(const char *name)
{
	const struct arch *a = native();
	return a && (strcmp(name, a->name) == 0 || strcmp(name, a->go) == 0 ||
	                    strcmp(name, a->oci) == 0);
}

static bool known_arch(const char *oci)
{
	char lower[32];
	if (strncmp(oci, "SCMP_ARCH_", 10) != 0 || strlen(oci + 10) >= sizeof(lower))
		return false;
	size_t i = 0;
	for (oci += 10; oci[i]; i++)
		lower[i] = (char)tolower((unsigned char)oci[i]);
	lower[i] = '\0';
	return seccomp_arch_resolve_name(lower) != 0;
}

static bool known_syscall(const char *name)
{
	return seccomp_syscall_resolve_name(name) != __NR_SCMP_ERROR;
}

/* Calls fn for each word; stops at the first that returns true. */
static bool any_word(const char *words, bool (*fn)(const char *word, void *arg), void *arg)
{
	char word[64];
	while (*words) {
		size_t n = strcspn(words, " ");
		if (n && n < sizeof(word)) {
			memcpy(word, words, n);
			word[n] = '\0';
			if (fn(word, arg))
				return true;
		}
		words += n;
		words += strspn(words, " ");
	}
	return false;
}

static bool has_cap(const char *word, void *arg)
{
	int cap = berth_cap_number(word);
	return cap >= 0 && cap < 64 && (*(const berth_capset *)arg & BERTH_CAP(cap));
}

static bool word_is_native(const char *word, void *arg)
{
	(void)arg;
	return is_native(word);
}

static bool add_known_syscall(const char *word, void *arg)
{
	if (known_syscall(word))
		json_array_append_new(arg, json_string(word));
	return false;
}

static bool add_known_arch(const char *word, void *arg)
{
	if (known_arch(word))
		json_array_append_new(arg, json_string(word));
	return false;
}

json_t *berth_seccomp_default(berth_capset caps)
{
	const struct arch *a = native();
	json_t *list = json_array(), *archs = json_array();

	for (size_t i = 0; i < berth_seccomp_n_rules; i++) {
		const struct berth_seccomp_rule *r = &berth_seccomp_rules[i];
		if ((r->caps && !any_word(r->caps, has_cap, &caps)) ||
		        (r->without && any_word(r->without, has_cap, &caps)) ||
		        (r->arches && !any_word(r->arches, word_is_native, NULL)))
			continue;
		json_t *names = json_array();
		any_word(r->names, add_known_syscall, names);
		if (!json_array_size(names)) {
			json_decref(names);
			continue;
		}
		json_t *o = json_pack("{s:o,s:s}", "names", names, "action",
		        r->action ? r->action : "SCMP_ACT_ALLOW");
		if (r->errno_ret)
			json_object_set_new(o, "errnoRet", json_integer(r->errno_ret));
		if (r->op)
			json_object_set_new(o, "args",
			        json_pack("[{s:i,s:I,s:I,s:s}]", "index", (int)r->index, "value",
			                (json_int_t)r->value, "valueTwo", (json_int_t)r->value_two,
			                "op", r->op));
		json_array_append_new(list, o);
	}
	if (a) {
		json_array_append_new(archs, json_string(a->oci));
		any_word(a->compat, add_known_arch, archs);
	}
	return json_pack("{s:s,s:i,s:o,s:o}", "defaultAction", "SCMP_ACT_ERRNO", "defaultErrnoRet",
	        EPERM, "architectures", archs, "syscalls", list);
}

/* One profile while it is read. */
struct reader {
	const char *what;
	berth_capset caps;
	size_t names;
	struct berth_error **ret_err;
};

static int bad(struct reader *r, const char *fmt, ...) BERTH_PRINTF(2, 3);
static int bad(struct reader *r, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	_cleanup_free_ char *msg = berth_vasprintf(fmt, ap);
	va_end(ap);
	return berth_error_set(
	        r->ret_err, BERTH_INVALID_ARGUMENT, "seccomp profile %s: %s", r->what, msg);
}

static int get_action(struct reader *r, const json_t *o, const char *key, const char **ret)
{
	const char *s = json_string_value(json_object_get(o, key));
	if (!s || !one_of(s, actions, BERTH_ARRAY_LEN(actions)))
		return bad(r, "%s is no action", key);
	*ret = s;
	return 0;
}

/* Copies an errno value where there is one. */
static int copy_errno(struct reader *r, const json_t *from, json_t *to, const char *key)
{
	json_t *e = json_object_get(from, key);
	if (!e || json_is_null(e))
		return 0;
	if (!json_is_integer(e) || json_integer_value(e) < 0 || json_integer_value(e) > 4095)
		return bad(r, "%s is no error number", key);
	json_object_set(to, key, e);
	return 0;
}

static bool kernel_at_least(const char *version)
{
	struct utsname u;
	unsigned have[2] = {0, 0}, want[2] = {0, 0};
	if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &have[0], &have[1]) != 2 ||
	        sscanf(version, "%u.%u", &want[0], &want[1]) < 1)
		return false;
	return have[0] != want[0] ? have[0] > want[0] : have[1] >= want[1];
}

/* Docker's includes and excludes: does a rule's condition hold? An exclusion holds when any part
 * matches, an inclusion when all do. */
static int condition(struct reader *r, const json_t *c, bool exclude, bool *ret)
{
	json_t *caps = json_object_get(c, "caps"), *arch = json_object_get(c, "arches"),
	       *kernel = json_object_get(c, "minKernel"), *v;
	size_t i;
	bool any = false, all = true, found = false;

	*ret = !exclude;
	if (!c || json_is_null(c))
		return 0;
	if (!json_is_object(c) || (caps && !json_is_array(caps) && !json_is_null(caps)) ||
	        (arch && !json_is_array(arch) && !json_is_null(arch)) ||
	        (kernel && !json_is_string(kernel)))
		return bad(r, "%s has a wrong form", exclude ? "excludes" : "includes");
	json_array_foreach (caps, i, v) {
		if (!json_is_string(v))
			return bad(r, "a capability is no string");
		bool has = has_cap(json_string_value(v), &r->caps);
		any |= has;
		all &= has;
	}
	json_array_foreach (arch, i, v) {
		if (!json_is_string(v))
			return bad(r, "an architecture is no string");
		found |= is_native(json_string_value(v));
	}
	any |= found;
	if (json_array_size(arch))
		all &= found;
	if (kernel) {
		bool new_enough = kernel_at_least(json_string_value(kernel));
		any |= new_enough;
		all &= new_enough;
	}
	*ret = exclude ? any : all;
	return 0;
}

static int read_args(struct reader *r, const json_t *args, json_t *to)
{
	json_t *a, *list;
	size_t i;

	if (!args || json_is_null(args))
		return 0;
	if (!json_is_array(args) || json_array_size(args) > 6)
		return bad(r, "args is no list of at most 6");
	list = json_array();
	json_object_set_new(to, "args", list);
	json_array_foreach (args, i, a) {
		json_t *index = json_object_get(a, "index"), *value = json_object_get(a, "value"),
		       *two = json_object_get(a, "valueTwo");
		const char *op = json_string_value(json_object_get(a, "op"));
		if (!json_is_integer(index) || json_integer_value(index) < 0 ||
		        json_integer_value(index) > 5 || !json_is_integer(value) ||
		        json_integer_value(value) < 0 ||
		        (two && (!json_is_integer(two) || json_integer_value(two) < 0)) || !op ||
		        !one_of(op, operators, BERTH_ARRAY_LEN(operators)))
			return bad(r, "args[%zu] has a wrong form", i);
		json_array_append_new(
		        list, json_pack("{s:O,s:O,s:I,s:s}", "index", index, "value", value,
		                      "valueTwo", (json_int_t)json_integer_value(two), "op", op));
	}
	return 0;
}

static int read_rule(struct reader *r, const json_t *rule, json_t *list)
{
	json_t *names = json_object_get(rule, "names"), *name = json_object_get(rule, "name"), *v;
	const char *action = NULL;
	bool in, out;
	size_t i;

	if (!json_is_object(rule))
		return bad(r, "is no object");
	if (get_action(r, rule, "action", &action) < 0 ||
	        condition(r, json_object_get(rule, "includes"), false, &in) < 0 ||
	        condition(r, json_object_get(rule, "excludes"), true, &out) < 0)
		return -1;
	if ((!names || json_is_null(names)) == !json_is_string(name))
		return bad(r, "wants either name or names");
	if (!json_is_string(name) && !json_is_array(names))
		return bad(r, "names is no list");

	json_t *known = json_array(), *o = json_pack("{s:o,s:s}", "names", known, "action", action);
	int result = 0;
	if (json_is_string(name)) {
		if (known_syscall(json_string_value(name)))
			json_array_append(known, name);
	}
	json_array_foreach (names, i, v) {
		if (!json_is_string(v))
			result = bad(r, "names[%zu] is no string", i);
		else if (++r->names > BERTH_LIMIT_SECCOMP_NAMES)
			result = bad(
			        r, "names more than %d system calls", BERTH_LIMIT_SECCOMP_NAMES);
		else if (known_syscall(json_string_value(v)))
			json_array_append(known, v);
		if (result < 0)
			break;
	}
	if (result == 0)
		result = copy_errno(r, rule, o, "errnoRet");
	if (result == 0)
		result = read_args(r, json_object_get(rule, "args"), o);
	if (result == 0 && in && !out && json_array_size(known))
		json_array_append(list, o);
	json_decref(o);
	return result;
}

static int read_arches(struct reader *r, const json_t *root, json_t *list)
{
	json_t *map = json_object_get(root, "archMap"),
	       *plain = json_object_get(root, "architectures"), *v;
	size_t i;

	if (json_array_size(map) && json_array_size(plain))
		return bad(r, "has both archMap and architectures");
	if ((map && !json_is_array(map) && !json_is_null(map)) ||
	        (plain && !json_is_array(plain) && !json_is_null(plain)))
		return bad(r, "architectures are no list");
	json_array_foreach (plain, i, v) {
		if (!json_is_string(v))
			return bad(r, "architectures[%zu] is no string", i);
		if (known_arch(json_string_value(v)))
			json_array_append(list, v);
	}
	json_array_foreach (map, i, v) {
		const char *name = json_string_value(json_object_get(v, "architecture"));
		json_t *subs = json_object_get(v, "subArchitectures"), *sub;
		size_t k;
		if (!name || (subs && !json_is_array(subs) && !json_is_null(subs)))
			return bad(r, "archMap[%zu] has a wrong form", i);
		if (!is_native(name))
			continue;
		json_array_append_new(list, json_string(name));
		json_array_foreach (subs, k, sub) {
			if (json_is_string(sub) && known_arch(json_string_value(sub)))
				json_array_append(list, sub);
		}
	}
	return 0;
}

static int copy_listener(struct reader *r, const json_t *root, json_t *to)
{
	static const char *const keys[] = {"listenerPath", "listenerMetadata"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(keys); i++) {
		json_t *v = json_object_get(root, keys[i]);
		if (!v || json_is_null(v))
			continue;
		if (!json_is_string(v))
			return bad(r, "%s is no string", keys[i]);
		if (json_string_length(v))
			json_object_set(to, keys[i], v);
	}
	return 0;
}

static int read_root(struct reader *r, const json_t *root, json_t *to)
{
	const char *action = NULL;
	json_t *flags = json_object_get(root, "flags"), *rules = json_object_get(root, "syscalls"),
	       *v;
	size_t i;

	if (!json_is_object(root))
		return bad(r, "is no JSON object");
	if (get_action(r, root, "defaultAction", &action) < 0 ||
	        copy_errno(r, root, to, "defaultErrnoRet") < 0 || copy_listener(r, root, to) < 0)
		return -1;
	json_object_set_new(to, "defaultAction", json_string(action));
	json_t *archs = json_array();
	json_object_set_new(to, "architectures", archs);
	if (read_arches(r, root, archs) < 0)
		return -1;
	if (!json_array_size(archs))
		json_object_del(to, "architectures");
	if (flags && !json_is_null(flags)) {
		if (!json_is_array(flags) || json_array_size(flags) > 16)
			return bad(r, "flags is no short list");
		json_array_foreach (flags, i, v) {
			if (!json_is_string(v))
				return bad(r, "flags[%zu] is no string", i);
		}
		json_object_set(to, "flags", flags);
	}
	json_t *list = json_array();
	json_object_set_new(to, "syscalls", list);
	if (rules && !json_is_null(rules) && !json_is_array(rules))
		return bad(r, "syscalls is no list");
	if (json_array_size(rules) > BERTH_LIMIT_SECCOMP_RULES)
		return bad(r, "has more than %d rules", BERTH_LIMIT_SECCOMP_RULES);
	json_array_foreach (rules, i, v) {
		if (read_rule(r, v, list) < 0)
			return berth_error_wrap(r->ret_err, "syscalls[%zu]", i);
	}
	return 0;
}

int berth_seccomp_parse(const char *what, const char *text, size_t len, berth_capset caps,
        json_t **ret, struct berth_error **ret_err)
{
	struct reader r = {.what = what, .caps = caps, .ret_err = ret_err};
	json_error_t je;

	if (len > BERTH_LIMIT_SECCOMP_PROFILE)
		return bad(&r, "is larger than %d bytes", BERTH_LIMIT_SECCOMP_PROFILE);
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
	if (!root)
		return bad(&r, "line %d: %s", je.line, je.text);
	json_t *to = json_object();
	int result = read_root(&r, root, to);
	json_decref(root);
	if (result < 0) {
		json_decref(to);
		return -1;
	}
	*ret = to;
	return 0;
}

int berth_seccomp_load(const char *root, const char *path, berth_capset caps, json_t **ret,
        struct berth_error **ret_err)
{
	/* The path is the request's; a relative one must not leave the directory of profiles. */
	for (const char *p = path; path[0] != '/' && *p; p += strcspn(p, "/"), p += *p == '/')
		if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || !p[2]))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "seccomp profile %s: \"..\" is not allowed", path);
	_cleanup_free_ char *full =
	        path[0] == '/' ? berth_strdup(path) : berth_asprintf("%s/%s", root, path);
	_cleanup_free_ char *text = NULL;
	size_t len;
	struct stat st;

	_cleanup_close_ int fd = open(full, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "seccomp profile %s", full);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "seccomp profile %s: not a regular file", full);
	int r = berth_read_fd(fd, BERTH_LIMIT_SECCOMP_PROFILE, &text, &len);
	if (r == -EFBIG)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "seccomp profile %s: larger than %d bytes", full,
		        BERTH_LIMIT_SECCOMP_PROFILE);
	if (r < 0)
		return berth_error_errno(ret_err, r, "seccomp profile %s", full);
	return berth_seccomp_parse(full, text, len, caps, ret, ret_err);
}
