/* What the container may not do: capabilities, seccomp, AppArmor, labels, hidden paths. */
#include <string.h>

#include "base/mem.h"
#include "security/apparmor.h"
#include "security/profile.h"
#include "security/selinux.h"
#include "spec/build.h"

#define LOCALHOST "localhost/"

static int capabilities(struct spec_build *b, struct berth_error **ret_err)
{
	const Runtime__V1__Capability *c = b->sec->capabilities;
	struct berth_caps_request req = {
	        .privileged = b->privileged,
	        .bounding = b->host->bounding,
	};
	struct berth_caps caps;

	if (c) {
		req.add = c->add_capabilities;
		req.n_add = c->n_add_capabilities;
		req.drop = c->drop_capabilities;
		req.n_drop = c->n_drop_capabilities;
		req.ambient = c->add_ambient_capabilities;
		req.n_ambient = c->n_add_ambient_capabilities;
	}
	if (berth_caps_resolve(&req, &caps, ret_err) < 0)
		return -1;
	b->caps = caps.set;
	json_object_set_new(b->process, "capabilities", berth_caps_json(&caps));
	return 0;
}

/* The request's profile: the typed field, else the string of older clients ("runtime/default",
 * "docker/default", "unconfined", "localhost/NAME"). */
static int profile(const char *field, const Runtime__V1__SecurityProfile *typed, const char *old,
        Runtime__V1__SecurityProfile__ProfileType *ret_type, const char **ret_ref, bool *ret_set,
        struct berth_error **ret_err)
{
	*ret_set = true;
	*ret_ref = "";
	if (typed) {
		*ret_type = typed->profile_type;
		*ret_ref = typed->localhost_ref;
		if (*ret_type != RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault &&
		        *ret_type != RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined &&
		        *ret_type != RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "%s.profile_type: %d is unknown", field, (int)*ret_type);
	} else if (!spec_is_set(old)) {
		*ret_set = false;
		*ret_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined;
	} else if (strcmp(old, "runtime/default") == 0 || strcmp(old, "docker/default") == 0) {
		*ret_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault;
	} else if (strcmp(old, "unconfined") == 0) {
		*ret_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined;
	} else if (strncmp(old, LOCALHOST, strlen(LOCALHOST)) == 0) {
		*ret_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
		*ret_ref = old + strlen(LOCALHOST);
	} else {
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: \"%.256s\" is no profile", field, old);
	}
	if (*ret_type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost &&
	        (!spec_is_set(*ret_ref) ||
	                strnlen(*ret_ref, BERTH_LIMIT_SPEC_PATH) >= BERTH_LIMIT_SPEC_PATH))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s.localhost_ref: empty or too long", field);
	return 0;
}

static int seccomp_profile(struct spec_build *b, struct berth_error **ret_err)
{
	Runtime__V1__SecurityProfile__ProfileType type;
	const char *ref, *old;
	json_t *p = NULL;
	bool set;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
	old = b->sec->seccomp_profile_path;
#pragma GCC diagnostic pop
	if (profile("seccomp", b->sec->seccomp, old, &type, &ref, &set, ret_err) < 0)
		return -1;
	if (b->privileged || type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined)
		return 0;
	if (type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault) {
		p = berth_seccomp_default(b->caps);
	} else {
		/* A kubelet sends an absolute path with or without its scheme. */
		if (strncmp(ref, LOCALHOST, strlen(LOCALHOST)) == 0)
			ref += strlen(LOCALHOST);
		if (berth_seccomp_load(b->host->seccomp_root, ref, b->caps, &p, ret_err) < 0)
			return -1;
	}
	json_object_set_new(b->oci_linux, "seccomp", p);
	return 0;
}

static int apparmor_profile(struct spec_build *b, struct berth_error **ret_err)
{
	Runtime__V1__SecurityProfile__ProfileType type;
	const char *ref, *old;
	bool set;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
	old = b->sec->apparmor_profile;
#pragma GCC diagnostic pop
	if (profile("apparmor", b->sec->apparmor, old, &type, &ref, &set, ret_err) < 0)
		return -1;
	/* A default profile would have to be loaded into the kernel first; without one the
	 * container has what berthd has. */
	if (!set || type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault)
		return 0;
	if (type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined) {
		if (b->host->apparmor)
			json_object_set_new(
			        b->process, "apparmorProfile", json_string("unconfined"));
		return 0;
	}
	if (strncmp(ref, LOCALHOST, strlen(LOCALHOST)) == 0)
		ref += strlen(LOCALHOST);
	if (!b->host->apparmor)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "apparmor: profile \"%.256s\" asked for, but the kernel has no AppArmor",
		        ref);
	if (berth_apparmor_loaded(ref) == 0)
		return berth_error_set(ret_err, BERTH_NOT_FOUND,
		        "apparmor: profile \"%.256s\" is not loaded", ref);
	return b->privileged ? 0
	                     : spec_set(b->process, "apparmorProfile", "apparmor", ref,
	                               BERTH_LIMIT_SPEC_PATH, ret_err);
}

int spec_security(struct spec_build *b, struct berth_error **ret_err)
{
	const Runtime__V1__LinuxContainerSecurityContext *sec = b->sec;
	const struct berth_spec_in *in = b->in;

	if (capabilities(b, ret_err) < 0 || seccomp_profile(b, ret_err) < 0 ||
	        apparmor_profile(b, ret_err) < 0)
		return -1;
	json_object_set_new(b->process, "noNewPrivileges", json_boolean(sec->no_new_privs));
	json_t *masked = spec_paths("masked_paths", sec->masked_paths,
	        b->privileged ? 0 : sec->n_masked_paths, ret_err);
	if (!masked)
		return -1;
	json_object_set_new(b->oci_linux, "maskedPaths", masked);
	json_t *readonly = spec_paths("readonly_paths", sec->readonly_paths,
	        b->privileged ? 0 : sec->n_readonly_paths, ret_err);
	if (!readonly)
		return -1;
	json_object_set_new(b->oci_linux, "readonlyPaths", readonly);
	if (in->selinux_process_label &&
	        spec_set(b->process, "selinuxLabel", "selinux_options", in->selinux_process_label,
	                BERTH_LIMIT_SELINUX_LABEL, ret_err) < 0)
		return -1;
	if (in->selinux_mount_label &&
	        spec_set(b->oci_linux, "mountLabel", "selinux_options", in->selinux_mount_label,
	                BERTH_LIMIT_SELINUX_LABEL, ret_err) < 0)
		return -1;
	return 0;
}
