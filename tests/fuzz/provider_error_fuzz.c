/* provider_error_fuzz.c - whatever a provider answers is some fault, with words that can be shown and a wait within a day.
 * Byte 0 chooses the status; lines up to an empty one are headers, the rest is the body. */
#include <stdlib.h>

#include "common/llm/provider_error.h"

#define MUST(holds) do { if (!(holds)) { fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #holds); abort(); } } while (0)

static const int statuses[] = { 0, 200, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 499, 500, 502, 503, 504, 524, 529, 600 };

static void read_headers(struct str *rest, struct http_head *head)
{
	struct str line, name;

	while (head->n_headers < 20 && str_split(rest, '\n', &line) && line.n) {
		str_split(&line, ':', &name);
		head->headers[head->n_headers++] = (struct http_header){ name, str_trim(line) };
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct http_head head = { 0 };
	struct provider_error e;
	struct str rest;
	char *copy;

	if (!n)
		return 0;
	copy = malloc(n);
	memcpy(copy, data + 1, n - 1);
	rest = str_n(copy, n - 1);
	head.status = statuses[data[0] % (sizeof(statuses) / sizeof(*statuses))];
	read_headers(&rest, &head);
	provider_error_read(&e, head.status, &head, rest, 1795227654000000);
	MUST(e.fault < FAULTS && e.code != ERR_OK && e.status >= 400 && e.status < 600);
	MUST(e.wait_ms >= -1 && e.wait_ms <= 24 * 3600 * 1000);
	MUST(e.words[0] && str_utf8_valid(str_of(e.words)));
	free(copy);
	return 0;
}
