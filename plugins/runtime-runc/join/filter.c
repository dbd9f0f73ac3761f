/* linux.seccomp to a filter, with the effect that runc's has. */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "join.h"

#define ARCHS_MAX 16
#define ARGS_MAX 6
#define STUB_MAX 64
#define X32_BIT 0x40000000u

struct arch {
	uint32_t token;
	bool named;        /* one of its calls is in the profile: */
	unsigned int last; /* the highest number */
};

static int read_action(const char *name, unsigned int code, uint32_t *ret)
{
	static const struct {
		const char *name;
		uint32_t action;
	} known[] = {{"SCMP_ACT_ALLOW", SCMP_ACT_ALLOW}, {"SCMP_ACT_LOG", SCMP_ACT_LOG},
	        {"SCMP_ACT_KILL", SCMP_ACT_KILL_THREAD},
	        {"SCMP_ACT_KILL_THREAD", SCMP_ACT_KILL_THREAD},
	        {"SCMP_ACT_KILL_PROCESS", SCMP_ACT_KILL_PROCESS}, {"SCMP_ACT_TRAP", SCMP_ACT_TRAP}};

	for (size_t i = 0; name && i < sizeof(known) / sizeof(known[0]); i++) {
		if (strcmp(known[i].name, name) == 0) {
			*ret = known[i].action;
			return 0;
		}
	}
	if (name && strcmp(name, "SCMP_ACT_ERRNO") == 0)
		*ret = SCMP_ACT_ERRNO(code & 0xffff);
	else if (name && strcmp(name, "SCMP_ACT_TRACE") == 0)
		*ret = SCMP_ACT_TRACE(code & 0xffff);
	else
		return join_refuse("the seccomp action", name);
	return 0;
}

static unsigned int code_of(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);
	return json_is_integer(v) ? (unsigned int)json_integer_value(v) : EPERM;
}

static int read_archs(const json_t *list, scmp_filter_ctx ctx, struct arch *archs, size_t *ret_n)
{
	json_t *v;
	size_t i, n = 0;

	json_array_foreach (list, i, v) {
		const char *name = json_string_value(v);
		char small[32] = "";
		if (!name || strncmp(name, "SCMP_ARCH_", 10) != 0 || n == ARCHS_MAX)
			return join_refuse("the seccomp architecture", name);
		for (size_t c = 0; name[10 + c] && c + 1 < sizeof(small); c++)
			small[c] = (char)(name[10 + c] >= 'A' && name[10 + c] <= 'Z'
			                          ? name[10 + c] - 'A' + 'a'
			                          : name[10 + c]);
		uint32_t token = seccomp_arch_resolve_name(small);
		if (!token)
			return join_refuse("the seccomp architecture", name);
		int r = seccomp_arch_add(ctx, token);
		if (r < 0 && r != -EEXIST)
			return join_fail(-r, "seccomp: architecture", name);
		archs[n++].token = token;
	}
	*ret_n = n;
	return 0;
}

static int read_op(const char *name, enum scmp_compare *ret)
{
	static const char *const names[] = {[SCMP_CMP_NE] = "SCMP_CMP_NE",
	        [SCMP_CMP_LT] = "SCMP_CMP_LT",
	        [SCMP_CMP_LE] = "SCMP_CMP_LE",
	        [SCMP_CMP_EQ] = "SCMP_CMP_EQ",
	        [SCMP_CMP_GE] = "SCMP_CMP_GE",
	        [SCMP_CMP_GT] = "SCMP_CMP_GT",
	        [SCMP_CMP_MASKED_EQ] = "SCMP_CMP_MASKED_EQ"};

	for (size_t i = SCMP_CMP_NE; name && i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(names[i], name) == 0) {
			*ret = (enum scmp_compare)i;
			return 0;
		}
	}
	return join_refuse("the seccomp comparison", name);
}

static int read_args(const json_t *list, struct scmp_arg_cmp *args, bool *ret_repeated)
{
	bool seen[ARGS_MAX] = {false};
	json_t *v;
	size_t i;

	*ret_repeated = false;
	if (json_array_size(list) > ARGS_MAX)
		return join_refuse("a seccomp rule with that many arguments", NULL);
	json_array_foreach (list, i, v) {
		json_int_t index = json_integer_value(json_object_get(v, "index"));
		if (index < 0 || index >= ARGS_MAX ||
		        read_op(json_string_value(json_object_get(v, "op")), &args[i].op) < 0)
			return join_refuse("a seccomp argument", NULL);
		args[i].arg = (unsigned int)index;
		args[i].datum_a = (scmp_datum_t)json_integer_value(json_object_get(v, "value"));
		args[i].datum_b = (scmp_datum_t)json_integer_value(json_object_get(v, "valueTwo"));
		*ret_repeated |= seen[index];
		seen[index] = true;
	}
	return 0;
}

