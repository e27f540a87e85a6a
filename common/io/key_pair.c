/* key_pair.c - see key_pair.h. mbed TLS 2.28 (Debian 12) and 3.6 (Debian 13) differ in who brings the random numbers. */
#include "common/io/key_pair.h"

#include <mbedtls/pk.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#include <sys/random.h>

#include "common/base/buf.h"

#if MBEDTLS_VERSION_MAJOR >= 3
static int random_bytes(void *arg, unsigned char *to, size_t n)
{
	(void)arg;
	return getrandom(to, n, 0) == (ssize_t)n ? 0 : -1;
}

static int parse_key(mbedtls_pk_context *to, const unsigned char *pem, size_t n) { return mbedtls_pk_parse_key(to, pem, n, NULL, 0, random_bytes, NULL); }
static int compare(const mbedtls_pk_context *pub, const mbedtls_pk_context *key) { return mbedtls_pk_check_pair(pub, key, random_bytes, NULL); }
#else
static int parse_key(mbedtls_pk_context *to, const unsigned char *pem, size_t n) { return mbedtls_pk_parse_key(to, pem, n, NULL, 0); }
static int compare(const mbedtls_pk_context *pub, const mbedtls_pk_context *key) { return mbedtls_pk_check_pair(pub, key); }
#endif

/* mbed TLS counts the 0 that ends a PEM text. */
static const unsigned char *text(struct buf *b, struct str pem)
{
	buf_add(b, pem.p, pem.n);
	return (const unsigned char *)buf_z(b);
}

enum err key_pair_check(struct str cert, struct str key, struct why *why)
{
	struct buf c = { 0 }, k = { 0 };
	mbedtls_x509_crt crt;
	mbedtls_pk_context pk;
	enum err err = ERR_OK;

	mbedtls_x509_crt_init(&crt);
	mbedtls_pk_init(&pk);
	if (mbedtls_x509_crt_parse(&crt, text(&c, cert), cert.n + 1) != 0)
		err = err_set(why, ERR_INVALID, "the certificate cannot be read");
	else if (parse_key(&pk, text(&k, key), key.n + 1) != 0)
		err = err_set(why, ERR_INVALID, "the key cannot be read");
	else if (compare(&crt.pk, &pk) != 0)
		err = err_set(why, ERR_INVALID, "the key is not that of the certificate");
	mbedtls_x509_crt_free(&crt);
	mbedtls_pk_free(&pk);
	memset(k.p, 0, k.p ? k.cap : 0);
	buf_free(&c);
	buf_free(&k);
	return err;
}
