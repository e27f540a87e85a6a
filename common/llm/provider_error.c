/* provider_error.c - see provider_error.h. First the words that a provider has for the case, then the status, then what its sentence says.
 *
 *   {"error":{"message","type","param","code"}}                          OpenAI (its specification and client library), vLLM at RunPod
 *   {"type":"error","error":{"type","message","details"},"request_id"}   Anthropic (its types and its page on errors)
 *   {"error":{"code":429,"message","status","details":[…]}}              Gemini (google.rpc.Status; its own command line reads it so)
 *   [{"error":{…}}]                                                      Gemini's OpenAI-compatible path
 *   {"promptFeedback":{"blockReason"}}                                   Gemini: the prompt is refused, with status 200
 *   {"error":{"code":402,"message","metadata":{"error_type"}}}           OpenRouter (its API description)
 *   {"error":"…"}, {"detail":"…"}, text                                  RunPod's platform, proxies */
#include "common/llm/provider_error.h"

#include <stdio.h>

#include "common/base/clock.h"
#include "common/data/json.h"
#include "common/llm/text.h"

enum { SENTENCE_MAX = 220, DAY_MS = 24 * 3600 * 1000 };

struct said {
	struct json doc;
	uint32_t error;           /* the object of the error; 0 = the document */
	struct str message, type, code, status, kind, detail;      /* kind: OpenRouter's error_type; detail: Anthropic's error_code, Gemini's reason */
	int64_t number;           /* a code that is a number */
	int64_t retry_ms;         /* Gemini's RetryInfo; -1 = none */
	bool daily, minutely;     /* Gemini's QuotaFailure */
	bool blocked;
};

/* Reading. */

static struct str string_at(const struct said *s, uint32_t object, const char *key, struct arena *mem)
{
	return json_string(&s->doc, json_get(&s->doc, object, key), mem);
}

/* "37.5s" */
static int64_t seconds_ms(struct str text)
{
	double seconds;

	if (text.n && text.p[text.n - 1] == 's')
		text.n--;
	return str_double(text, &seconds) && seconds >= 0 && seconds < 1e6 ? (int64_t)(seconds * 1000 + 0.999) : -1;
}

/* Gemini: google.rpc.RetryInfo says when, QuotaFailure which limit it was, ErrorInfo a reason such as API_KEY_INVALID. */
static void read_detail(struct said *s, uint32_t item, struct arena *mem)
{
	uint32_t violations = json_get(&s->doc, item, "violations");
	struct str delay = string_at(s, item, "retryDelay", mem), reason = string_at(s, item, "reason", mem);

	if (delay.n)
		s->retry_ms = seconds_ms(delay);
	if (reason.n)
		s->detail = reason;
	for (uint32_t i = violations ? json_first(&s->doc, violations) : 0; i; i = json_next(&s->doc, violations, i)) {
		struct str quota = string_at(s, i, "quotaId", mem);

		s->daily |= str_find(quota, STR("PerDay")) || str_find(quota, STR("Daily"));
		s->minutely |= str_find(quota, STR("PerMinute")) != NULL;
	}
}

static void read_details(struct said *s, uint32_t details, struct arena *mem)
{
	if (json_kind(&s->doc, details) == JSON_OBJECT)
		s->detail = string_at(s, details, "error_code", mem);
	else
		for (uint32_t i = json_first(&s->doc, details); i; i = json_next(&s->doc, details, i))
			read_detail(s, i, mem);
}

static void read_object(struct said *s, uint32_t object, struct arena *mem)
{
	uint32_t details = json_get(&s->doc, object, "details"), metadata = json_get(&s->doc, object, "metadata");

	s->message = string_at(s, object, "message", mem);
	s->type = string_at(s, object, "type", mem);
	s->code = string_at(s, object, "code", mem);
	s->status = string_at(s, object, "status", mem);
	(void)json_i64(&s->doc, json_get(&s->doc, object, "code"), &s->number);
	if (metadata)
		s->kind = string_at(s, metadata, "error_type", mem);
	if (metadata)
		s->blocked |= json_get(&s->doc, metadata, "flagged_input") || json_get(&s->doc, metadata, "reasons");
	if (details)
		read_details(s, details, mem);
}

