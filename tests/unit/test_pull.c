/* core/pull: digests, decompression, registries.conf, references, credentials, challenges,
 * platforms. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/auth.h"
#include "pull/decode.h"
#include "pull/digest.h"
#include "pull/http_certs.h"
#include "pull/image.h"
#include "pull/registries.h"
#include "pull/token.h"
#include "pull/toml.h"
#include "pull/tree.h"

static void digests_and_chain_ids(void **state)
{
	char d[PULL_DIGEST_SIZE], c[PULL_DIGEST_SIZE];

	pull_digest_of("abc", 3, d);
	assert_string_equal(
	        d, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_true(pull_digest_valid(d));
	pull_chain_id(NULL, d, c);
	assert_string_equal(c, d);
	/* sha256 of "D D" for that D, by another tool */
	pull_chain_id(d, d, c);
	assert_string_equal(
	        c, "sha256:95bbd0d1bf2f6edd073d53e1caa6d4b4778912f6b19bad7a45d56c58e23533bd");
	static const char *const bad[] = {"", "sha256:", "sha256:12", "md5:00",
	        "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
	        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a/"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++)
		assert_false(pull_digest_valid(bad[i]));
	assert_false(pull_digest_valid(NULL));
}

enum { PLAIN = 300000 };

static char *plain_text(void)
{
	char *p = berth_zalloc(PLAIN);
	for (size_t i = 0; i < PLAIN; i++)
		p[i] = (char)((i * i) >> 7);
	return p;
}

static size_t gzip(const char *p, size_t n, char *out, size_t cap)
{
	z_stream z = {0};
	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = (Bytef *)(uintptr_t)p;
	z.avail_in = (uInt)n;
	z.next_out = (Bytef *)out;
	z.avail_out = (uInt)cap;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return cap - z.avail_out;
}

/* Feeds in pieces of every size up to `piece`; the queue holds all of the output. */
static int decode(
        const char *p, size_t n, size_t piece, char *out, size_t *ret_len, struct berth_error **err)
{
	struct pull_queue *q = pull_queue_new();
	struct pull_decoder *d = pull_decoder_new(q);
	const void *part;
	ssize_t got;
	int r = 0;

	for (size_t at = 0, step = 1; r == 0 && at < n; step = step % piece + 1) {
		size_t len = n - at < step ? n - at : step;
		r = pull_decoder_feed(d, p + at, len, err);
		at += len;
	}
	if (r == 0)
		r = pull_decoder_finish(d, err);
	pull_queue_end(q, r < 0);
	*ret_len = 0;
	while ((got = pull_queue_read(q, &part)) > 0) {
		assert_true(*ret_len + (size_t)got <= 2 * PLAIN);
		memcpy(out + *ret_len, part, (size_t)got);
		*ret_len += (size_t)got;
	}
	assert_int_equal(got, r);
	pull_decoder_free(d);
	pull_queue_free(q);
	return r;
}

static void check_decode(const char *packed, size_t n, const char *want, size_t want_len)
{
	_cleanup_free_ char *out = berth_zalloc(2 * PLAIN);

	for (size_t piece = 1; piece < 2 * n; piece = piece * 7 + 3) {
		struct berth_error *err = NULL;
		size_t len;
		assert_int_equal(decode(packed, n, piece, out, &len, &err), 0);
		assert_int_equal(len, want_len);
		assert_memory_equal(out, want, len);
	}
}

static void decodes_gzip_zstd_and_plain_in_any_pieces(void **state)
{
	_cleanup_free_ char *p = plain_text();
	_cleanup_free_ char *twice = berth_zalloc(2 * PLAIN);
	_cleanup_free_ char *packed = berth_zalloc(4 * PLAIN);

	memcpy(twice, p, PLAIN);
	memcpy(twice + PLAIN, p, PLAIN);
	size_t n = gzip(p, PLAIN, packed, 2 * PLAIN);
	check_decode(packed, n, p, PLAIN);
	size_t m = gzip(p, PLAIN, packed + n, 2 * PLAIN); /* a second member, and padding */
	check_decode(packed, n + m, twice, 2 * PLAIN);
	memset(packed + n + m, 0, 512);
	check_decode(packed, n + m + 512, twice, 2 * PLAIN);

	n = ZSTD_compress(packed, 2 * PLAIN, p, PLAIN, 1);
	check_decode(packed, n, p, PLAIN);
	m = ZSTD_compress(packed + n, 2 * PLAIN, p, PLAIN, 1);
	check_decode(packed, n + m, twice, 2 * PLAIN);
	check_decode(p, PLAIN, p, PLAIN);
	for (size_t len = 0; len < 8; len++)
		check_decode(p, len, p, len);
}

