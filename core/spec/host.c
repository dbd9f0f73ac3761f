#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/fd.h"
#include "base/mem.h"
#include "security/apparmor.h"
#include "security/caps.h"
#include "spec/spec.h"

static bool has_word(const char *text, const char *word)
{
	size_t n = strlen(word);
	for (const char *p = text; (p = strstr(p, word)); p += n)
		if ((p == text || p[-1] == ' ') && strchr(" \n", p[n]))
			return true;
	return false;
}

static bool v2_controller(const char *name)
{
	_cleanup_free_ char *text = NULL;
	return berth_read_file(-1, BERTH_CGROUP_ROOT "/cgroup.controllers", 4096, &text, NULL) ==
	               0 &&
	       has_word(text, name);
}

static bool effective_cap(int cap)
{
	_cleanup_free_ char *text = NULL;
	if (berth_read_file(-1, "/proc/thread-self/status", 65536, &text, NULL) < 0)
		return false;
	const char *p = strstr(text, "\nCapEff:");
	return p && (strtoull(p + strlen("\nCapEff:"), NULL, 16) & BERTH_CAP(cap));
}

void berth_spec_host_probe(struct berth_spec_host *ret)
{
	_cleanup_free_ char *adj = NULL;
	struct statfs fs;

	*ret = (struct berth_spec_host){.seccomp_root = "/var/lib/kubelet/seccomp"};
	ret->cgroup_v2 = statfs(BERTH_CGROUP_ROOT, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
	/* /proc/swaps is there where the kernel has swap at all. */
	ret->swap_accounting =
	        ret->cgroup_v2 ? v2_controller("memory") && access("/proc/swaps", F_OK) == 0
	                       : access(BERTH_CGROUP_ROOT "/memory/memory.memsw.limit_in_bytes",
	                                 F_OK) == 0;
	ret->hugetlb = ret->cgroup_v2
	                       ? v2_controller("hugetlb")
	                       : access(BERTH_CGROUP_ROOT "/hugetlb/cgroup.procs", F_OK) == 0;
	ret->apparmor = berth_apparmor_enabled();
	ret->can_lower_oom = effective_cap(CAP_SYS_RESOURCE);
	if (berth_read_file(-1, "/proc/self/oom_score_adj", 64, &adj, NULL) == 0)
		ret->oom_score_adj = (int)strtol(adj, NULL, 10);
	ret->bounding = berth_caps_bounding();
}
