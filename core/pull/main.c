/* berth-pull: pulls or imports images for berthd, which started it with a socket as fd 3
 * (protocol.h). One process, one pull. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/import.h"
#include "pull/protocol.h"
#include "pull/session.h"

enum { PARALLEL_MAX = 16 };

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

static int run(struct pull_wire *wire, const json_t *first, int fd, struct berth_error **ret_err)
{
	struct pull_session s = {.wire = wire};
	const char *t = text_of(first, "t");
	_cleanup_close_ int own = fd;

	if (read_session(first, &s, ret_err) < 0 || pull_wire_start(wire, ret_err) < 0)
		return -1;
	if (strcmp(t, "import") == 0)
		return run_import(&s, first, berth_take_fd(&own), ret_err);
	return berth_error_set(ret_err, BERTH_INTERNAL, "unknown request '%.50s'", t);
}

int main(int argc, char **argv)
{
	bool confined = !(argc == 2 && strcmp(argv[1], "--unconfined") == 0);
	struct pull_wire *wire;
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
	wire = pull_wire_new(BERTH_PULL_FD);
	if (pull_wire_recv(wire, &first, &fd, &err) < 0 || run(wire, first, fd, &err) < 0) {
		pull_wire_send_error(wire, err);
		/* Threads may be at work: nothing that they use is freed. */
		_exit(EXIT_FAILURE);
	}
	json_decref(first);
	pull_wire_free(wire);
	return EXIT_SUCCESS;
}
