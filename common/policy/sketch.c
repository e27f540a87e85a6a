/* sketch.c - see sketch.h. */
#include "common/policy/sketch.h"

static bool is_word(unsigned char c) { return c >= 0x80 || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'); }

static uint64_t mix(uint64_t h)
{
	h = (h ^ h >> 32) * 0x9e3779b97f4a7c15u;
	return h ^ h >> 29;
}

uint64_t sketch_of(struct str text, uint64_t seed)
{
	uint64_t least[8], sketch = 0;
	bool any = false;

	for (int i = 0; i < 8; i++)
		least[i] = UINT64_MAX;
	for (size_t i = 0; i < text.n;) {
		uint64_t h = seed ^ 0xcbf29ce484222325u, bucket;
		size_t from = i;

		for (; i < text.n && is_word((unsigned char)text.p[i]); i++)
			h = (h ^ ((unsigned char)text.p[i] | 0x20)) * 0x100000001b3u;
		if (i == from) {
			i++;
			continue;
		}
		h = mix(h);
		bucket = h >> 61;
		h &= UINT64_MAX >> 3;
		if (h < least[bucket])
			least[bucket] = h;
		any = true;
	}
	/* A bucket without a word is 0, which a byte of a word never is. */
	for (int i = 0; any && i < 8; i++)
		sketch |= (least[i] == UINT64_MAX ? 0 : mix(least[i]) % 255 + 1) << (8 * i);
	return sketch;
}

bool sketch_alike(uint64_t a, uint64_t b)
{
	int same = 0;

	if (!a || !b)
		return false;
	for (int i = 0; i < 64; i += 8)
		same += (a >> i & 0xff) == (b >> i & 0xff);
	return same >= SKETCH_ALIKE;
}
