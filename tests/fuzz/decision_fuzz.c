/* decision_fuzz.c - a decision from another process: what is taken packs to the same bytes, and names only replicas that are there. */
#include <stdint.h>
#include <stdlib.h>

#include "common/policy/decide.h"

enum { REPLICAS = 7 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena *mem = arena_new(4096);
	struct str in = str_n((const char *)data, size);
	struct decision d;
	struct buf again = { 0 };

	if (decision_unpack(&d, mem, in, REPLICAS)) {
		decision_pack(&d, &again);
		if (again.n != in.n || memcmp(again.p, in.p, in.n) != 0)
			abort();
		for (uint16_t i = 0; i < d.n_ranked; i++)
			if (d.ranked[i].replica >= REPLICAS)
				abort();
	}
	buf_free(&again);
	arena_free(mem);
	return 0;
}
