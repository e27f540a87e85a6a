/* id.c - see id.h. */
#include "common/base/id.h"

#include <endian.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static _Thread_local uint64_t state[4];
static _Thread_local bool seeded;
static _Thread_local uint64_t last_ms, counter;

static inline uint64_t rotl(uint64_t x, int k) { return x << k | x >> (64 - k); }

uint64_t rand_u64(void)
{
	uint64_t r, t;

	if (!seeded) {
		size_t got = 0;

		while (got < sizeof(state)) {
			ssize_t n = getrandom((char *)state + got, sizeof(state) - got, 0);

			if (n > 0)
				got += (size_t)n;
		}
		seeded = true;
	}
	r = rotl(state[1] * 5, 7) * 9;
	t = state[1] << 17;
	state[2] ^= state[0];
	state[3] ^= state[1];
	state[1] ^= state[2];
	state[0] ^= state[3];
	state[2] ^= t;
	state[3] = rotl(state[3], 45);
	return r;
}

double rand_unit(void) { return (double)(rand_u64() >> 11) * 0x1.0p-53; }

static inline void put_ms(struct uuid *u, uint64_t ms)
{
	for (int i = 0; i < 6; i++)
		u->b[i] = (uint8_t)(ms >> (40 - 8 * i));
}

/* 48 bits of milliseconds, 12 bits of counter in rand_a (method 1 of RFC 9562 section 6.2), 62 random bits. */
struct uuid uuid_v7(int64_t wall_us)
{
	uint64_t ms = (uint64_t)(wall_us / 1000), r = rand_u64();
	struct uuid u;

	if (ms > last_ms) {
		last_ms = ms;
		counter = r >> 54;                /* leaves room to count up */
	} else if (++counter > 0xfff) {
		last_ms++;
		counter = 0;
	}
	put_ms(&u, last_ms);
	u.b[6] = (uint8_t)(0x70 | counter >> 8);
	u.b[7] = (uint8_t)counter;
	memcpy(u.b + 8, &r, 8);
	u.b[8] = (uint8_t)((u.b[8] & 0x3f) | 0x80);
	return u;
}

struct uuid uuid_v7_made_of(int64_t wall_us, const uint8_t bytes[10])
{
	struct uuid u;

	put_ms(&u, (uint64_t)(wall_us / 1000));
	memcpy(u.b + 6, bytes, 10);
	u.b[6] = (uint8_t)((u.b[6] & 0x0f) | 0x70);
	u.b[8] = (uint8_t)((u.b[8] & 0x3f) | 0x80);
	return u;
}

/* Four bytes are spread over the eight of one number, a digit in each, and become letters together: each request has three ids, and digit by
 * digit they took 800 instructions. */
static inline void hex_of_4(char out[8], const uint8_t bytes[4])
{
	uint64_t v = (uint64_t)bytes[0] | (uint64_t)bytes[1] << 8 | (uint64_t)bytes[2] << 16 | (uint64_t)bytes[3] << 24, nines;

	v = (v | v << 16) & 0x0000ffff0000ffffu;
	v = (v | v << 8) & 0x00ff00ff00ff00ffu;
	v = (v >> 4 & 0x000f000f000f000fu) | (v & 0x000f000f000f000fu) << 8;
	nines = (v + 0x0606060606060606u) >> 4 & 0x0101010101010101u;       /* 1 where it is more than nine */
	v = htole64(v + 0x3030303030303030u + nines * ('a' - '0' - 10));
	memcpy(out, &v, sizeof(v));
}

void hex_of(char *out, const uint8_t *bytes, unsigned n)
{
	for (unsigned i = 0; i < n; i += 4)
		hex_of_4(out + 2 * i, bytes + i);
}

void uuid_format(struct uuid u, char out[37])
{
	char hex[32];

	hex_of(hex, u.b, sizeof(u.b));
	memcpy(out, hex, 8);
	memcpy(out + 9, hex + 8, 4);
	memcpy(out + 14, hex + 12, 4);
	memcpy(out + 19, hex + 16, 4);
	memcpy(out + 24, hex + 20, 12);
	out[8] = out[13] = out[18] = out[23] = '-';
	out[36] = '\0';
}

static int nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool uuid_parse(struct str s, struct uuid *ret)
{
	struct uuid u;
	size_t at = 0;

	if (s.n != 36)
		return false;
	for (int i = 0; i < 16; i++) {
		int hi, lo;

		if (i == 4 || i == 6 || i == 8 || i == 10)
			if (s.p[at++] != '-')
				return false;
		hi = nibble(s.p[at]);
		lo = nibble(s.p[at + 1]);
		if (hi < 0 || lo < 0)
			return false;
		u.b[i] = (uint8_t)(hi << 4 | lo);
		at += 2;
	}
	*ret = u;
	return true;
}
