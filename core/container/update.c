/* The limits of a container that lives are changed, whole or not at all. [worker] */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cgroup.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "container/container.h"
#include "loop/child.h"
#include "monitor/host.h"
#include "spec/inforce.h"
#include "spec/resources.h"

#define SYSTEMCTL "/usr/bin/systemctl"
#define SCORE_ROUNDS 8
#define LIMIT_PROC_VALUE 64

/* ---- its cgroup ---- */

/* crun under systemd puts a cgroup of its own into the scope, and the limits there. Where the first
 * process is tells, as long as nothing of the container has run: later it could be anywhere. */
void berth_container_note_cgroup(struct berth_container *c)
{
	_cleanup_free_ char *dir = berth_container_dir(c), *want = NULL, *text = NULL;
	struct berth_monitor_state st;
	struct berth_error *err = NULL;

	if (!c->d->host.cgroup_v2)
		return;
	if (berth_monitor_state(c->id, dir, &st, &err) < 0) {
		berth_error_free(err); /* a runtime without a monitor of ours */
		return;
	}
	_cleanup_free_ char *path = berth_asprintf("/proc/%d/cgroup", (int)st.pid);
	want = berth_cgroup_path_of(c->cgroups_path);
	if (berth_read_file(AT_FDCWD, path, BERTH_LIMIT_STATE_FILE, &text, NULL) < 0 ||
	        strncmp(text, "0::", 3) != 0)
		return;
	char *found = text + 3;
	size_t n = strlen(want);
	found[strcspn(found, "\n")] = '\0';
	if (strncmp(found, want, n) == 0 && found[n] == '/')
		c->limits_cgroup = berth_strdup(found);
}

static struct berth_cg_source cgroup_of(const struct berth_container *c, char **ret_path)
{
	*ret_path = c->limits_cgroup ? berth_strdup(c->limits_cgroup)
	                             : berth_cgroup_path_of(c->cgroups_path);
	return (struct berth_cg_source){
	        .mount = BERTH_CGROUP_ROOT, .path = *ret_path, .v2 = c->d->host.cgroup_v2};
}

/* ---- the score ---- */

struct score {
	char value[16];
	bool changed;
};

static void set_score(pid_t pid, void *arg)
{
	struct score *s = arg;
	_cleanup_free_ char *path = berth_asprintf("/proc/%d/oom_score_adj", (int)pid), *now = NULL;
	size_t n = strlen(s->value);

	if (berth_read_file(AT_FDCWD, path, LIMIT_PROC_VALUE, &now, NULL) < 0 ||
	        (strncmp(now, s->value, n) == 0 && now[n] == '\n'))
		return; /* one that has just ended, or has it */
	s->changed = berth_write_value(path, s->value) == 0 || s->changed;
}

/* It belongs to processes, not to the cgroup: all that run now get it, and those that they fork
 * meanwhile. What comes later inherits it. */
static void set_oom_score(struct berth_container *c, int score)
{
	_cleanup_free_ char *cgroup = berth_cgroup_path_of(c->cgroups_path);
	struct score s = {.changed = true};

	snprintf(s.value, sizeof(s.value), "%d", score);
	for (int i = 0; s.changed && i < SCORE_ROUNDS; i++) {
		s.changed = false;
		berth_cgroup_each(cgroup, set_score, &s);
	}
}

/* ---- the runtime ---- */

static int run_update(struct berth_container *c, json_t *oci, struct berth_error **ret_err)
{
	_cleanup_free_ char *json = json_dumps(oci, JSON_COMPACT);
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	struct berth_ctr_args a = {.size = sizeof(a), .id = c->id, .bundle = bundle, .json = json};
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->pod->handler->instance, BERTH_OP_RUNTIME_UPDATE, c->id);
	return berth_call_run(call, &a, NULL, ret_err);
}

/* crun 1.8 writes "no quota" to v1 as a number without a sign, which the kernel refuses: without it
 * the rest is done, and the quota is lifted after it. */
static int tell_runtime(struct berth_container *c, json_t *oci, struct berth_error **ret_err)
{
	json_t *cpu = json_object_get(oci, "cpu");
	struct berth_error *err = NULL;

	int r = run_update(c, oci, &err);
	if (r < 0 && err->code == BERTH_INVALID_ARGUMENT &&
	        json_integer_value(json_object_get(cpu, "quota")) < 0) {
		err = berth_error_free(err);
		json_object_del(cpu, "quota");
		r = run_update(c, oci, &err);
	}
	return r < 0 ? berth_error_move(ret_err, &err) : 0;
}

static int apply(struct berth_container *c, const struct berth_cg_source *s, const json_t *after,
        json_t *oci, bool score, struct berth_error **ret_err)
{
	if (tell_runtime(c, oci, ret_err) < 0 || berth_inforce_write(s, after, ret_err) < 0)
		return -1;
	if (score)
		set_oom_score(c, berth_resources_oom_score_adj(after, &c->d->host));
	return 0;
}

