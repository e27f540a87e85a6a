/* cidr.c - see cidr.h. */
#include "common/base/cidr.h"

#include <arpa/inet.h>

static bool parse(struct str s, uint8_t ret[16], bool *ret_v4)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	char text[INET6_ADDRSTRLEN];
	uint8_t raw[16];

	if (s.n == 0 || memchr(s.p, '\0', s.n) || !str_copy(text, sizeof(text), s))
		return false;
	*ret_v4 = inet_pton(AF_INET, text, raw) == 1;
	if (*ret_v4) {
		memcpy(ret, mapped, sizeof(mapped));
		memcpy(ret + 12, raw, 4);
		return true;
	}
	if (inet_pton(AF_INET6, text, raw) != 1)
		return false;
	memcpy(ret, raw, 16);
	return true;
}

/* The first 'bits' bits are equal. */
static bool same_prefix(const uint8_t *a, const uint8_t *b, unsigned bits)
{
	unsigned whole = bits / 8, rest = bits % 8;

	if (memcmp(a, b, whole) != 0)
		return false;
	return !rest || ((a[whole] ^ b[whole]) & (uint8_t)(0xff00u >> rest)) == 0;
}

bool ip_parse(struct str s, uint8_t ret[16])
{
	bool v4;

	return parse(s, ret, &v4);
}

bool cidr_parse(struct str s, struct cidr *ret)
{
	const char *slash = s.n ? memchr(s.p, '/', s.n) : NULL;
	struct str host = slash ? str_n(s.p, (size_t)(slash - s.p)) : s;
	struct cidr c;
	uint64_t bits;
	bool v4;

	if (!parse(host, c.addr, &v4))
		return false;
	bits = v4 ? 32 : 128;
	if (slash && (!str_u64(str_from(s, host.n + 1), &bits) || bits > (v4 ? 32 : 128)))
		return false;
	c.bits = (uint8_t)(bits + (v4 ? 96 : 0));
	for (unsigned i = c.bits; i < 128; i++)
		if (c.addr[i / 8] >> (7 - i % 8) & 1)
			return false;
	*ret = c;
	return true;
}

bool cidr_has(const struct cidr *c, const uint8_t ip[16]) { return same_prefix(c->addr, ip, c->bits); }

bool cidr_within(const struct cidr *inner, const struct cidr *outer)
{
	return inner->bits >= outer->bits && same_prefix(inner->addr, outer->addr, outer->bits);
}
