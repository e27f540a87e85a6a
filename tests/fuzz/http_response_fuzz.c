/* http_response_fuzz.c - bytes of a server, as the answers to GET and to HEAD. */
#include "tests/fuzz/http_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *copy = exactly(data, n);
	struct str in = str_n(copy, n);
	struct http_head h, of_head;
	struct why why = { 0 };
	enum http_parse r = http_parse_response(&h, in, 0, false, NULL, &why);

	MUST(r != HTTP_BAD || (why.code != ERR_OK && why.text[0]));
	MUST(http_parse_response(&of_head, in, 0, true, NULL, &why) == r);
	if (r == HTTP_DONE) {
		recheck(&h, in, true);
		MUST(h.status >= 100 && h.status <= 599 && within(h.reason, in));
		MUST(of_head.framing == HTTP_NO_BODY && of_head.head_len == h.head_len);
	}
	if (n <= 2048) {
		same_in_pieces("res", in);
		same_in_pieces("reshead", in);
	}
	free(copy);
	return 0;
}
