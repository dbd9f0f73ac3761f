/* What a registry or an archive says about an image: manifests, indexes, configs, and the texts
 * around them. The first byte chooses the reader. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pull/artifact.h"
#include "pull/auth.h"
#include "pull/image.h"
#include "pull/protocol.h"
#include "pull/ref.h"
#include "pull/token.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void artifact(const struct pull_manifest *m)
{
	struct pull_config c;
	struct berth_error *err = NULL;

	if (pull_artifact_config(m, &c, &err) < 0) {
		berth_error_free(err);
		return;
	}
	must(c.n_diff_ids == m->n_layers);
	for (size_t i = 0; i < m->n_layers; i++) {
		_cleanup_free_ char *name = NULL;
		size_t len = 0;
		must(pull_artifact_name(&m->layers[i], &name, &err) == 0);
		_cleanup_free_ char *head = pull_artifact_head(name, m->layers[i].size, &len);
		must(head && len % 512 == 0 && *name != '/' && !strstr(name, "/../"));
		_cleanup_free_ char *tail = pull_artifact_tail(m->layers[i].size, &len);
		must(tail && (len + m->layers[i].size) % 512 == 0);
	}
	pull_config_finish(&c);
}

static void document(const char *text, size_t len)
{
	static const struct pull_platform platform = {"linux", "arm", "v7"};
	struct pull_doc doc;
	struct berth_error *err = NULL;

	if (pull_doc_parse(text, len, NULL, &platform, &doc, &err) < 0) {
		must(err->msg != NULL);
		berth_error_free(err);
		return;
	}
	must(!doc.manifest != !doc.entry); /* one of the two */
	if (doc.entry)
		must(pull_digest_valid(doc.entry->digest));
	for (size_t i = 0; doc.manifest && i < doc.manifest->n_layers; i++)
		must(pull_digest_valid(doc.manifest->layers[i].digest));
	must(!doc.manifest || doc.manifest->n_layers <= BERTH_LIMIT_IMAGE_LAYERS);
	if (doc.manifest && doc.manifest->artifact)
		artifact(doc.manifest);
	pull_doc_finish(&doc);
}

static void config(const char *text, size_t len)
{
	struct pull_config c;
	struct berth_error *err = NULL;

	if (pull_config_parse(text, len, &c, &err) < 0) {
		berth_error_free(err);
		return;
	}
	for (size_t i = 0; i < c.n_diff_ids; i++)
		must(pull_digest_valid(c.diff_ids[i]));
	must(json_is_array(json_object_get(json_object_get(c.record, "config"), "env")));
	pull_config_finish(&c);
}

static void auth(const char *text, size_t len)
{
	struct pull_creds creds = {0};
	struct berth_error *err = NULL;

	if (pull_auth_of_file(text, len, "docker.io", "library/x", &creds, &err) < 0)
		berth_error_free(err);
	pull_creds_finish(&creds);
}

static void reference(const char *text)
{
	struct pull_ref ref = {0};
	struct berth_error *err = NULL;

	if (pull_ref_parse(text, &ref, &err) < 0) {
		berth_error_free(err);
		return;
	}
	/* It becomes a part of a URL as it is. */
	must(!strpbrk(ref.path, "?#%\\ \r\n:@") && !strstr(ref.path, "..") && *ref.path != '/');
	must(ref.tag || ref.digest);
	pull_ref_finish(&ref);
}

static void challenge(const char *text)
{
	free(pull_challenge_scheme(text));
	free(pull_challenge_param(text, "realm"));
	free(pull_challenge_param(text, ""));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	_cleanup_free_ char *text = berth_zalloc(size);
	memcpy(text, data + 1, size - 1);
	switch (data[0]) {
	case 'c':
		config(text, size - 1);
		break;
	case 'a':
		auth(text, size - 1);
		break;
	case 'r':
		reference(text);
		break;
	case 'w':
		challenge(text);
		break;
	default:
		document(text, size - 1);
	}
	return 0;
}
