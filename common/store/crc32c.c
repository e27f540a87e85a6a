/* crc32c.c - see crc32c.h. The way is chosen once, at the first call. */
#include "common/store/crc32c.h"

#include <pthread.h>
#include <string.h>

static uint32_t choose(const void *p, size_t n);
static uint32_t (*chosen)(const void *p, size_t n) = choose;

uint32_t crc32c(const void *p, size_t n)
{
	return __atomic_load_n(&chosen, __ATOMIC_RELAXED)(p, n);
}

/* --- eight tables, eight bytes a step --- */

static uint32_t table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void table_fill(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? (c >> 1) ^ 0x82f63b78u : c >> 1;
		table[0][i] = c;
	}
	for (int t = 1; t < 8; t++)
		for (int i = 0; i < 256; i++)
			table[t][i] = (table[t - 1][i] >> 8) ^ table[0][table[t - 1][i] & 0xff];
}

static uint32_t table_step8(uint32_t c, const uint8_t *p)
{
	c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
	return table[7][c & 0xff] ^ table[6][(c >> 8) & 0xff] ^ table[5][(c >> 16) & 0xff] ^ table[4][c >> 24] ^
	       table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
}

uint32_t crc32c_table(const void *at, size_t n)
{
	const uint8_t *p = at;
	uint32_t c = ~0u;

	pthread_once(&table_once, table_fill);
	for (; n >= 8; n -= 8, p += 8)
		c = table_step8(c, p);
	for (; n; n--, p++)
		c = (c >> 8) ^ table[0][(c ^ *p) & 0xff];
	return ~c;
}

/* --- SSE4.2 --- */

#if defined(__x86_64__)
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(const void *at, size_t n)
{
	const uint8_t *p = at;
	uint64_t c = ~0u, word;

	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&word, p, 8);
		c = _mm_crc32_u64(c, word);
	}
	for (; n; n--, p++)
		c = _mm_crc32_u8((uint32_t)c, *p);
	return ~(uint32_t)c;
}

static uint32_t choose(const void *p, size_t n)
{
	__builtin_cpu_init();
	__atomic_store_n(&chosen, __builtin_cpu_supports("sse4.2") ? crc32c_sse42 : crc32c_table, __ATOMIC_RELAXED);
	return crc32c(p, n);
}
#else
static uint32_t choose(const void *p, size_t n)
{
	__atomic_store_n(&chosen, crc32c_table, __ATOMIC_RELAXED);
	return crc32c(p, n);
}
#endif
