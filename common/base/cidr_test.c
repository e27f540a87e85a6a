/* cidr_test.c - networks as people write them, and what is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/cidr.h"

static struct cidr net(const char *z)
{
	struct cidr c;

	if (!cidr_parse(str_of(z), &c))
		fail_msg("'%s' is a network", z);
	return c;
}

static bool has(const char *network, const char *address)
{
	struct cidr c = net(network);
	uint8_t ip[16];

	if (!ip_parse(str_of(address), ip))
		fail_msg("'%s' is an address", address);
	return cidr_has(&c, ip);
}

static void an_address_is_in_its_networks(void **state)
{
	assert_true(has("10.0.0.0/8", "10.255.0.1"));
	assert_false(has("10.0.0.0/8", "11.0.0.1"));
	assert_true(has("192.0.2.7", "192.0.2.7"));
	assert_false(has("192.0.2.7", "192.0.2.6"));
	assert_true(has("192.0.2.128/25", "192.0.2.200"));
	assert_false(has("192.0.2.128/25", "192.0.2.100"));
	assert_true(has("2001:db8::/32", "2001:db8:1::5"));
	assert_false(has("2001:db8::/32", "2001:db9::5"));
	assert_true(has("0.0.0.0/0", "8.8.8.8"));
	assert_false(has("0.0.0.0/0", "::1"));
	assert_true(has("::/0", "8.8.8.8"));
}

static void a_mapped_address_is_the_same(void **state)
{
	assert_true(has("10.0.0.0/8", "::ffff:10.1.2.3"));
	assert_true(has("::ffff:10.0.0.0/104", "10.1.2.3"));
}

static void a_network_lies_within_another(void **state)
{
	static const struct { const char *inner, *outer; bool within; } cases[] = {
		{ "10.1.0.0/16", "10.0.0.0/8", true }, { "10.0.0.0/8", "10.1.0.0/16", false }, { "10.0.0.0/8", "10.0.0.0/8", true },
		{ "10.0.0.1", "10.0.0.0/31", true }, { "10.0.0.2", "10.0.0.0/31", false }, { "0.0.0.0/0", "::/0", true }, { "::/0", "0.0.0.0/0", false },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct cidr inner = net(cases[i].inner), outer = net(cases[i].outer);

		assert_int_equal(cidr_within(&inner, &outer), cases[i].within);
	}
}

static void what_is_no_network(void **state)
{
	static const char *const bad[] = { "", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/8/8", "10.1.0.0/8", "10.0.0", "010.0.0.1", "::/129",
					   "fe80::1%eth0", "[::1]", "localhost", "10.0.0.0 /8", "1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111" };
	struct cidr c;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		if (cidr_parse(str_of(bad[i]), &c))
			fail_msg("'%s' is no network", bad[i]);
	assert_false(cidr_parse(str_n("10.0.0.1\0x", 10), &c));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_address_is_in_its_networks),
		cmocka_unit_test(a_mapped_address_is_the_same),
		cmocka_unit_test(a_network_lies_within_another),
		cmocka_unit_test(what_is_no_network),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