static void damaged_streams_fail(void **state)
{
	_cleanup_free_ char *p = plain_text();
	_cleanup_free_ char *packed = berth_zalloc(2 * PLAIN), *out = berth_zalloc(2 * PLAIN);
	size_t n = gzip(p, PLAIN, packed, 2 * PLAIN), len;

	for (size_t cut = 1; cut < n; cut += n / 17) {
		struct berth_error *err = NULL;
		if (cut < 2)
			continue; /* one byte is no magic yet */
		assert_int_equal(decode(packed, cut, 4096, out, &len, &err), -1);
		assert_int_equal(err->code, BERTH_DATA_LOSS);
		berth_error_free(err);
	}
	packed[n - 5] ^= 1; /* the checksum */
	struct berth_error *err = NULL;
	assert_int_equal(decode(packed, n, 4096, out, &len, &err), -1);
	assert_int_equal(err->code, BERTH_DATA_LOSS);
	err = berth_error_free(err);
	packed[n - 5] ^= 1;
	packed[n] = 'x'; /* what follows is no member */
	assert_int_equal(decode(packed, n + 1, 4096, out, &len, &err), -1);
	err = berth_error_free(err);
	assert_int_equal(decode("BZh91AY", 7, 7, out, &len, &err), -1);
	assert_int_equal(err->code, BERTH_UNIMPLEMENTED);
	berth_error_free(err);
}

static void names_are_cleaned_or_refused(void **state)
{
	static const struct {
		const char *raw, *clean;
	} good[] = {{".", ""}, {"./", ""}, {"a", "a"}, {"./a//b/./c/", "a/b/c"}, {"a/..b", "a/..b"},
	        {"...", "..."}};
	static const char *const bad[] = {"", "/", "/a", "..", "a/..", "../a", "a/../b", "./..//"};
	char out[4096];

	for (size_t i = 0; i < BERTH_ARRAY_LEN(good); i++) {
		assert_null(pull_tree_clean(good[i].raw, out));
		assert_string_equal(out, good[i].clean);
	}
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++)
		assert_non_null(pull_tree_clean(bad[i], out));
	assert_non_null(pull_tree_clean(NULL, out));
}

static void toml_is_read_strictly(void **state)
{
	static const char text[] =
	        "a = \"x\\u00e9\\\"\" # c\r\nb.c = [ 1,\n 'y', # d\n true, ]\n"
	        "[t.\"u v\"]\nk = { l = -3 }\n[[r]]\nn = 1\n[[r]]\n[r.s]\nm = 2\n";
	struct berth_error *err = NULL;
	json_t *doc = NULL, *want;

	assert_int_equal(pull_toml_parse(text, sizeof(text) - 1, &doc, &err), 0);
	want = json_loads("{\"a\":\"x\\u00e9\\\"\",\"b\":{\"c\":[1,\"y\",true]},"
	                  "\"t\":{\"u v\":{\"k\":{\"l\":-3}}},\"r\":[{\"n\":1},{\"s\":{\"m\":2}}]}",
	        0, NULL);
	assert_true(json_equal(doc, want));
	json_decref(doc);
	json_decref(want);
	static const char *const bad[] = {"a", "a =", "a = b", "= 1", "a = 1 2", "a = 'x",
	        "a = \"\\q\"", "[a", "[a]]", "[[a]", "a = 1\na = 2", "a = \"\"\"x\"\"\"", "a = [1",
	        "a = {b = 1", "a = 1.5", "a = 12:00", "a = \"\\ud800\"", "a = 1\n[a]\n",
	        "a = []\n[[a.b]]", "x = [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		if (pull_toml_parse(bad[i], strlen(bad[i]), &doc, &err) == 0)
			fail_msg("'%s' was taken", bad[i]);
		assert_non_null(strstr(err->msg, "line "));
		err = berth_error_free(err);
	}
}

