/* feedback_box_test.c - what the spool of feedback keeps, and for whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/gateway/feedback_box.h"

#define MIB (UINT64_C(1) << 20)
#define AT (UINT64_C(1) << 50)            /* where the spool began: positions are of the wall clock */

static void both_must_have_it_but_kafka_only_the_newest(void **state)
{
	static const struct { uint64_t ledger, kafka, end, bytes, needless; } is[] = {
		{ AT + 10 * MIB, UINT64_MAX, AT + 12 * MIB, 12 * MIB, AT + 10 * MIB },            /* without Kafka */
		{ AT + 10 * MIB, AT + 9 * MIB, AT + 12 * MIB, 12 * MIB, AT + 9 * MIB },
		{ AT + 9 * MIB, AT + 12 * MIB, AT + 12 * MIB, 12 * MIB, AT + 9 * MIB },
		{ AT + 12 * MIB, 0, AT + 12 * MIB, 12 * MIB, 0 },                                 /* at the start */
		{ AT + 12 * MIB, 0, AT + 900 * MIB, 900 * MIB, 0 },
		{ AT + 256 * MIB, AT, AT + 256 * MIB, 256 * MIB, AT },                            /* as much as is kept for Kafka */
		{ AT + 300 * MIB, AT, AT + 300 * MIB, 300 * MIB, AT + 44 * MIB },
		{ AT + 300 * MIB, AT + 99 * MIB, AT + 300 * MIB, 300 * MIB, AT + 99 * MIB },
		{ AT + 20 * MIB, AT, AT + 300 * MIB, 300 * MIB, AT + 20 * MIB },                  /* what the usage-tracker does not have stays, whatever there is */
		{ AT, AT, AT + 4096 * MIB, 4096 * MIB, AT },
		{ 0, UINT64_MAX, AT + 4096 * MIB, 4096 * MIB, 0 },
	};

	for (size_t i = 0; i < sizeof(is) / sizeof(*is); i++)
		assert_int_equal(feedback_box_needless(is[i].ledger, is[i].kafka, is[i].end, is[i].bytes), is[i].needless);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(both_must_have_it_but_kafka_only_the_newest) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
