/* recall_entry_fuzz.c - kept answers out of a store that others write to; and any bytes kept and read again are the same bytes. */
#include <stdlib.h>

#include "services/gateway/recall_entry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void insist(int held)
{
	if (!held)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str in = str_n((const char *)data, size);
	struct entry_head head, got;
	struct buf packed = { 0 }, back = { 0 };

	if (entry_unpack(&head, in, 1 << 16, &back))
		insist(back.n <= 1 << 16);
	buf_clear(&back);
	head = (struct entry_head){ (enum entry_form)(size % 3), size & 1 };
	entry_pack(&head, in, &packed);
	insist(entry_unpack(&got, buf_as_str(&packed), size, &back));
	insist(got.form == head.form && got.counted == head.counted && str_eq(buf_as_str(&back), in));
	buf_free(&packed);
	buf_free(&back);
	return 0;
}
