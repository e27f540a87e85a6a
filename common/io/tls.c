/* tls.c - see tls.h. The only file that includes OpenSSL.
 *
 * OpenSSL reads and writes through a BIO of ours, which knows whether the kernel had less than was asked for: so a read that emptied the
 * socket is not followed by one more that only says EAGAIN. */
#include "common/io/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/arena.h"

enum { READ_AHEAD_BYTES = 32768 };

struct tls {
	SSL *ssl;
	int fd;
	bool drained;                 /* the last recv() took all there was */
	bool failed;                  /* OpenSSL must not be asked again */
	bool ready, wants_write;
	int pending_errno;            /* -1 = close_notify: what ended the read that first gave bytes */
	struct tls_memory *memory;    /* NULL: nothing is remembered of the server */
	char error[160];
};

struct tls_memory { SSL_SESSION *last; };

/* Both are OpenSSL's own counted contexts under other names. */
static SSL_CTX *ctx_of(const struct tls_identity *i) { return (SSL_CTX *)(uintptr_t)i; }
static SSL_CTX *trust_of(const struct tls_trust *t) { return (SSL_CTX *)(uintptr_t)t; }

/* --- between OpenSSL and the socket --- */

static int io_read(BIO *bio, char *to, size_t n, size_t *ret_n)
{
	struct tls *t = BIO_get_data(bio);
	ssize_t got;

	BIO_clear_retry_flags(bio);
	do
		got = recv(t->fd, to, n, 0);
	while (got < 0 && errno == EINTR);
	t->drained = got < (ssize_t)n;
	if (got < 0 && errno == EAGAIN)
		BIO_set_retry_read(bio);
	if (got == 0)
		BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
	*ret_n = got > 0 ? (size_t)got : 0;
	return got > 0;
}

static int io_write(BIO *bio, const char *from, size_t n, size_t *ret_n)
{
	struct tls *t = BIO_get_data(bio);
	ssize_t sent;

	BIO_clear_retry_flags(bio);
	do
		sent = send(t->fd, from, n, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent < 0 && errno == EAGAIN)
		BIO_set_retry_write(bio);
	*ret_n = sent > 0 ? (size_t)sent : 0;
	return sent > 0;
}

static long io_ctrl(BIO *bio, int what, long n, void *p)
{
	if (what == BIO_CTRL_EOF)
		return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
	return what == BIO_CTRL_FLUSH || what == BIO_CTRL_PUSH || what == BIO_CTRL_POP;
}

static BIO_METHOD *io_method;

static void make_method(void)
{
	io_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "corral");
	BIO_meth_set_read_ex(io_method, io_read);
	BIO_meth_set_write_ex(io_method, io_write);
	BIO_meth_set_ctrl(io_method, io_ctrl);
}

/* --- contexts --- */

/* The reason of OpenSSL's last error; takes all of them off its queue. */
static const char *reason(void)
{
	unsigned long code = ERR_peek_last_error();
	const char *said = code && !ERR_SYSTEM_ERROR(code) ? ERR_reason_error_string(code) : NULL;

	ERR_clear_error();
	return said ? said : "it is not understood";
}

static SSL_CTX *new_context(const SSL_METHOD *method)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	SSL_CTX *ctx;

	pthread_once(&once, make_method);
	ctx = SSL_CTX_new(method);
	if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) || !SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20"))
		abort();
	SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, READ_AHEAD_BYTES);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);      /* tickets carry it */
	return ctx;
}

/* A key with a passphrase must not wait for somebody at a terminal. */
static int no_passphrase(char *to, int n, int writing, void *arg)
{
	*(bool *)arg = true;
	return -1;
}