static int add_rule(
        scmp_filter_ctx ctx, const json_t *rule, uint32_t dflt, struct arch *archs, size_t n_archs)
{
	struct scmp_arg_cmp args[ARGS_MAX];
	size_t n_args = json_array_size(json_object_get(rule, "args")), i;
	uint32_t action;
	bool repeated;
	json_t *v;

	if (read_action(json_string_value(json_object_get(rule, "action")),
	            code_of(rule, "errnoRet"), &action) < 0 ||
	        read_args(json_object_get(rule, "args"), args, &repeated) < 0)
		return -1;
	json_array_foreach (json_object_get(rule, "names"), i, v) {
		const char *name = json_string_value(v);
		int nr = name ? seccomp_syscall_resolve_name(name) : __NR_SCMP_ERROR, r = 0;
		for (size_t a = 0; name && a < n_archs; a++) {
			int own = seccomp_syscall_resolve_name_arch(archs[a].token, name);
			archs[a].named |= own >= 0;
			if (own >= 0 && (unsigned int)own > archs[a].last)
				archs[a].last = (unsigned int)own;
		}
		if (nr == __NR_SCMP_ERROR || action == dflt)
			continue;
		/* Conditions on one argument twice are alternatives. */
		if (!repeated)
			r = seccomp_rule_add_array(ctx, action, nr, (unsigned int)n_args, args);
		for (size_t a = 0; repeated && r == 0 && a < n_args; a++)
			r = seccomp_rule_add_array(ctx, action, nr, 1, &args[a]);
		if (r < 0)
			return join_fail(-r, "seccomp: rule for", name);
	}
	return 0;
}

/* ---- the stub ---- */

static const struct arch *find_arch(const struct arch *archs, size_t n, uint32_t token)
{
	for (size_t i = 0; i < n; i++)
		if (archs[i].token == token && archs[i].named)
			return &archs[i];
	return NULL;
}

/* Of one architecture as the kernel has it: x32 is x86-64 with a bit in the number. Either of the
 * two may be NULL. */
static size_t stub_arch(
        struct sock_filter *f, uint32_t token, const struct arch *own, const struct arch *x32)
{
	const struct sock_filter enosys =
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (ENOSYS & SECCOMP_RET_DATA));
	size_t n = 1;

	f[n++] = (struct sock_filter)BPF_STMT(
	        BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	if (x32) {
		f[n++] = (struct sock_filter)BPF_JUMP(
		        BPF_JMP | BPF_JSET | BPF_K, X32_BIT, 0, own ? 1 : 2);
		f[n++] = (struct sock_filter)BPF_JUMP(
		        BPF_JMP | BPF_JGT | BPF_K, x32->last | X32_BIT, own ? 1 : 0, own ? 2 : 1);
	}
	if (own)
		f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, own->last, 0, 1);
	f[n++] = enosys;
	f[n++] = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA | BPF_K, 0);
	f[0] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, token, 0, (uint8_t)(n - 1));
	return n;
}

/* A call that is newer than the profile is one that the kernel does not know: programs fall back
 * then. Each architecture's part ends by going on with the filter proper. Architectures that the
 * profile does not list, the own one among them, have none. */
