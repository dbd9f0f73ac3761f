/* core/monitor/sysctl: what a pod may set, and where it lies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/macros.h"
#include "monitor/sysctl.h"

#define BOTH (BERTH_SYSCTL_NET | BERTH_SYSCTL_IPC)

static void keys_become_paths(void **state)
{
	static const char *const cases[][2] = {
	        {"net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"},
	        {"net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_forward"},
	        {"net.ipv4.conf.eth0/100.rp_filter", "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"},
	        {"net/ipv4/conf/eth0.100/rp_filter", "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"},
	        {"kernel.shmmax", "/proc/sys/kernel/shmmax"},
	        {"kernel.shm_rmid_forced", "/proc/sys/kernel/shm_rmid_forced"},
	        {"kernel.msgmnb", "/proc/sys/kernel/msgmnb"},
	        {"kernel.sem", "/proc/sys/kernel/sem"},
	        {"fs.mqueue.msg_max", "/proc/sys/fs/mqueue/msg_max"},
	};
	char path[BERTH_SYSCTL_PATH_MAX];
	(void)state;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++) {
		assert_null(berth_sysctl_path(cases[i][0], BOTH, path));
		assert_string_equal(path, cases[i][1]);
	}
}

static void others_are_refused(void **state)
{
	static const char *const keys[] = {"", ".", "net", "net.", "net..ipv4", "net.ipv4.",
	        "kernel.hostname", "kernel.semaphore", "kernel.panic", "vm.swappiness",
	        "fs.file-max", "../net/x", "net/../kernel/panic", "net/./x", "net/ipv4//x",
	        "net.ipv4.a b", "net.ipv4.a\n", "nets.x", "kernel/../net/x", "net.//.x"};
	char path[BERTH_SYSCTL_PATH_MAX], key[2 * BERTH_SYSCTL_PATH_MAX];
	(void)state;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(keys); i++)
		if (!berth_sysctl_path(keys[i], BOTH, path))
			fail_msg("'%s' became %s", keys[i], path);
	for (size_t n = 4; n < sizeof(key) - 1; n++) {
		memset(key, 'x', n);
		memcpy(key, "net.", 4);
		key[n] = '\0';
		bool fits = berth_sysctl_path(key, BOTH, path) == NULL;
		assert_int_equal(fits, n > 4 && n + 10 < BERTH_SYSCTL_PATH_MAX);
	}
}

static void a_host_namespace_is_not_touched(void **state)
{
	char path[BERTH_SYSCTL_PATH_MAX];
	(void)state;
	assert_non_null(berth_sysctl_path("net.ipv4.ip_forward", BERTH_SYSCTL_IPC, path));
	assert_null(berth_sysctl_path("kernel.shmmax", BERTH_SYSCTL_IPC, path));
	assert_non_null(berth_sysctl_path("kernel.shmmax", BERTH_SYSCTL_NET, path));
	assert_non_null(berth_sysctl_path("fs.mqueue.msg_max", 0, path));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(keys_become_paths),
	        cmocka_unit_test(others_are_refused),
	        cmocka_unit_test(a_host_namespace_is_not_touched),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