static int choose_protocol(SSL *ssl, const unsigned char **ret, unsigned char *ret_n, const unsigned char *offered, unsigned n, void *arg)
{
	for (unsigned at = 0; at + 1 + 8 <= n; at += 1 + offered[at])
		if (offered[at] == 8 && memcmp(offered + at + 1, "http/1.1", 8) == 0) {
			*ret = offered + at + 1;
			*ret_n = 8;
			return SSL_TLSEXT_ERR_OK;
		}
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static enum err readable(const char *path, const char *what, struct why *why)
{
	FILE *f = fopen(path, "re");

	if (!f)
		return err_field(why, ERR_INVALID, what, "%s: '%s' cannot be read: %s", what, path, strerror(errno));
	(void)fclose(f);
	return ERR_OK;
}

static enum err load_pair(SSL_CTX *ctx, const char *cert, const char *key, const char *const what[2], struct why *why)
{
	bool asked = false, read;

	if (readable(cert, what[0], why) || readable(key, what[1], why))
		return why->code;
	ERR_clear_error();
	SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
	SSL_CTX_set_default_passwd_cb_userdata(ctx, &asked);
	if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
		return err_field(why, ERR_INVALID, what[0], "%s: '%s' is no certificate in PEM form: %s", what[0], cert, reason());
	read = SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) == 1;
	if (read && SSL_CTX_check_private_key(ctx) == 1)
		return ERR_OK;
	if (asked)
		return err_field(why, ERR_INVALID, what[1], "%s: '%s' has a passphrase, which nobody is there to type; give the key without one, readable by Corral alone",
				 what[1], key);
	if (read || ERR_GET_LIB(ERR_peek_last_error()) == ERR_LIB_X509)       /* the one is found while taking it, when both are of one kind */
		return err_field(why, ERR_INVALID, what[1], "%s: the key in '%s' is not that of the certificate in '%s' (%s)", what[1], key, cert, what[0]);
	return err_field(why, ERR_INVALID, what[1], "%s: '%s' is no private key in PEM form: %s", what[1], key, reason());
}

struct tls_identity *tls_identity_load(const char *cert, const char *key, const char *const what[2], struct why *why)
{
	SSL_CTX *ctx = new_context(TLS_server_method());
	enum err err = load_pair(ctx, cert, key, what, why);

	ERR_clear_error();
	SSL_CTX_set_default_passwd_cb_userdata(ctx, NULL);
	SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
	SSL_CTX_set_num_tickets(ctx, 1);
	if (err == ERR_OK)
		return (struct tls_identity *)ctx;
	SSL_CTX_free(ctx);
	return NULL;
}

struct tls_identity *tls_identity_ref(struct tls_identity *i)
{
	if (i)
		SSL_CTX_up_ref(ctx_of(i));
	return i;
}

void tls_identity_unref(struct tls_identity *i) { SSL_CTX_free(ctx_of(i)); }

int64_t tls_identity_ends_s(const struct tls_identity *i)
{
	const X509 *cert = SSL_CTX_get0_certificate(ctx_of(i));
	struct tm tm;

	return cert && ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) ? (int64_t)timegm(&tm) : 0;
}

struct tls_memory *tls_memory_new(void) { return x_calloc(1, sizeof(struct tls_memory)); }

void tls_memory_free(struct tls_memory *m)
{
	if (m)
		SSL_SESSION_free(m->last);
	free(m);
}

/* OpenSSL has a session that can be taken up again. A copy, for a connection that is closed without ceremony spoils its own. 0: it stays OpenSSL's. */
static int remember(SSL *ssl, SSL_SESSION *session)
{
	struct tls *t = SSL_get_app_data(ssl);

	if (t && t->memory && SSL_SESSION_is_resumable(session)) {
		SSL_SESSION_free(t->memory->last);
		t->memory->last = SSL_SESSION_dup(session);
	}
	return 0;
}

struct tls_trust *tls_trust_load(const char *ca, struct why *why)
{
	SSL_CTX *ctx = new_context(TLS_client_method());
	bool own = ca && *ca, ok = own ? SSL_CTX_load_verify_file(ctx, ca) == 1 : SSL_CTX_set_default_verify_paths(ctx) == 1;

	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, remember);
	if (ok)
		return (struct tls_trust *)ctx;
	err_set(why, ERR_INVALID, "'%s' has no certificate of an authority in PEM form: %s", own ? ca : "the system", reason());
	SSL_CTX_free(ctx);
	return NULL;
}

enum err tls_trust_check(const char *ca, const char *what, struct why *why)
{
	struct tls_trust *trust;

	if (!ca || !*ca)
		return ERR_OK;
	if (readable(ca, what, why))
		return why->code;
	trust = tls_trust_load(ca, why);
	if (!trust)
		return err_field(why, ERR_INVALID, what, "%s: '%s' holds no certificate of an authority in PEM form", what, ca);
	tls_trust_free(trust);
	return ERR_OK;
}

void tls_trust_free(struct tls_trust *t) { SSL_CTX_free(trust_of(t)); }

/* --- sessions --- */

static struct tls *new_session(SSL_CTX *ctx, int fd)
{
	struct tls *t = x_calloc(1, sizeof(*t));
	BIO *bio = BIO_new(io_method);

	t->fd = fd;
	t->ssl = SSL_new(ctx);
	if (!bio || !t->ssl)
		abort();
	BIO_set_data(bio, t);
	BIO_set_init(bio, 1);
	SSL_set_bio(t->ssl, bio, bio);
	return t;
}

struct tls *tls_accept(struct tls_identity *i, int fd)
{
	struct tls *t = new_session(ctx_of(i), fd);