static void read_feedback(struct said *s, uint32_t feedback, struct arena *mem)
{
	s->message = string_at(s, feedback, "blockReason", mem);
	s->blocked = s->message.n != 0;
}

/* Text that is no JSON is a message. */
static void read_body(struct said *s, struct str body, struct arena *mem)
{
	uint32_t at = 0, error, feedback;

	s->retry_ms = -1;
	body = text_repair_utf8(body, mem);
	if (json_parse(&s->doc, mem, body, NULL, NULL) != ERR_OK) {
		s->message = body;
		return;
	}
	if (json_is_string(&s->doc, 0)) {
		s->message = json_string(&s->doc, 0, mem);
		return;
	}
	if (json_kind(&s->doc, 0) == JSON_ARRAY)
		at = json_first(&s->doc, 0);
	error = json_get(&s->doc, at, "error"), feedback = json_get(&s->doc, at, "promptFeedback");
	if (error && json_is_string(&s->doc, error))
		s->message = json_string(&s->doc, error, mem);
	else if (error && json_kind(&s->doc, error) == JSON_OBJECT)
		read_object(s, error, mem);
	else if (feedback)
		read_feedback(s, feedback, mem);
	else if (json_kind(&s->doc, at) == JSON_OBJECT)
		read_object(s, at, mem);
	if (!s->message.n && json_kind(&s->doc, at) == JSON_OBJECT)
		s->message = string_at(s, at, "detail", mem);
}

/* Deciding. */

struct rule { const char *word; enum provider_fault fault; };

/* Whole words of "code", "type", "status", metadata.error_type and the reasons in details, whoever says them: no two providers mean different things by one. */
static const struct rule words[] = {
	/* OpenAI: insufficient_quota and the next four are long-standing practice, the rest is in its specification. */
	{ "insufficient_quota", FAULT_NO_CREDIT }, { "context_length_exceeded", FAULT_TOO_LONG }, { "invalid_api_key", FAULT_AUTH },
	{ "model_not_found", FAULT_NO_MODEL }, { "content_filter", FAULT_REFUSED }, { "rate_limit_exceeded", FAULT_RATE_LIMITED }, { "server_error", FAULT_BROKEN },
	/* Anthropic: its table of errors; enforced_spend_limit_reached is a 429 that waiting does not help. */
	{ "enforced_spend_limit_reached", FAULT_NO_CREDIT }, { "authentication_error", FAULT_AUTH }, { "permission_error", FAULT_AUTH },
	{ "billing_error", FAULT_NO_CREDIT }, { "not_found_error", FAULT_NO_MODEL }, { "request_too_large", FAULT_TOO_LONG },
	{ "rate_limit_error", FAULT_RATE_LIMITED }, { "timeout_error", FAULT_OVERLOADED }, { "overloaded_error", FAULT_OVERLOADED }, { "api_error", FAULT_BROKEN },
	/* Gemini: a wrong key is a 400 with this reason; FAILED_PRECONDITION is a region or an account without billing. */
	{ "API_KEY_INVALID", FAULT_AUTH }, { "UNAUTHENTICATED", FAULT_AUTH }, { "PERMISSION_DENIED", FAULT_AUTH }, { "FAILED_PRECONDITION", FAULT_NO_CREDIT },
	{ "NOT_FOUND", FAULT_NO_MODEL }, { "RESOURCE_EXHAUSTED", FAULT_RATE_LIMITED }, { "UNAVAILABLE", FAULT_OVERLOADED },
	{ "DEADLINE_EXCEEDED", FAULT_OVERLOADED }, { "INTERNAL", FAULT_BROKEN }, { "CANCELLED", FAULT_BROKEN },
	/* OpenRouter: the stable names of error_type. */
	{ "max_tokens_exceeded", FAULT_TOO_LONG }, { "token_limit_exceeded", FAULT_TOO_LONG }, { "string_too_long", FAULT_TOO_LONG },
	{ "payload_too_large", FAULT_TOO_LONG }, { "authentication", FAULT_AUTH }, { "permission_denied", FAULT_AUTH }, { "payment_required", FAULT_NO_CREDIT },
	{ "provider_overloaded", FAULT_OVERLOADED }, { "provider_unavailable", FAULT_OVERLOADED }, { "timeout", FAULT_OVERLOADED }, { "not_found", FAULT_NO_MODEL },
	{ "content_policy_violation", FAULT_REFUSED }, { "refusal", FAULT_REFUSED }, { "server", FAULT_BROKEN }, { "invalid_prompt", FAULT_BAD_REQUEST },
	{ "unprocessable", FAULT_BAD_REQUEST }, { "invalid_request", FAULT_BAD_REQUEST },
};

