/* sketch.c - see sketch.h. */
#include "common/policy/sketch.h"

#include <string.h>

/* Eight bytes of the text at a time: some 18 instructions a byte of a long word became three. */
#define EACH(byte) ((byte) * 0x0101010101010101u)

static uint64_t eight(struct str text, size_t at)
{
	size_t n = text.n - at < 8 ? text.n - at : 8;
	uint64_t v = 0;

	if (n == 8)                       /* of a length that is known: one load */
		memcpy(&v, text.p + at, 8);
	else
		memcpy(&v, text.p + at, n);
	return v;
}

/* The highest bit of each byte that belongs to a word; past the end of the text are zeros, which do not. */
static uint64_t word_bytes(uint64_t v)
{
	uint64_t low = v & EACH(0x7fu), letter = low | EACH(0x20u);
	uint64_t digits = (low + EACH(0x80u - '0')) & ~(low + EACH(0x7fu - '9'));
	uint64_t letters = (letter + EACH(0x80u - 'a')) & ~(letter + EACH(0x7fu - 'z'));

	return (v | digits | letters) & EACH(0x80u);
}

static unsigned first_of(uint64_t bits) { return (unsigned)__builtin_ctzll(bits) / 8; }

static uint64_t mix(uint64_t h)
{
	h = (h ^ h >> 32) * 0x9e3779b97f4a7c15u;
	return h ^ h >> 29;
}

/* The hash of the word that begins at *at; *at is moved behind it. */
static uint64_t word_hash(struct str text, size_t *at, uint64_t seed)
{
	uint64_t h = seed ^ 0xcbf29ce484222325u;

	while (*at < text.n) {
		uint64_t v = eight(text, *at), others = ~word_bytes(v) & EACH(0x80u);
		unsigned n = others ? first_of(others) : 8;

		if (n)
			h = mix(h ^ ((v | EACH(0x20u)) & UINT64_MAX >> (64 - 8 * n)));
		*at += n;
		if (n < 8)
			break;
	}
	return mix(h);
}

uint64_t sketch_of(struct str text, uint64_t seed)
{
	uint64_t least[8], sketch = 0;
	bool any = false;

	for (int i = 0; i < 8; i++)
		least[i] = UINT64_MAX;
	for (size_t i = 0; i < text.n;) {
		uint64_t found = word_bytes(eight(text, i)), h, bucket;

		i += found ? first_of(found) : 8;
		if (!found)
			continue;
		h = word_hash(text, &i, seed);
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
