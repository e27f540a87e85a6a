/* front.c - where gateways come in: one route, asked for with the token that they heard in the snapshot. See cloud.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/data/secret.h"
#include "common/llm/exchange.h"
#include "services/cloud-fallback/cloud.h"

enum { BODY_MAX = 32 << 20, HELD_MAX = 1 << 30 };

void front_refuse(struct http_xchg *x, const struct why *why, int status, int64_t retry_ms, bool in_doubt)
{
	struct buf body = { 0 }, head = { 0 };

	buf_printf(&head, "Content-Type: %s\r\n", llm_error_body(LLM_OPENAI, why, STR(""), wall_us(), &body));
	if (retry_ms > 0)
		buf_printf(&head, "Retry-After: %lld\r\n", (long long)(retry_ms + 999) / 1000);
	if (!in_doubt)
		buf_addz(&head, "X-Corral-Spent: no\r\n");
	http_reply(x, status ? status : err_status(why->code), buf_as_str(&head), buf_as_str(&body));
	buf_free(&body);
	buf_free(&head);
}

static void refuse(struct http_xchg *x, enum err code, const char *text)
{
	struct why why = { 0 };

	err_set(&why, code, "%s", text);
	front_refuse(x, &why, 0, 0, false);
}

static bool has_token(const struct cloud *c, const struct http_head *h)
{
	const struct http_header *a = http_find(h, "Authorization");
	size_t n = strlen(c->asked_token);

	return a && str_starts(a->value, STR("Bearer ")) && a->value.n == n + 7 && secret_equal(a->value.p + 7, c->asked_token, n);
}

static size_t on_head(struct http_xchg *x, void *arg)
{
	const struct cloud *c = arg;

	if (!has_token(c, &x->head))
		refuse(x, ERR_UNAUTHENTICATED, "this is for gateways, which know what to show");
	else if (!str_eqz(x->path, "/v1/chat/completions"))
		refuse(x, ERR_NOT_FOUND, "there is nothing but /v1/chat/completions");
	else if (!str_eqz(x->head.method, "POST"))
		refuse(x, ERR_METHOD_NOT_ALLOWED, "/v1/chat/completions takes POST");
	return BODY_MAX;
}

static void on_request(struct http_xchg *x, void *arg)
{
	struct cloud *c = arg;

	if (c->draining)
		refuse(x, ERR_UNAVAILABLE, "cloud-fallback is shutting down");
	else
		errand_begin(c, x);
}

static void on_refused(struct http_xchg *x, const struct why *why, void *arg) { front_refuse(x, why, 0, 0, false); }

/* The address in words for the snapshot: what was asked for, with the port that it got. */
static void set_endpoint(struct cloud *c, const char *listen)
{
	const char *colon = strrchr(listen, ':');

	if (c->cfg->cloud_endpoint[0])
		c->endpoint = c->cfg->cloud_endpoint;
	else
		c->endpoint = arena_printf(c->mem, "http://%.*s:%u", colon == listen ? 9 : (int)(colon - listen), colon == listen ? "127.0.0.1" : listen,
					   http_server_port(c->front));
}

bool front_open(struct cloud *c, struct why *why)
{
	const struct http_handler handler = { .on_head = on_head, .on_request = on_request, .on_refused = on_refused, .arg = c };
	const struct http_server_opts opts = { .max_body = BODY_MAX };
	const char *listen = c->cfg->cloud_listen[0] ? c->cfg->cloud_listen : "127.0.0.1:8101";
	uint8_t random[TOKEN_BYTES];

	secret_random(random, sizeof(random));
	for (size_t i = 0; i < sizeof(random); i++)
		snprintf(c->token + 2 * i, 3, "%02x", random[i]);
	c->asked_token = c->cfg->cloud_token[0] ? c->cfg->cloud_token : c->token;
	c->front = http_server_new(c->loop, listen, &handler, &opts, why);
	if (!c->front && !c->cfg->cloud_listen[0]) {
		listen = ":0";
		c->front = http_server_new(c->loop, listen, &handler, &opts, why);
	}
	if (!c->front)
		return false;
	set_endpoint(c, listen);
	return true;
}

void front_close(struct cloud *c)
{
	http_server_free(c->front);
	c->front = NULL;
	secret_wipe(c->token, sizeof(c->token));
}
