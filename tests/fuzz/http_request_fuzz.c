/* http_request_fuzz.c - bytes of a client: requests with bodies, one after the other. */
#include "common/base/arena.h"
#include "tests/fuzz/http_fuzz.h"

static void paths(const struct http_head *h)
{
	struct arena *mem = arena_new(0);
	char *out = malloc(h->path.n + 1);
	struct str path, value;

	if (http_path_normalise(h->path, out, h->path.n, &path)) {
		MUST(path.n >= 1 && path.n <= h->path.n && path.p[0] == '/' && str_utf8_valid(path));
		MUST(path.n == 1 || path.p[path.n - 1] != '/');
		MUST(!str_find(path, STR("//")) && !str_find(path, STR("/../")) && !str_ends(path, STR("/..")) && !str_find(path, STR("/./")));
		MUST(!memchr(path.p, '\0', path.n) && !memchr(path.p, '\\', path.n));
	}
	if (http_query_get(h->query, "a", mem, &value))
		MUST(value.n <= h->query.n && value.p[value.n] == '\0');
	free(out);
	arena_free(mem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *copy = exactly(data, n);
	struct str in = str_n(copy, n);
	struct http_head h;
	struct why why = { 0 };
	enum http_parse r = http_parse_request(&h, in, 0, NULL, &why);

	MUST(r != HTTP_BAD || (why.code != ERR_OK && why.text[0]));
	if (r == HTTP_DONE) {
		recheck(&h, in, false);
		MUST(within(h.method, in) && within(h.target, in) && within(h.query, in) && within(h.host, in) && h.path.n);
		paths(&h);
	}
	if (n <= 2048)
		same_in_pieces("req", in);
	free(copy);
	return 0;
}
