/* framing_probe.c - prints our codec's verdict on each case of a table: NAME, pass or refuse, messages, body bytes, why.
 *
 *   framing_probe tests/contract/framing_cases.txt
 *
 * framing_diff.py compares it with other parsers'. What is unfinished at the end counts as refused: it is never acted upon. */
#include "tests/contract/framing_cases.h"

int main(int argc, char **argv)
{
	struct framing_case c;
	FILE *f = argc == 2 ? fopen(argv[1], "r") : NULL;

	if (!f) {
		fprintf(stderr, "usage: framing_probe TABLE\n");
		return 2;
	}
	while (framing_next(f, &c)) {
		struct framing_verdict v = framing_judge(c.kind, buf_as_str(&c.bytes), 0);
		bool pass = v.end == HTTP_DONE && (strcmp(c.expect, "pass") != 0 || (v.messages == c.messages && v.body == c.body));

		printf("%s\t%s\t%d\t%lu\t%s\n", c.name, pass ? "pass" : "refuse", v.messages, (unsigned long)v.body,
		       v.end == HTTP_BAD ? v.why.text : "");
		buf_free(&c.bytes);
	}
	return feof(f) ? 0 : 1;
}
