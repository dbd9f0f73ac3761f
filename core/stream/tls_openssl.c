/* The module berth-tls.so. */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stream/tls.h"

struct berth_tls_ctx {
	SSL_CTX *ssl;
};

struct berth_tls {
	SSL *ssl;
	char why[256];
};

/* The first error of OpenSSL's queue, or the errno. */
static void explain(char *why, size_t size, const char *what, const char *file)
{
	unsigned long e = ERR_get_error();
	const char *text = e ? ERR_reason_error_string(e) : strerror(errno);

	/* An error of the system is kept by its number. */
	if (e && ERR_SYSTEM_ERROR(e))
		text = strerror(ERR_GET_REASON(e));
	snprintf(why, size, "%s%s%s: %s", what, file ? " " : "", file ? file : "",
	        text ? text : "unknown error");
	ERR_clear_error();
}

/* An encrypted key must not ask a terminal for its password. */
static int no_password(char *buf, int size, int writing, void *arg)
{
	(void)buf;
	(void)size;
	(void)writing;
	(void)arg;
	return 0;
}

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
        const unsigned char *in, unsigned int in_len, void *arg)
{
	static const unsigned char http[] = "\x08http/1.1";
	unsigned char *chosen = NULL;
	(void)ssl;
	(void)arg;

	if (SSL_select_next_proto(&chosen, out_len, http, sizeof(http) - 1, in, in_len) !=
	        OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

static int64_t not_after(SSL_CTX *ssl)
{
	const X509 *x = SSL_CTX_get0_certificate(ssl);
	struct tm tm;

	if (!x || !ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm))
		return 0;
	return (int64_t)timegm(&tm);
}

static int own_certificate(SSL_CTX *ssl, const struct berth_tls_files *f, char *why, size_t size)
{
	if (SSL_CTX_use_certificate_chain_file(ssl, f->cert) != 1) {
		explain(why, size, "certificate", f->cert);
		return -1;
	}
	int r = SSL_CTX_use_PrivateKey_file(ssl, f->key, SSL_FILETYPE_PEM);
	unsigned long e = ERR_peek_error();
	bool other = r != 1 && ERR_GET_LIB(e) == ERR_LIB_X509 &&
	             ERR_GET_REASON(e) == X509_R_KEY_VALUES_MISMATCH;
	if (r != 1 && !other) {
		explain(why, size, "key", f->key);
		return -1;
	}
	/* A key of another type than the certificate's is taken at first. */
	if (r != 1 || SSL_CTX_check_private_key(ssl) != 1) {
		snprintf(why, size, "key %s: it is not the key of the certificate %s", f->key,
		        f->cert);
		ERR_clear_error();
		return -1;
	}
	return 0;
}

static int others_certificates(
        SSL_CTX *ssl, const struct berth_tls_files *f, bool server, char *why, size_t size)
{
	if (f->ca && SSL_CTX_load_verify_file(ssl, f->ca) != 1) {
		explain(why, size, "CA certificates", f->ca);
		return -1;
	}
	if (!f->ca && !server && !f->no_verify)
		SSL_CTX_set_default_verify_paths(ssl);
	if (server && f->ca) {
		STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(f->ca);
		SSL_CTX_set_client_CA_list(ssl, names); /* it owns them now */
		SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	} else if (!server && !f->no_verify) {
		SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, NULL);
	}
	ERR_clear_error();
	return 0;
}

static void ctx_free(struct berth_tls_ctx *ctx)
{
	if (!ctx)
		return;
	SSL_CTX_free(ctx->ssl);
	free(ctx);
}

static struct berth_tls_ctx *ctx_new(const struct berth_tls_files *f, bool server,
        int64_t *ret_not_after, char *why, size_t why_size)
{
	struct berth_tls_ctx *ctx = calloc(1, sizeof(*ctx));

	ERR_clear_error();
	if (ctx)
		ctx->ssl = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	if (!ctx || !ctx->ssl) {
		explain(why, why_size, "TLS", NULL);
		free(ctx);
		return NULL;
	}
	SSL_CTX *ssl = ctx->ssl;
	SSL_CTX_set_min_proto_version(ssl, f->no_1_2 ? TLS1_3_VERSION : TLS1_2_VERSION);
	/* Streams are long: what would make their beginning quicker, and what happens in their
	 * middle, is not worth its risk. */
	SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
	                                 SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE |
	                                 SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_num_tickets(ssl, 0);
	SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
	                              SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_default_passwd_cb(ssl, no_password);
	if (server)
		SSL_CTX_set_alpn_select_cb(ssl, choose_alpn, NULL);
	if ((f->cert && own_certificate(ssl, f, why, why_size) < 0) ||
	        others_certificates(ssl, f, server, why, why_size) < 0) {
		ctx_free(ctx);
		return NULL;
	}
	if (ret_not_after)
		*ret_not_after = not_after(ssl);
	return ctx;
}

