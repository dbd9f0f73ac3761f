/* berth-pull: pulls, imports or copies images for berthd, which started it with a socket as fd 3
 * (protocol.h). One process, one pull. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/checkpoint.h"
#include "pull/confine.h"
#include "pull/copy.h"
#include "pull/http.h"
#include "pull/import.h"
#include "pull/protocol.h"
#include "pull/ref.h"
#include "pull/registries.h"
#include "pull/registry.h"
#include "pull/session.h"
#include "pull/shared.h"

enum { PARALLEL_MAX = 32 };

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

static int read_session(const json_t *first, struct pull_session *s, struct berth_error **ret_err)
{
	const json_t *platform = json_object_get(first, "platform");
	json_int_t parallel = json_integer_value(json_object_get(first, "parallel"));
	int whiteout = pull_whiteout_parse(text_of(first, "whiteout"));

	if (whiteout < 0)
		return berth_error_set(ret_err, BERTH_INTERNAL, "unknown whiteout form '%.50s'",
		        text_of(first, "whiteout"));
	s->whiteout = (enum pull_whiteout)whiteout;
	s->platform = (struct pull_platform){text_of(platform, "os"),
	        text_of(platform, "architecture"), text_of(platform, "variant")};
	if (parallel > PARALLEL_MAX)
		parallel = PARALLEL_MAX;
	bool several = json_is_true(json_object_get(first, "detached")) && parallel > 1;
	s->parallel = several ? (unsigned int)parallel : 1;
	return 0;
}

static int import_one(const struct pull_session *s, struct pull_import *im, struct pull_found *f,
        struct berth_error **ret_err)
{
	char digest[PULL_DIGEST_SIZE], index_digest[PULL_DIGEST_SIZE] = "";
	struct pull_source *source = pull_import_source(im);
	_cleanup_(pull_manifest_freep) struct pull_manifest *m = berth_take(f->manifest);

	if (m)
		memcpy(digest, f->digest, sizeof(digest));
	else if (pull_session_resolve(s, source, &f->desc, &m, digest, index_digest, ret_err) < 0)
		return -1;
	struct pull_image image = {.source = source,
	        .ref = f->ref,
	        .digest = digest,
	        .index_digest = *index_digest ? index_digest : NULL,
	        .manifest = m};
	return pull_session_image(s, &image, ret_err);
}

static int run_import(
        const struct pull_session *s, const json_t *first, int fd, struct berth_error **ret_err)
{
	struct pull_import *im = NULL;
	struct pull_found *found = NULL;
	size_t n = 0;

	if (fd < 0)
		return berth_error_set(ret_err, BERTH_INTERNAL, "no file came with `import`");
	int r = pull_import_open(fd, &im, ret_err);
	if (r == 0)
		r = pull_import_list(im, json_string_value(json_object_get(first, "ref")),
		        &s->platform, &found, &n, ret_err);
	for (size_t i = 0; r == 0 && i < n; i++) {
		r = import_one(s, im, &found[i], ret_err);
		if (r < 0 && n > 1)
			berth_error_wrap(ret_err, "image '%s'", found[i].ref ? found[i].ref : "?");
	}
	pull_found_free(found, n);
	pull_import_free(im);
	return r;
}

static void heard_of(void *wire, const char *host, bool up)
{
	_cleanup_(berth_error_freep) struct berth_error *ignored = NULL;
	/* Where berthd has gone the process ends anyway. */
	int r = pull_wire_send(wire,
	        json_pack("{s:s, s:s, s:b}", "t", "host", "host", host, "up", up), -1, &ignored);
	(void)r;
}

static int pull_from(const struct pull_session *s, const json_t *first, const struct pull_ref *ref,
        const char *name, struct berth_error **ret_err)
{
	char digest[PULL_DIGEST_SIZE], index_digest[PULL_DIGEST_SIZE] = "";
	_cleanup_(pull_manifest_freep) struct pull_manifest *m = NULL;
	struct pull_registry *reg = NULL;
	struct pull_desc start = {0};

	int r = pull_registry_open(first, ref, &reg, ret_err);
	if (r == 0)
		pull_registry_watch(reg, heard_of, s->wire);
	if (r == 0)
		r = pull_session_resolve(
		        s, pull_registry_source(reg), &start, &m, digest, index_digest, ret_err);
	if (r == 0) {
		struct pull_image image = {.source = pull_registry_source(reg),
		        .ref = name,
		        .digest = digest,
		        .index_digest = *index_digest ? index_digest : NULL,
		        .manifest = m};
		r = pull_session_image(s, &image, ret_err);
	}
	pull_registry_free(reg);
	return r;
}

