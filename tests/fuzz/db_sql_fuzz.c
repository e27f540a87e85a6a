/* db_sql_fuzz.c - statements are rewritten whatever they are, and a text is good for PostgreSQL afterwards, whatever it was. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "common/store/db_sql.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str in = str_n((const char *)data, size), text;
	struct arena *mem = arena_new(0);
	struct buf b = { 0 };

	db_sql_rewrite(in, &b);
	if (b.n > 64 + size * 40)
		abort();
	/* no parameter of the one is left in the other, when nothing is quoted */
	if (size && !memchr(data, '\'', size) && !memchr(data, '"', size) && !memchr(data, '-', size) && !memchr(data, '/', size) && memchr(buf_z(&b), '?', b.n))
		abort();
	buf_clear(&b);
	if (size && db_sql_of_arrays(str_from(in, 1), data[0], &b) != (b.n > 0))
		abort();
	text = db_sql_text(mem, in);
	if (!str_utf8_valid(text) || (text.n && memchr(text.p, 0, text.n)) || (str_utf8_valid(in) && text.n < size))
		abort();
	buf_free(&b);
	arena_free(mem);
	return 0;
}