static void tls_free(struct berth_tls *t)
{
	if (!t)
		return;
	SSL_free(t->ssl);
	free(t);
}

static bool name_the_server(SSL *ssl, const char *name)
{
	unsigned char raw[sizeof(struct in6_addr)];

	if (inet_pton(AF_INET, name, raw) == 1 || inet_pton(AF_INET6, name, raw) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
	return SSL_set_tlsext_host_name(ssl, name) == 1 && SSL_set1_host(ssl, name) == 1;
}

static struct berth_tls *tls_open(struct berth_tls_ctx *ctx, int fd, const char *server_name)
{
	struct berth_tls *t = calloc(1, sizeof(*t));

	ERR_clear_error();
	if (t)
		t->ssl = SSL_new(ctx->ssl);
	if (!t || !t->ssl || SSL_set_fd(t->ssl, fd) != 1 ||
	        (server_name && !name_the_server(t->ssl, server_name))) {
		ERR_clear_error();
		tls_free(t);
		return NULL;
	}
	if (server_name)
		SSL_set_connect_state(t->ssl);
	else
		SSL_set_accept_state(t->ssl);
	return t;
}

static ssize_t result(struct berth_tls *t, int r)
{
	int saved = errno, what = SSL_get_error(t->ssl, r);
	unsigned long e = ERR_peek_error();
	long verify = SSL_get_verify_result(t->ssl);

	switch (what) {
	case SSL_ERROR_WANT_READ:
		return BERTH_TLS_WANT_READ;
	case SSL_ERROR_WANT_WRITE:
		return BERTH_TLS_WANT_WRITE;
	case SSL_ERROR_ZERO_RETURN:
		return BERTH_TLS_END;
	case SSL_ERROR_SSL:
		if (ERR_GET_LIB(e) == ERR_LIB_SSL && ERR_GET_REASON(e) == SSL_R_HTTP_REQUEST) {
			ERR_clear_error();
			return BERTH_TLS_PLAIN;
		}
		if (ERR_GET_LIB(e) == ERR_LIB_SSL &&
		        ERR_GET_REASON(e) == SSL_R_CERTIFICATE_VERIFY_FAILED &&
		        verify != X509_V_OK) {
			snprintf(t->why, sizeof(t->why), "the other side's certificate: %s",
			        X509_verify_cert_error_string(verify));
			break;
		}
		explain(t->why, sizeof(t->why), "TLS", NULL);
		break;
	default:
		snprintf(t->why, sizeof(t->why), "TLS: %s",
		        saved ? strerror(saved) : "the connection ended");
		break;
	}
	ERR_clear_error();
	return BERTH_TLS_FAILED;
}

static ssize_t tls_read(struct berth_tls *t, void *buf, size_t n)
{
	size_t got = 0;

	ERR_clear_error();
	errno = 0;
	int r = SSL_read_ex(t->ssl, buf, n, &got);
	return r == 1 ? (ssize_t)got : result(t, r);
}

static ssize_t tls_write(struct berth_tls *t, const void *p, size_t n)
{
	size_t put = 0;

	ERR_clear_error();
	errno = 0;
	int r = SSL_write_ex(t->ssl, p, n, &put);
	return r == 1 ? (ssize_t)put : result(t, r);
}

static void tls_end(struct berth_tls *t)
{
	if (SSL_is_init_finished(t->ssl))
		(void)SSL_shutdown(t->ssl); /* an error is found by reading */
	ERR_clear_error();
}

static const char *tls_why(const struct berth_tls *t)
{
	return t->why;
}

__attribute__((visibility("default"))) extern const struct berth_tls_api berth_tls_api;
const struct berth_tls_api berth_tls_api = {
        .version = BERTH_TLS_API,
        .ctx_new = ctx_new,
        .ctx_free = ctx_free,
        .open = tls_open,
        .read = tls_read,
        .write = tls_write,
        .end = tls_end,
        .why = tls_why,
        .free = tls_free,
};
