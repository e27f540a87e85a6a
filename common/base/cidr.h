/* cidr.h - networks of IP addresses: "10.0.0.0/8", "2001:db8::/32", "192.0.2.7". IPv4 is kept as ::ffff:a.b.c.d, so that an address
 * that arrives on a socket of either family is the same address. */
#ifndef CORRAL_BASE_CIDR_H
#define CORRAL_BASE_CIDR_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

struct cidr {
	uint8_t addr[16];
	uint8_t bits;                 /* 0..128 */
};

bool ip_parse(struct str, uint8_t ret[16]);              /* no port, no brackets, no zone */
/* False also when bits beyond the prefix are set ("10.1.0.0/8"): that is a typing error more often than not. */
bool cidr_parse(struct str, struct cidr *ret);
bool cidr_has(const struct cidr *, const uint8_t ip[16]);
bool cidr_within(const struct cidr *inner, const struct cidr *outer);
#endif