/* ---- back again ---- */

static void complain(const struct berth_container *c, struct berth_error *err)
{
	berth_log_warn(
	        "a part of an update may be in force", "container", c->id, "error", err->msg);
	berth_error_free(err);
}

/* What systemd was told of a set that was empty before: a runtime has no words to take it back. */
static void clear_properties(struct berth_container *c, json_t *files, struct berth_error **ret_err)
{
	static const struct {
		const char *file, *clear;
	} sets[] = {{"cpuset.cpus", "AllowedCPUs="}, {"cpuset.mems", "AllowedMemoryNodes="}};
	_cleanup_free_ char *path = berth_cgroup_path_of(c->cgroups_path);
	const char *argv[8] = {SYSTEMCTL, "set-property", "--runtime", strrchr(path, '/') + 1};
	struct berth_child_spec child = {.argv = argv, .stdio = {-1, -1, -1}, .new_session = 1};
	_cleanup_close_ int pidfd = -1;
	size_t n = 4;
	int status;
	pid_t pid;

	for (size_t i = 0; i < BERTH_ARRAY_LEN(sets); i++) {
		const char *was = json_string_value(json_object_get(files, sets[i].file));
		if (was && !*was)
			argv[n++] = sets[i].clear;
	}
	/* Only systemd's driver names a unit, and only on v2 is a set ever empty. */
	if (n == 4 || !strchr(c->cgroups_path, ':') ||
	        berth_child_start(&child, &pid, &pidfd, ret_err) < 0)
		return;
	if (berth_child_wait(pid, pidfd, &status) < 0 || status != 0)
		berth_error_set(ret_err, BERTH_UNAVAILABLE,
		        "systemd was not told that %s may use all processors and memory nodes",
		        argv[3]);
}

/* A runtime writes one limit after the other: what it wrote before one was refused is taken back.
 * It is told so itself, for it writes again another time what it knows, and tells systemd; what it
 * cannot be told, or did not do, is written after it. */
static void take_back(
        struct berth_container *c, enum berth_ctr_phase phase, const json_t *after, json_t *files)
{
	_cleanup_free_ char *path = NULL;
	struct berth_cg_source s = cgroup_of(c, &path);
	const struct berth_spec_host *host = &c->d->host;
	json_t *before = berth_resources_before(c->resources, after, host), *oci = NULL;
	int score = berth_resources_oom_score_adj(before, host);
	struct berth_error *err = NULL;

	int r = berth_resources_oci(c->id, before, host, &oci, &err);
	if (r == 0) {
		berth_inforce_tell(&s, files, oci);
		r = tell_runtime(c, oci, &err);
	}
	if (r < 0)
		complain(c, err);
	err = NULL;
	clear_properties(c, files, &err);
	if (err)
		complain(c, err);
	err = NULL;
	if (berth_inforce_restore(&s, files, &err) < 0)
		complain(c, err);
	if (score != berth_resources_oom_score_adj(after, host))
		set_oom_score(c, score);
	err = NULL;
	if (berth_container_save(c, phase, &err) < 0)
		complain(c, err);
	json_decref(oci);
	json_decref(before);
}

int berth_container_update(struct berth_container *c, enum berth_ctr_phase phase,
        const Runtime__V1__LinuxContainerResources *change, json_t *after,
        struct berth_error **ret_err)
{
	_cleanup_free_ char *path = NULL;
	struct berth_cg_source s = cgroup_of(c, &path);

	_cleanup_free_ char *outer = berth_cgroup_path_of(c->cgroups_path);
	json_t *oci = NULL;

	if (berth_inforce_check(&s, outer, &c->d->host, change, ret_err) < 0 ||
	        berth_resources_oci(c->id, after, &c->d->host, &oci, ret_err) < 0)
		return -1;
	json_t *files = berth_inforce_read(&s, after);
	json_t *intent = json_pack("{s:O, s:O}", "after", after, "files", files);
	int r = berth_container_save_as(c, phase, c->resources, intent, ret_err);
	json_decref(intent);
	if (r == 0) {
		berth_fault("ctr-update-before");
		r = apply(c, &s, after, oci, change->oom_score_adj != 0, ret_err);
		berth_fault("ctr-update-after");
		if (r == 0)
			r = berth_container_save_as(c, phase, after, NULL, ret_err);
		if (r < 0)
			take_back(c, phase, after, files);
		berth_fault("ctr-updated-after");
	}
	json_decref(oci);
	json_decref(files);
	return r;
}

void berth_container_recover_update(struct berth_container *c)
{
	json_t *after = json_object_get(c->update, "after"),
	       *files = json_object_get(c->update, "files");

	if (c->phase != BERTH_CTR_EXITED && json_is_object(after) && json_is_object(files)) {
		berth_log_info("a half-made update is taken back", "container", c->id);
		take_back(c, c->phase, after, files);
	}
	json_decref(c->update);
	c->update = NULL;
}