static bool by_word(struct str word, enum provider_fault *ret)
{
	for (size_t i = 0; word.n && i < sizeof(words) / sizeof(*words); i++)
		if (str_eqz(word, words[i].word)) {
			*ret = words[i].fault;
			return true;
		}
	return false;
}

/* What a sentence says where the words say no more than "invalid": each was seen in answers of the provider or of servers like it. */
static bool by_sentence(struct str message, enum provider_fault *ret)
{
	static const struct rule phrases[] = {
		{ "context length", FAULT_TOO_LONG }, { "context size", FAULT_TOO_LONG }, { "prompt is too long", FAULT_TOO_LONG },
		{ "exceeds the maximum number of tokens", FAULT_TOO_LONG }, { "credit balance is too low", FAULT_NO_CREDIT },
	};

	for (size_t i = 0; i < sizeof(phrases) / sizeof(*phrases); i++)
		if (str_ifind(message, str_of(phrases[i].word))) {
			*ret = phrases[i].fault;
			return true;
		}
	return false;
}

/* 403 is a key without the right, where no word says that it is the content; 524 is a timeout of the network before the provider. */
static enum provider_fault by_status(int status)
{
	switch (status) {
	case 401: case 403: return FAULT_AUTH;
	case 402: return FAULT_NO_CREDIT;
	case 404: return FAULT_NO_MODEL;
	case 413: return FAULT_TOO_LONG;
	case 429: return FAULT_RATE_LIMITED;
	case 408: case 503: case 504: case 524: case 529: return FAULT_OVERLOADED;
	case 409: return FAULT_BROKEN;
	default: return status >= 400 && status < 499 ? FAULT_BAD_REQUEST : FAULT_BROKEN;
	}
}

/* The narrower word is asked first: a 429 of type rate_limit_error may be about money, a 400 of INVALID_ARGUMENT about the key. */
static enum provider_fault decide(int status, const struct said *s)
{
	enum provider_fault fault;

	if (s->blocked)
		return FAULT_REFUSED;
	if (by_word(s->kind, &fault) || by_word(s->detail, &fault) || by_word(s->code, &fault) || by_word(s->type, &fault) || by_word(s->status, &fault)) {
		if (fault == FAULT_BAD_REQUEST)
			(void)by_sentence(s->message, &fault);
		return fault == FAULT_BROKEN && by_status(status) == FAULT_OVERLOADED ? FAULT_OVERLOADED : fault;
	}
	if ((status < 400 || (status < 500 && status != 401 && status != 429)) && by_sentence(s->message, &fault))
		return fault;
	if (status < 400 && s->number >= 400 && s->number < 600)
		return by_status((int)s->number);
	return by_status(status < 400 ? 500 : status);
}

/* Waiting. */

static struct str header(const struct http_head *head, const char *name)
{
	const struct http_header *found = head ? http_find(head, name) : NULL;

	return found ? found->value : str_n("", 0);
}

static int64_t until_us(const char *rfc3339, int64_t now_us)
{
	int64_t at;

	if (!clock_parse_rfc3339(rfc3339, &at))
		return -1;
	return at > now_us ? (at - now_us + 999) / 1000 : 0;
}