static int run_pull(const struct pull_session *s, const json_t *first, struct berth_error **ret_err)
{
	const char *text = text_of(first, "image");
	_cleanup_(pull_ref_finish) struct pull_ref ref = {0};

	/* libcurl leaves out this one, which a web server's child could be made to have; others
	 * read it. */
	const char *proxy = getenv("HTTP_PROXY");
	if (proxy)
		setenv("http_proxy", proxy, 0);
	if (pull_ref_parse(text, &ref, ret_err) < 0)
		return -1;
	if (!*ref.host)
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "'%s' names no registry", text);
	if (pull_http_global_init(ret_err) < 0)
		return -1;
	int r = pull_from(s, first, &ref, text, ret_err);
	pull_http_global_finish();
	return r;
}

static int run(struct pull_wire *wire, const json_t *first, int fd, struct berth_error **ret_err)
{
	struct pull_session s = {.wire = wire};
	const char *t = text_of(first, "t");
	_cleanup_close_ int own = fd;

	if (read_session(first, &s, ret_err) < 0 || pull_wire_start(wire, ret_err) < 0)
		return -1;
	if (strcmp(t, "shared") == 0)
		return pull_shared_tell(
		        wire, text_of(first, "dir"), text_of(first, "known"), own, ret_err);
	if (strcmp(t, "export") == 0)
		return pull_export_run(&s, own, first, ret_err);
	if (strcmp(t, "checkpoint") == 0)
		return pull_checkpoint_run(&s, own, first, ret_err);
	if (strcmp(t, "copy") == 0) {
		json_int_t n = json_integer_value(json_object_get(first, "layers"));
		return pull_copy_run(&s, n < 0 ? SIZE_MAX : (size_t)n, ret_err);
	}
	if (strcmp(t, "import") == 0)
		return run_import(&s, first, berth_take_fd(&own), ret_err);
	if (strcmp(t, "pull") == 0)
		return run_pull(&s, first, ret_err);
	return berth_error_set(ret_err, BERTH_INTERNAL, "unknown request '%.50s'", t);
}

static char **add_strings(char **v, const json_t *list)
{
	const json_t *e;
	size_t i;

	json_array_foreach (list, i, e)
		if (json_is_string(e))
			v = berth_strv_append(v, json_string_value(e));
	return v;
}

/* Who does not pull reads nothing but what it is given; a pull reads its configuration, too. */
static int confine(const json_t *first, struct berth_error **ret_err)
{
	bool pull = strcmp(text_of(first, "t"), "pull") == 0;
	const char *registries = text_of(first, "registries");
	_cleanup_(berth_strv_freep) char **files = NULL;

	if (strcmp(text_of(first, "t"), "shared") == 0)
		files = berth_strv_append(files, text_of(first, "dir"));
	if (pull) {
		_cleanup_free_ char *drop_ins = berth_asprintf("%s.d", registries);
		if (*registries) {
			files = berth_strv_append(files, registries);
			files = berth_strv_append(files, drop_ins);
		}
		files = add_strings(files, json_object_get(first, "certs_dirs"));
		files = add_strings(files, json_object_get(first, "auth_files"));
	}
	struct pull_confine_opts o = {.network = pull, .files = files};
	if (pull_confine(&o, ret_err) < 0)
		return berth_error_wrap(ret_err, "confine berth-pull");
	return 0;
}

int main(int argc, char **argv)
{
	bool confined = !(argc == 2 && strcmp(argv[1], "--unconfined") == 0);
	struct berth_error *err = NULL;
	json_t *first = NULL;
	int fd = -1;

	if (argc > 2 || (argc == 2 && confined)) {
		fputs("usage: berth-pull [--unconfined], started by berthd with its socket as fd "
		      "3\n",
		        stderr);
		return EXIT_FAILURE;
	}
	umask(0);
	struct pull_wire *wire = pull_wire_new(BERTH_PULL_FD);
	if (pull_wire_recv(wire, &first, &fd, &err) < 0 || (confined && confine(first, &err) < 0) ||
	        run(wire, first, fd, &err) < 0) {
		pull_wire_send_error(wire, err);
		/* Threads may be at work: nothing that they use is freed. */
		_exit(EXIT_FAILURE);
	}
	json_decref(first);
	pull_wire_free(wire);
	if (confined)
		_exit(EXIT_SUCCESS); /* a leak checker at exit would have no /proc */
	return EXIT_SUCCESS;
}