static void places_of(const char *conf, const char *text, char *out, size_t cap)
{
	struct pull_registries *r = pull_registries_new();
	struct pull_place_of *v = NULL;
	struct pull_ref ref = {0};
	struct berth_error *err = NULL;
	size_t n = 0, at = 0;

	assert_int_equal(pull_registries_add(r, "x", conf, strlen(conf), &err), 0);
	assert_int_equal(pull_ref_parse(text, &ref, &err), 0);
	*out = '\0';
	if (pull_registries_places(r, &ref, &v, &n, &err) < 0) {
		snprintf(out, cap, "%s", berth_code_name(err->code));
		berth_error_free(err);
	}
	for (size_t i = 0; i < n; i++)
		at += (size_t)snprintf(out + at, cap - at, "%s%s%s|%s", i ? " " : "",
		        v[i].insecure ? "!" : "", v[i].host, v[i].path);
	pull_places_free(v, n);
	pull_ref_finish(&ref);
	pull_registries_free(r);
}

static void registries_are_chosen_by_the_longest_prefix(void **state)
{
	static const char conf[] =
	        "[[registry]]\nprefix='a.io'\nlocation='b.io:5000/p'\n"
	        "[[registry]]\nprefix='a.io/x'\nlocation='c.io'\ninsecure=true\n"
	        "[[registry.mirror]]\nlocation='m.io/y'\n"
	        "[[registry]]\nprefix='*.w.io'\n"
	        "[[registry.mirror]]\nlocation='m.io'\npull-from-mirror='digest-only'\n"
	        "[[registry]]\nprefix='*.v.w.io'\nlocation='v'\n"
	        "[[registry]]\nprefix='no.io'\nblocked=true\n";
	static const struct {
		const char *ref, *places;
	} cases[] = {{"a.io/z:1", "b.io:5000|p/z"}, {"a.io/x/z", "m.io|y/z !c.io|z"},
	        {"a.io/xy/z", "b.io:5000|p/xy/z"}, {"a.io:80/z", "a.io:80|z"},
	        {"s.w.io/z", "s.w.io|z"}, {"w.io/z", "w.io|z"}, {"s.v.w.io:1/z", "v:1|z"},
	        {"t.s.v.w.io/z", "v|z"}, {"no.io/z", "PERMISSION_DENIED"},
	        {"s.w.io/z@sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
	                "m.io|z s.w.io|z"}};
	char out[256];

	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++) {
		places_of(conf, cases[i].ref, out, sizeof(out));
		assert_string_equal(out, cases[i].places);
	}
}

static void loopback_hosts(void **state)
{
	static const char *const yes[] = {
	        "localhost", "localhost:5000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:5000"};
	static const char *const no[] = {"localhost.example", "127.example.com", "128.0.0.1",
	        "[::2]", "example.com:127", "", "127.0.0.1.nip.io"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(yes); i++)
		assert_true(pull_host_is_loopback(yes[i]));
	for (size_t i = 0; i < BERTH_ARRAY_LEN(no); i++)
		assert_false(pull_host_is_loopback(no[i]));
}

static void challenges_are_read(void **state)
{
	static const char c[] =
	        "Bearer  realm=\"https://a/t?x=\\\"1\\\"\" , service=plain,Scope=\"a,b\"";
	_cleanup_free_ char *scheme = pull_challenge_scheme(c);
	_cleanup_free_ char *realm = pull_challenge_param(c, "realm");
	_cleanup_free_ char *service = pull_challenge_param(c, "SERVICE");
	_cleanup_free_ char *scope = pull_challenge_param(c, "scope");

	assert_string_equal(scheme, "bearer");
	assert_string_equal(realm, "https://a/t?x=\"1\"");
	assert_string_equal(service, "plain");
	assert_string_equal(scope, "a,b");
	assert_null(pull_challenge_param(c, "real"));
	assert_null(pull_challenge_param("Basic", "realm"));
}

static void the_most_specific_key_of_an_auth_file_counts(void **state)
{
	/* dTpw: u:p, djpx: v:q */
	static const char text[] =
	        "{\"auths\":{\"r.io\":{\"auth\":\"dTpw\"},\"r.io/a\":{\"auth\":\"djpx\"},"
	        "\"https://index.docker.io/v1/\":{\"identitytoken\":\"t\"}}}";
	struct pull_creds c = {0};
	struct berth_error *err = NULL;

	assert_int_equal(pull_auth_of_file(text, strlen(text), "r.io", "a/b", &c, &err), 0);
	assert_string_equal(c.username, "v");
	assert_string_equal(c.password, "q");
	pull_creds_finish(&c);
	assert_int_equal(pull_auth_of_file(text, strlen(text), "r.io", "ab/c", &c, &err), 0);
	assert_string_equal(c.username, "u");
	pull_creds_finish(&c);
	assert_int_equal(pull_auth_of_file(text, strlen(text), "docker.io", "x/y", &c, &err), 0);
	assert_string_equal(c.identity_token, "t");
	pull_creds_finish(&c);
	assert_int_equal(pull_auth_of_file(text, strlen(text), "r.io.evil", "a", &c, &err), 0);
	assert_false(pull_creds_any(&c));
}