/* "Sun, 06 Nov 1994 08:49:37 GMT", the one form that may still be sent. */
static int64_t http_date_ms(struct str date, int64_t now_us)
{
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	char text[40], rfc3339[40], month[4];
	const char *found;

	if (date.n != 29 || !str_ends(date, STR(" GMT")) || !str_copy(text, sizeof(text), date))
		return -1;
	memcpy(month, text + 8, 3), month[3] = '\0';
	found = strstr(months, month);
	if (!found || (found - months) % 3)
		return -1;
	snprintf(rfc3339, sizeof(rfc3339), "%.4s-%02d-%.2sT%.8sZ", text + 12, (int)((found - months) / 3 + 1), text + 5, text + 17);
	return until_us(rfc3339, now_us);
}

/* "1s", "6m0s", "1h2m3.5s", "12ms": OpenAI's resets are durations. */
static int64_t duration_ms(struct str text)
{
	double total = 0, n;

	while (text.n) {
		size_t digits = 0, unit;

		while (digits < text.n && (text.p[digits] == '.' || (text.p[digits] >= '0' && text.p[digits] <= '9')))
			digits++;
		for (unit = digits; unit < text.n && text.p[unit] >= 'a' && text.p[unit] <= 'z'; unit++)
			;
		if (!digits || unit == digits || !str_double(str_n(text.p, digits), &n))
			return -1;
		n *= text.p[digits] == 'd' ? 86400e3 : text.p[digits] == 'h' ? 3600e3 : text.p[digits] == 's' ? 1e3 : unit - digits == 2 ? 1 : 60e3;
		total += n;
		text = str_from(text, unit);
	}
	return total < 1e12 ? (int64_t)(total + 0.999) : -1;
}

/* A limit's reset counts when nothing remains of it, or when nobody says what remains. */
static bool is_spent(const struct http_head *head, const char *remaining)
{
	struct str left = header(head, remaining);

	return !left.n || str_eqz(left, "0");
}

static int64_t openai_reset(const struct http_head *head)
{
	static const char *const all[][2] = { { "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests" },
	                                      { "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens" } };
	int64_t longest = -1;

	for (unsigned i = 0; i < 2; i++) {
		struct str reset = header(head, all[i][1]);
		int64_t ms = reset.n && is_spent(head, all[i][0]) ? duration_ms(reset) : -1;

		longest = ms > longest ? ms : longest;
	}
	return longest;
}

static int64_t anthropic_reset(const struct http_head *head, int64_t now_us)
{
	static const char *const all[] = { "requests", "tokens", "input-tokens", "output-tokens" };
	int64_t longest = -1;

	for (unsigned i = 0; i < 4; i++) {
		char remaining[64], reset[64], at[40];
		int64_t ms;

		snprintf(remaining, sizeof(remaining), "anthropic-ratelimit-%s-remaining", all[i]);
		snprintf(reset, sizeof(reset), "anthropic-ratelimit-%s-reset", all[i]);
		if (!header(head, reset).n || !is_spent(head, remaining) || !str_copy(at, sizeof(at), header(head, reset)))
			continue;
		ms = until_us(at, now_us);
		longest = ms > longest ? ms : longest;
	}
	return longest;
}

/* OpenRouter's X-RateLimit-Reset: milliseconds since 1970, as it seems; a number too small for that is taken for seconds. */
static int64_t openrouter_reset(const struct http_head *head, int64_t now_us)
{
	int64_t at, now_ms = now_us / 1000;

	if (!str_i64(header(head, "x-ratelimit-reset"), &at) || at <= 0 || !is_spent(head, "x-ratelimit-remaining"))
		return -1;
	if (at < 100000000000)
		at *= 1000;
	return at > now_ms ? at - now_ms : 0;
}

/* retry-after-ms is OpenAI's; Retry-After is seconds or a date. */
static int64_t retry_after(const struct http_head *head, int64_t now_us)
{
	struct str ms = header(head, "retry-after-ms"), after = header(head, "retry-after");
	double n;

	if (str_double(ms, &n) && n >= 0 && n < 1e12)
		return (int64_t)(n + 0.999);
	if (str_double(after, &n) && n >= 0 && n < 1e9)
		return (int64_t)(n * 1000 + 0.999);
	return http_date_ms(after, now_us);
}

