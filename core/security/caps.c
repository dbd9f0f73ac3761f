#include "security/caps.h"

#include <cap-ng.h>
#include <ctype.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>

enum { CAP_NAME_MAX = 64 };

berth_capset berth_caps_default(void)
{
	return BERTH_CAP(CAP_CHOWN) | BERTH_CAP(CAP_DAC_OVERRIDE) | BERTH_CAP(CAP_FSETID) |
	       BERTH_CAP(CAP_FOWNER) | BERTH_CAP(CAP_MKNOD) | BERTH_CAP(CAP_NET_RAW) |
	       BERTH_CAP(CAP_SETGID) | BERTH_CAP(CAP_SETUID) | BERTH_CAP(CAP_SETFCAP) |
	       BERTH_CAP(CAP_SETPCAP) | BERTH_CAP(CAP_NET_BIND_SERVICE) |
	       BERTH_CAP(CAP_SYS_CHROOT) | BERTH_CAP(CAP_KILL) | BERTH_CAP(CAP_AUDIT_WRITE);
}

berth_capset berth_caps_bounding(void)
{
	berth_capset set = 0;
	/* Not through libcap-ng: it reads /proc and keeps a state per thread. */
	for (int n = 0; n <= CAP_LAST_CAP && n < 64; n++)
		if (prctl(PR_CAPBSET_READ, (unsigned long)n, 0, 0, 0) == 1)
			set |= BERTH_CAP(n);
	return set;
}

int berth_cap_number(const char *name)
{
	char lower[CAP_NAME_MAX];
	size_t n = 0;

	if (strncasecmp(name, "CAP_", 4) == 0)
		name += 4;
	for (; name[n]; n++) {
		if (n + 1 == sizeof(lower))
			return -1;
		lower[n] = (char)tolower((unsigned char)name[n]);
	}
	lower[n] = '\0';
	/* libcap-ng names a capability that it does not know by its number: never meant here. */
	if (!n || isdigit((unsigned char)lower[0]) || strncmp(lower, "cap_", 4) == 0)
		return -1;
	return capng_name_to_capability(lower);
}

static int parse_list(const char *field, char *const *names, size_t n, berth_capset *ret_set,
        bool *ret_all, struct berth_error **ret_err)
{
	*ret_set = 0;
	*ret_all = false;
	for (size_t i = 0; i < n; i++) {
		if (strcasecmp(names[i], "ALL") == 0 || strcasecmp(names[i], "CAP_ALL") == 0) {
			*ret_all = true;
			continue;
		}
		int cap = berth_cap_number(names[i]);
		if (cap < 0 || cap > 63)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "capabilities.%s: no capability \"%.*s\"", field, CAP_NAME_MAX,
			        names[i]);
		*ret_set |= BERTH_CAP(cap);
	}
	return 0;
}

int berth_caps_resolve(
        const struct berth_caps_request *req, struct berth_caps *ret, struct berth_error **ret_err)
{
	berth_capset add, drop, ambient;
	bool add_all, drop_all, ambient_all;

	if (parse_list("add_capabilities", req->add, req->n_add, &add, &add_all, ret_err) < 0 ||
	        parse_list("drop_capabilities", req->drop, req->n_drop, &drop, &drop_all, ret_err) <
	                0 ||
	        parse_list("add_ambient_capabilities", req->ambient, req->n_ambient, &ambient,
	                &ambient_all, ret_err) < 0)
		return -1;
	if (ambient_all)
		ambient = req->bounding;

	berth_capset set = berth_caps_default();
	if (req->privileged) {
		set = req->bounding;
	} else {
		if (add_all)
			set = req->bounding;
		if (drop_all)
			set = 0;
		set |= add;
		set &= ~drop;
	}
	ret->ambient = ambient & req->bounding;
	ret->set = (set & req->bounding) | ret->ambient;
	return 0;
}

static json_t *set_json(berth_capset set)
{
	json_t *a = json_array();
	for (int n = 0; n < 64; n++) {
		const char *name =
		        set & BERTH_CAP(n) ? capng_capability_to_name((unsigned)n) : NULL;
		if (!name)
			continue;
		char full[CAP_NAME_MAX + 4] = "CAP_";
		size_t len = strnlen(name, CAP_NAME_MAX - 1);
		for (size_t i = 0; i < len; i++)
			full[4 + i] = (char)toupper((unsigned char)name[i]);
		full[4 + len] = '\0';
		json_array_append_new(a, json_string(full));
	}
	return a;
}

json_t *berth_caps_json(const struct berth_caps *caps)
{
	/* Inheritable is empty but for what is ambient: else a program with file capabilities
	 * would regain them (CVE-2022-24769). */
	json_t *o = json_object();
	json_object_set_new(o, "bounding", set_json(caps->set));
	json_object_set_new(o, "effective", set_json(caps->set));
	json_object_set_new(o, "permitted", set_json(caps->set));
	if (caps->ambient) {
		json_object_set_new(o, "inheritable", set_json(caps->ambient));
		json_object_set_new(o, "ambient", set_json(caps->ambient));
	}
	return o;
}