	SSL_set_accept_state(t->ssl);
	return t;
}

/* A copy here too, for the same reason. */
static void take_up(struct tls *t)
{
	SSL_SESSION *last = t->memory && t->memory->last ? SSL_SESSION_dup(t->memory->last) : NULL;

	if (last)
		(void)SSL_set_session(t->ssl, last);
	SSL_SESSION_free(last);
}

struct tls *tls_connect(struct tls_trust *trust, struct tls_memory *memory, int fd, const char *host)
{
	static const unsigned char protocol[] = "\x08http/1.1";
	struct tls *t = new_session(trust_of(trust), fd);
	unsigned char address[sizeof(struct in6_addr)];

	SSL_set_connect_state(t->ssl);
	(void)SSL_set_alpn_protos(t->ssl, protocol, sizeof(protocol) - 1);
	SSL_set_hostflags(t->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
		t->failed = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(t->ssl), host) != 1;
	else
		t->failed = SSL_set1_host(t->ssl, host) != 1 || SSL_set_tlsext_host_name(t->ssl, host) != 1;
	t->memory = memory;
	SSL_set_app_data(t->ssl, t);
	take_up(t);
	return t;
}

bool tls_resumed(const struct tls *t) { return SSL_session_reused(t->ssl) == 1; }

void tls_free(struct tls *t)
{
	if (!t)
		return;
	SSL_free(t->ssl);
	free(t);
}

bool tls_ready(const struct tls *t) { return t->ready; }
bool tls_has_end(const struct tls *t) { return t->pending_errno != 0; }
bool tls_wants_write(const struct tls *t) { return t->wants_write; }
const char *tls_error(const struct tls *t) { return t->error; }

/* What went wrong, as an errno; -1 for the peer's close_notify. */
static int failure(struct tls *t, int rc)
{
	int saved = errno;
	unsigned long code = ERR_peek_error();
	long verified = SSL_get_verify_result(t->ssl);

	switch (SSL_get_error(t->ssl, rc)) {
	case SSL_ERROR_WANT_READ:
		return EAGAIN;
	case SSL_ERROR_WANT_WRITE:
		t->wants_write = true;
		return EAGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return -1;
	case SSL_ERROR_SYSCALL:
		t->failed = true;
		return saved == ECONNRESET || saved == EPIPE ? ECONNRESET : EPROTO;
	default:
		break;
	}
	t->failed = true;
	if (ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED && verified != X509_V_OK)
		snprintf(t->error, sizeof(t->error), "its certificate is not accepted: %s", X509_verify_cert_error_string(verified));
	else if (ERR_GET_REASON(code) != SSL_R_UNEXPECTED_EOF_WHILE_READING)
		snprintf(t->error, sizeof(t->error), "%s", ERR_reason_error_string(code) ? ERR_reason_error_string(code) : "TLS error");
	ERR_clear_error();
	return EPROTO;
}

static ssize_t give(int error)
{
	if (error == -1)
		return 0;
	errno = error;
	return -1;
}

ssize_t tls_recv(struct tls *t, void *to, size_t n)
{
	size_t total = 0, got;
	int error = t->pending_errno;

	t->pending_errno = 0;
	if (t->failed || error)
		return give(error ? error : EPROTO);
	t->wants_write = false;
	while (total < n) {
		ERR_clear_error();
		errno = 0;
		if (SSL_read_ex(t->ssl, (char *)to + total, n - total, &got) != 1) {
			error = failure(t, 0);
			break;
		}
		total += got;
		if (t->drained && !SSL_has_pending(t->ssl))
			break;
	}
	t->ready = t->ready || total > 0 || SSL_is_init_finished(t->ssl);
	if (total == 0)
		return give(error);
	t->pending_errno = error == EAGAIN ? 0 : error;
	return (ssize_t)total;
}

ssize_t tls_send(struct tls *t, const void *from, size_t n)
{
	size_t total = 0, sent;
	int error = 0;

	if (t->failed)
		return give(EPROTO);
	while (total < n) {
		ERR_clear_error();
		errno = 0;
		if (SSL_write_ex(t->ssl, (const char *)from + total, n - total, &sent) != 1) {
			error = failure(t, 0);
			break;
		}
		total += sent;
	}
	if (total)
		return (ssize_t)total;
	return n ? give(error == -1 ? EPROTO : error) : 0;
}

void tls_say_end(struct tls *t)
{
	if (t->failed || !SSL_is_init_finished(t->ssl) || (SSL_get_shutdown(t->ssl) & SSL_SENT_SHUTDOWN))
		return;
	ERR_clear_error();
	(void)SSL_shutdown(t->ssl);
	ERR_clear_error();
}