/* Gemini's day begins at midnight in California: 8:00 UTC in winter, an hour before that in summer; never too early. */
static int64_t tomorrow_ms(int64_t now_us)
{
	int64_t into_day = (now_us / 1000 - 8 * 3600 * 1000) % DAY_MS;

	return DAY_MS - (into_day < 0 ? into_day + DAY_MS : into_day);
}

static int64_t wait_of(const struct http_head *head, const struct said *s, int64_t now_us)
{
	int64_t ms = retry_after(head, now_us);

	if (ms < 0)
		ms = s->retry_ms;
	if (ms < 0)
		ms = openai_reset(head);
	if (ms < 0)
		ms = anthropic_reset(head, now_us);
	if (ms < 0)
		ms = openrouter_reset(head, now_us);
	if (ms < 0 && s->minutely)
		ms = 60000;
	return ms > DAY_MS ? DAY_MS : ms;
}

/* Wording. */

static const struct { const char *name, *words; enum err code; bool counts; } faults[FAULTS] = {
	[FAULT_AUTH] = { "auth", "the provider does not take the key", ERR_UNAVAILABLE, true },
	[FAULT_NO_CREDIT] = { "no_credit", "the account at the provider has nothing left", ERR_UNAVAILABLE, true },
	[FAULT_RATE_LIMITED] = { "rate_limited", "the provider allows no more requests now", ERR_RATE_LIMITED, true },
	[FAULT_OVERLOADED] = { "overloaded", "the provider is overloaded", ERR_UNAVAILABLE, true },
	[FAULT_NO_MODEL] = { "no_model", "the provider does not have this model", ERR_MODEL_NOT_FOUND, false },
	[FAULT_BAD_REQUEST] = { "bad_request", "the provider does not take the request", ERR_BACKEND_REFUSED, false },
	[FAULT_TOO_LONG] = { "too_long", "the request is too long for the provider", ERR_CONTEXT_TOO_LONG, false },
	[FAULT_REFUSED] = { "refused", "the provider refuses the request for its content", ERR_BACKEND_REFUSED, false },
	[FAULT_BROKEN] = { "broken", "the provider broke", ERR_BACKEND_FAILED, true },
};

const char *provider_fault_name(enum provider_fault f) { return faults[f].name; }
bool provider_fault_counts(enum provider_fault f) { return faults[f].counts; }

/* Of a refused key the provider's sentence often shows a part: it is not repeated. */
static void put_words(struct provider_error *e, int status, struct str message)
{
	char shown[SENTENCE_MAX + 4], number[24] = "", wait[48] = "";

	text_show(e->fault == FAULT_AUTH ? str_n("", 0) : str_trim(message), shown, SENTENCE_MAX);
	if (status >= 400)
		snprintf(number, sizeof(number), " (%d)", status);
	if (e->until_tomorrow)
		snprintf(wait, sizeof(wait), "; the limit of the day is reached");
	else if (e->wait_ms >= 0)
		snprintf(wait, sizeof(wait), "; again in %lld s", (long long)(e->wait_ms + 999) / 1000);
	snprintf(e->words, sizeof(e->words), "%s%s%s%s%s", faults[e->fault].words, number, wait, shown[0] ? ": " : "", shown);
}

void provider_error_read(struct provider_error *e, int status, const struct http_head *head, struct str body, int64_t now_us)
{
	struct arena *mem = arena_new(0);
	struct said s = { .number = 0 };

	read_body(&s, body, mem);
	*e = (struct provider_error){ .fault = decide(status, &s), .wait_ms = -1 };
	e->code = faults[e->fault].code;
	e->status = e->code == ERR_BACKEND_REFUSED ? status >= 400 && status < 500 && status != 401 && status != 403 ? status : 400 : err_status(e->code);
	if (e->fault == FAULT_RATE_LIMITED || e->fault == FAULT_OVERLOADED) {
		e->until_tomorrow = e->fault == FAULT_RATE_LIMITED && s.daily;
		e->wait_ms = e->until_tomorrow ? tomorrow_ms(now_us) : wait_of(head, &s, now_us);
	}
	put_words(e, status, s.message);
	arena_free(mem);
}