static unsigned int rank(const char *platform, const char *arch, const char *variant)
{
	json_t *p = json_loads(platform, 0, NULL);
	struct pull_platform want = {"linux", arch, variant};
	unsigned int r = pull_platform_rank(p, &want);
	json_decref(p);
	return r;
}

static void platforms_rank_by_what_runs(void **state)
{
	static const char v6[] = "{\"os\":\"linux\",\"architecture\":\"arm\",\"variant\":\"v6\"}",
	                  v7[] = "{\"os\":\"linux\",\"architecture\":\"arm\",\"variant\":\"v7\"}",
	                  a64[] = "{\"os\":\"linux\",\"architecture\":\"arm64\"}";
	assert_true(rank(v7, "arm", "v7") > rank(v6, "arm", "v7"));
	assert_true(rank(v6, "arm", "v7") > 0);
	assert_int_equal(rank(v7, "arm", "v6"), 0);
	assert_true(rank(a64, "arm64", "v8") > 0 && rank(a64, "arm64", "") > 0);
	assert_int_equal(rank(a64, "arm", "v8"), 0);
	assert_int_equal(rank("{\"os\":\"windows\",\"architecture\":\"arm64\"}", "arm64", ""), 0);
	assert_int_equal(rank("{}", "arm64", ""), 0);
}

static void put(const char *dir, const char *sub, const char *name, const char *text)
{
	_cleanup_free_ char *d = berth_asprintf("%s/%s", dir, sub);
	_cleanup_free_ char *f = berth_asprintf("%s/%s", d, name);
	assert_int_equal(berth_mkdir_p(d, 0755), 0);
	assert_int_equal(berth_write_file_atomic(AT_FDCWD, f, text, strlen(text), 0600, false), 0);
}

static void certificates_are_found_by_host_and_port(void **state)
{
	char top[] = "/tmp/berth-pull-certs-XXXXXX";
	assert_non_null(mkdtemp(top));
	char *dirs[] = {(char[]){"/nonexistent"}, top, NULL};
	struct pull_certs c;
	struct berth_error *err = NULL;

	put(top, "h", "a.crt", "BARE");
	put(top, "h:443", "a.crt", "USUAL");
	put(top, "h:5000", "a.crt", "OTHER");
	put(top, "h:5000", "b.crt", "MORE");
	put(top, "k", "c.cert", "x");
	assert_int_equal(pull_certs_find(dirs, "h", "443", true, &c, &err), 0);
	assert_string_equal(c.ca.data, "USUAL\nBARE\n");
	pull_certs_finish(&c);
	assert_int_equal(pull_certs_find(dirs, "h", "5000", false, &c, &err), 0);
	assert_string_equal(c.ca.data, "OTHER\nMORE\n");
	pull_certs_finish(&c);
	assert_int_equal(pull_certs_find(dirs, "other", "443", true, &c, &err), 0);
	assert_int_equal(c.ca.len, 0);
	assert_int_equal(pull_certs_find(dirs, "k", "443", true, &c, &err), -1);
	assert_int_equal(err->code, BERTH_FAILED_PRECONDITION);
	err = berth_error_free(err);
	put(top, "k", "c.key", "y");
	assert_int_equal(pull_certs_find(dirs, "k", "443", true, &c, &err), 0);
	assert_non_null(strstr(c.cert_path, "/k/c.cert"));
	assert_non_null(strstr(c.key_path, "/k/c.key"));
	pull_certs_finish(&c);
	assert_int_equal(berth_rm_tree(AT_FDCWD, top), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(digests_and_chain_ids),
	        cmocka_unit_test(decodes_gzip_zstd_and_plain_in_any_pieces),
	        cmocka_unit_test(damaged_streams_fail),
	        cmocka_unit_test(names_are_cleaned_or_refused),
	        cmocka_unit_test(toml_is_read_strictly),
	        cmocka_unit_test(registries_are_chosen_by_the_longest_prefix),
	        cmocka_unit_test(loopback_hosts),
	        cmocka_unit_test(challenges_are_read),
	        cmocka_unit_test(the_most_specific_key_of_an_auth_file_counts),
	        cmocka_unit_test(platforms_rank_by_what_runs),
	        cmocka_unit_test(certificates_are_found_by_host_and_port),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
