/* cors.c - see cors.h. The Fetch standard, section "CORS protocol". */
#include "services/gateway/cors.h"

/* '*' stands for any bytes, none too. */
static bool glob(struct str pattern, struct str s)
{
	if (!pattern.n)
		return !s.n;
	if (pattern.p[0] != '*')
		return s.n && str_ieq(str_n(pattern.p, 1), str_n(s.p, 1)) && glob(str_from(pattern, 1), str_from(s, 1));
	for (size_t i = 0; i <= s.n; i++)
		if (glob(str_from(pattern, 1), str_from(s, i)))
			return true;
	return false;
}

bool cors_allows(const struct opt_list *origins, struct str origin)
{
	if (!origin.n || origin.n > 255)
		return false;
	for (size_t i = 0; i < origins->n; i++)
		if (glob(str_of(origins->items[i]), origin))
			return true;
	return false;
}

static struct str header(const struct http_head *h, const char *name)
{
	const struct http_header *found = http_find(h, name);

	return found ? found->value : STR("");
}

struct str cors_lines(const struct opt_list *origins, const struct http_head *h, struct arena *mem)
{
	struct str origin = header(h, "origin");

	if (!origins->n)
		return STR("");
	if (!cors_allows(origins, origin) || !http_value_ok(origin))
		return STR("Vary: Origin\r\n");
	return arena_fmt(mem, "Vary: Origin\r\nAccess-Control-Allow-Origin: " STR_FMT "\r\nAccess-Control-Expose-Headers: X-Request-Id, Retry-After, "
			 "X-Corral-Model, X-Corral-Backend, X-Corral-Reason, X-Corral-Attempts, X-Corral-Ignored, X-Corral-Cost-Microusd, X-Corral-Estimated-Cost-Microusd, "
			 "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
			 "x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens\r\n", STR_ARG(origin));
}

struct str cors_options(const struct opt_list *origins, const struct http_head *h, struct str allow, struct arena *mem)
{
	struct str asked = header(h, "access-control-request-headers");
	struct str lines = arena_fmt(mem, "Allow: " STR_FMT "\r\n", STR_ARG(allow));

	if (!header(h, "access-control-request-method").n || !cors_allows(origins, header(h, "origin")))
		return lines;
	lines = arena_fmt(mem, STR_FMT "Access-Control-Allow-Methods: " STR_FMT "\r\nAccess-Control-Max-Age: 600\r\n", STR_ARG(lines), STR_ARG(allow));
	if (!asked.n || asked.n > 1024 || !http_value_ok(asked))
		return lines;
	return arena_fmt(mem, STR_FMT "Access-Control-Allow-Headers: " STR_FMT "\r\n", STR_ARG(lines), STR_ARG(asked));
}
