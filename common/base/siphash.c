/* siphash.c - see siphash.h. Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012). */
#include "common/base/siphash.h"

struct sip { uint64_t v0, v1, v2, v3; };

static uint64_t rotl(uint64_t x, unsigned by) { return x << by | x >> (64 - by); }

static void rounds(struct sip *s, int n)
{
	while (n--) {
		s->v0 += s->v1;
		s->v2 += s->v3;
		s->v1 = rotl(s->v1, 13) ^ s->v0;
		s->v3 = rotl(s->v3, 16) ^ s->v2;
		s->v0 = rotl(s->v0, 32) + s->v3;
		s->v2 += s->v1;
		s->v3 = rotl(s->v3, 21) ^ s->v0;
		s->v1 = rotl(s->v1, 17) ^ s->v2;
		s->v2 = rotl(s->v2, 32);
	}
}

static uint64_t little_endian(const char *p, size_t n)
{
	uint64_t word = 0;

	for (size_t i = 0; i < n; i++)
		word |= (uint64_t)(unsigned char)p[i] << (8 * i);
	return word;
}

static void absorb(struct sip *s, uint64_t word)
{
	s->v3 ^= word;
	rounds(s, 2);
	s->v0 ^= word;
}

uint64_t siphash(struct sip_key key, struct str text)
{
	struct sip s = { key.k0 ^ 0x736f6d6570736575, key.k1 ^ 0x646f72616e646f6d, key.k0 ^ 0x6c7967656e657261, key.k1 ^ 0x7465646279746573 };
	size_t whole = text.n & ~(size_t)7;

	for (size_t i = 0; i < whole; i += 8)
		absorb(&s, little_endian(text.p + i, 8));
	absorb(&s, (uint64_t)text.n << 56 | little_endian(text.n ? text.p + whole : "", text.n - whole));
	s.v2 ^= 0xff;
	rounds(&s, 4);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

struct sip_key sip_key_of(struct str salt, const char *purpose)
{
	struct sip_key by_purpose = { siphash((struct sip_key){ 1, 0 }, str_of(purpose)), siphash((struct sip_key){ 2, 0 }, str_of(purpose)) };

	return (struct sip_key){ siphash(by_purpose, salt), siphash((struct sip_key){ by_purpose.k1, by_purpose.k0 }, salt) };
}