static size_t make_stub(struct sock_filter *f, const struct arch *archs, size_t n_archs)
{
	const struct arch *x32 = find_arch(archs, n_archs, SCMP_ARCH_X32);
	size_t n = 0, jumps[ARCHS_MAX], n_jumps = 0;

	f[n++] = (struct sock_filter)BPF_STMT(
	        BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	for (size_t i = 0; i < n_archs; i++) {
		uint32_t token =
		        archs[i].token == SCMP_ARCH_X32 ? SCMP_ARCH_X86_64 : archs[i].token;
		const struct arch *own = find_arch(archs, n_archs, token);
		if (!archs[i].named || (archs[i].token == SCMP_ARCH_X32 && own))
			continue; /* with x86-64 */
		n += stub_arch(&f[n], token, own, token == SCMP_ARCH_X86_64 ? x32 : NULL);
		jumps[n_jumps++] = n - 1;
	}
	for (size_t i = 0; i < n_jumps; i++)
		f[jumps[i]].k = (uint32_t)(n - jumps[i] - 1);
	return n_jumps ? n : 0;
}

/* ---- all of it ---- */

static int export_filter(
        scmp_filter_ctx ctx, const struct sock_filter *stub, size_t n_stub, struct sock_fprog *ret)
{
	int fd = memfd_create("filter", MFD_CLOEXEC);
	struct stat st;
	int r = fd < 0 ? -errno : seccomp_export_bpf(ctx, fd);

	if (r < 0 || fstat(fd, &st) < 0) {
		if (fd >= 0)
			close(fd);
		return join_fail(r < 0 ? -r : errno, "seccomp: making the filter", NULL);
	}
	size_t n = (size_t)st.st_size / sizeof(struct sock_filter);
	struct sock_filter *f =
	        n + n_stub > JOIN_FILTER_MAX ? NULL : calloc(n + n_stub, sizeof(*f));
	ssize_t want = (ssize_t)(n * sizeof(*f));
	bool good = f && pread(fd, f + n_stub, (size_t)want, 0) == want;
	close(fd);
	if (!good)
		return join_refuse("a seccomp filter of that length", NULL);
	memcpy(f, stub, n_stub * sizeof(*f));
	*ret = (struct sock_fprog){.len = (unsigned short)(n + n_stub), .filter = f};
	return 0;
}

static int fill(scmp_filter_ctx ctx, const json_t *seccomp, uint32_t dflt, struct sock_fprog *ret)
{
	struct arch archs[ARCHS_MAX] = {{0, 0}};
	struct sock_filter stub[STUB_MAX + ARCHS_MAX * 8];
	const char *name = json_string_value(json_object_get(seccomp, "defaultAction"));
	size_t n_archs = 0, n_stub = 0, i;
	json_t *rule;

	if (read_archs(json_object_get(seccomp, "architectures"), ctx, archs, &n_archs) < 0)
		return -1;
	json_array_foreach (json_object_get(seccomp, "syscalls"), i, rule)
		if (add_rule(ctx, rule, dflt, archs, n_archs) < 0)
			return -1;
	/* Where the default lets calls pass, new ones do, too. */
	if (strcmp(name, "SCMP_ACT_ALLOW") != 0 && strcmp(name, "SCMP_ACT_LOG") != 0 &&
	        strcmp(name, "SCMP_ACT_TRACE") != 0)
		n_stub = make_stub(stub, archs, n_archs);
	return export_filter(ctx, stub, n_stub, ret);
}

int join_filter_compile(const json_t *seccomp, struct sock_fprog *ret)
{
	uint32_t dflt;

	if (!seccomp || json_is_null(seccomp))
		return 0;
	if (json_object_get(seccomp, "listenerPath"))
		return join_refuse("a seccomp listener", NULL);
	if (json_array_size(json_object_get(seccomp, "flags")))
		return join_refuse("seccomp flags", NULL);
	if (read_action(json_string_value(json_object_get(seccomp, "defaultAction")),
	            code_of(seccomp, "defaultErrnoRet"), &dflt) < 0)
		return -1;
	scmp_filter_ctx ctx = seccomp_init(dflt);
	if (!ctx)
		return join_fail(ENOMEM, "seccomp", NULL);
	int r = fill(ctx, seccomp, dflt, ret);
	seccomp_release(ctx);
	return r;
}

/* ---- kept ---- */

static const char form[8] = "bj-bpf 1";

static bool read_kept(int fd, struct sock_fprog *ret)
{
	char head[sizeof(form)];
	struct stat st;

	if (fstat(fd, &st) < 0 || st.st_size <= (off_t)sizeof(head) ||
	        pread(fd, head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
	        memcmp(head, form, sizeof(form)) != 0)
		return false;
	size_t size = (size_t)st.st_size - sizeof(head), n = size / sizeof(struct sock_filter);
	if (size % sizeof(struct sock_filter) || n > JOIN_FILTER_MAX)
		return false;
	struct sock_filter *filter = malloc(size);
	if (!filter || pread(fd, filter, size, sizeof(head)) != (ssize_t)size) {
		free(filter);
		return false;
	}
	*ret = (struct sock_fprog){.len = (unsigned short)n, .filter = filter};
	return true;
}

bool join_filter_read(const char *path, struct sock_fprog *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	bool good = fd >= 0 && read_kept(fd, ret);

	if (fd >= 0)
		close(fd);
	return good;
}

/* Failing costs time alone. */
void join_filter_keep(const char *path, const struct sock_fprog *filter)
{
	char fresh[4096];
	ssize_t size = (ssize_t)(filter->len * sizeof(*filter->filter));

	if (!filter->len ||
	        snprintf(fresh, sizeof(fresh), "%s.%d", path, (int)getpid()) >= (int)sizeof(fresh))
		return;
	int fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	bool good = write(fd, form, sizeof(form)) == (ssize_t)sizeof(form) &&
	            write(fd, filter->filter, (size_t)size) == size;
	close(fd);
	if (!good || rename(fresh, path) < 0)
		(void)unlink(fresh);
}

int join_filter_load(const struct sock_fprog *filter)
{
	if (!filter->len)
		return 0;
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter) < 0)
		return join_fail(errno, "seccomp: loading the filter", NULL);
	return 0;
}
