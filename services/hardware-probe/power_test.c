/* power_test.c - what a machine draws: meters and counters of every source, counters that go round, begin anew, jump or say nonsense. */
#include "services/hardware-probe/probe_test.h"

#include "services/hardware-probe/power.h"

#define S 1000000LL
#define RAPL "/sys/class/powercap/intel-rapl:"
#define HWMON "/sys/class/drm/card0/device/hwmon/hwmon4/"

static struct power_meter *meter;

static int open_meter(void **state)
{
	meter = power_meter_new();
	return setup(state);
}

static int close_meter(void **state)
{
	power_meter_free(meter);
	return teardown(state);
}

static int64_t clock_us;
static int64_t a_clock(void) { return clock_us; }

static struct probe probe_at(struct tree *t, int64_t now_us)
{
	struct probe p = probe_new(t->mem, t->root);

	p.clock = a_clock;
	clock_us = now_us;
	return p;
}

static struct power look_at(struct tree *t, int64_t now_us)
{
	struct probe p = probe_at(t, now_us);

	return power_look(meter, &p, "off");
}

static int64_t mw_at(struct tree *t, int64_t now_us) { return look_at(t, now_us).milliwatts; }

static void zone(struct tree *t, const char *zone, const char *name, const char *uj, const char *range)
{
	char path[128];

	snprintf(path, sizeof(path), RAPL "%s/name", zone);
	put(t, path, name);
	snprintf(path, sizeof(path), RAPL "%s/energy_uj", zone);
	put(t, path, uj);
	snprintf(path, sizeof(path), RAPL "%s/max_energy_range_uj", zone);
	put(t, path, range);
}

static void nothing_tells_it(void **state)
{
	struct power p = look_at(*state, S);

	assert_true(p.milliwatts < 0 && p.limit_milliwatts < 0);
	assert_string_equal(p.source, "");
}

/* Two packages and the memory of one; cores are in the package's figure already, psys counts everything once more. */
static void rapl_adds_packages_and_memory(void **state)
{
	struct tree *t = *state;
	struct power p;

	zone(t, "0", "package-0\n", "1000000\n", "262143328850\n");
	zone(t, "0:0", "core\n", "500000\n", "262143328850\n");
	zone(t, "0:1", "dram\n", "100\n", "65712999613\n");
	zone(t, "1", "package-1\n", "7\n", "262143328850\n");
	zone(t, "2", "psys\n", "5\n", "262143328850\n");
	put(t, "/sys/class/powercap/intel-rapl-mmio:0/name", "package-0\n");
	put(t, "/sys/class/powercap/intel-rapl-mmio:0/energy_uj", "1000000\n");
	assert_true(mw_at(t, 10 * S) < 0);            /* one look at a counter is no power */
	zone(t, "0", "package-0\n", "101000000\n", "262143328850\n");
	zone(t, "0:0", "core\n", "90500000\n", "262143328850\n");
	zone(t, "0:1", "dram\n", "10000100\n", "65712999613\n");
	zone(t, "1", "package-1\n", "40000007\n", "262143328850\n");
	zone(t, "2", "psys\n", "900000005\n", "262143328850\n");
	put(t, "/sys/class/powercap/intel-rapl-mmio:0/energy_uj", "101000000\n");
	p = look_at(t, 12 * S);
	assert_int_equal(p.milliwatts, 50000 + 5000 + 20000);
	assert_int_equal(p.limit_milliwatts, -1);
	assert_string_equal(p.source, "rapl");
	assert_int_equal(mw_at(t, 14 * S), 0);        /* nothing was drawn: known, and none */
}

static void a_counter_goes_round(void **state)
{
	struct tree *t = *state;

	zone(t, "0", "package-0\n", "262143000000\n", "262143328850\n");
	assert_true(mw_at(t, S) < 0);
	zone(t, "0", "package-0\n", "59671150\n", "262143328850\n");          /* 328,850 to the end and as many from the beginning as make 60 J */
	assert_int_equal(mw_at(t, 3 * S), 30000);
	zone(t, "0", "package-0\n", "10\n", "");                              /* nobody knows where it went round */
	assert_true(mw_at(t, 5 * S) < 0);
	zone(t, "0", "package-0\n", "20000010\n", "");                        /* and from there on it counts */
	assert_int_equal(mw_at(t, 7 * S), 10000);
}

static void a_counter_that_jumps_is_not_believed(void **state)
{
	struct tree *t = *state;

	zone(t, "0", "package-0\n", "100\n", "262143328850\n");
	assert_true(mw_at(t, S) < 0);
	zone(t, "0", "package-0\n", "99\n", "262143328850\n");                /* a reset, which reads as having gone round: 131 kW */
	assert_true(mw_at(t, 3 * S) < 0);
	zone(t, "0", "package-0\n", "2000099\n", "262143328850\n");
	assert_int_equal(mw_at(t, 5 * S), 1000);
	assert_true(mw_at(t, 5 * S) < 0);                                     /* no time has passed */
}

static void nonsense_is_nothing(void **state)
{
	static const char *const texts[] = { "", "\n", "-5\n", "many\n", "12 34\n", "99999999999999999999999\n", "0x10\n", "1e9\n", "9223372036854775807\n", "\0\1\2" };
	struct tree *t = *state;
	int64_t now = S;

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		zone(t, "0", texts[i], texts[i], texts[i]);
		zone(t, "1", "package-1\n", texts[i], texts[i]);
		put(t, "/sys/class/drm/card0/device/vendor", "0x1002\n");
		put(t, HWMON "energy1_input", texts[i]);
		put(t, HWMON "power1_average", texts[i]);
		assert_true(mw_at(t, now) <= 0);
		now += S;
	}
}

static void a_long_text_is_cut(void **state)
{
	char *text = x_calloc(1, 70000);

	memset(text, '1', 69999);
	zone(*state, "0", text, text, text);
	assert_true(mw_at(*state, S) < 0 && mw_at(*state, 2 * S) < 0);
	free(text);
}

static void amd_tells_its_power(void **state)
{
	struct tree *t = *state;
	struct power p;

	zone(t, "0", "package-0\n", "0\n", "262143328850\n");
	put(t, "/sys/class/drm/card0/device/vendor", "0x1002\n");
	put(t, "/sys/class/drm/card0/device/uevent", "PCI_SLOT_NAME=0000:03:00.0\n");
	put(t, HWMON "power1_average", "187000000\n");
	put(t, HWMON "power1_cap", "300000000\n");
	p = look_at(t, S);
	assert_int_equal(p.milliwatts, 187000);
	assert_int_equal(p.limit_milliwatts, 300000);
	assert_string_equal(p.source, "sysfs");
	zone(t, "0", "package-0\n", "90000000\n", "262143328850\n");          /* the processor is not added to it */
	assert_int_equal(mw_at(t, 2 * S), 187000);
}

/* A counter is the mean over all the time between; the meter beside it only its moment. */
static void a_counter_goes_before_a_meter(void **state)
{
	struct tree *t = *state;

	put(t, "/sys/class/drm/card0/device/vendor", "0x8086\n");
	put(t, "/sys/class/drm/card0/device/uevent", "PCI_SLOT_NAME=0000:03:00.0\n");
	put(t, HWMON "energy1_input", "5000000\n");
	put(t, HWMON "power1_input", "10000000\n");
	assert_int_equal(mw_at(t, S), 10000);         /* until it was read twice */
	put(t, HWMON "energy1_input", "165000000\n");
	assert_int_equal(mw_at(t, 3 * S), 80000);
	put(t, HWMON "energy1_input", "4\n");         /* its driver was loaded again */
	assert_int_equal(mw_at(t, 5 * S), 10000);
	assert_int_equal(look_at(t, 7 * S).limit_milliwatts, -1);
	assert_int_equal(mw_at(t, 9 * S), 10000);     /* it stands still, and power is drawn */
}

/* --- as NVML has it --- */

static Corral__Gpu *nvidia(struct probe *p, const char *id, const char *parent, double joules, double watts, double limit)
{
	Corral__Gpu *g = probe_gpu(p, "nvidia", "nvml");

	g->id = arena_printf(p->mem, "%s", id);
	g->parent = arena_printf(p->mem, "%s", parent);
	g->energy_joules = joules;
	g->power_watts = watts;
	g->power_limit_watts = limit;
	p->power_read_us[g->index] = p->clock();
	return g;
}

static struct power two_gpus(struct tree *t, double joules, int64_t now_us)
{
	struct probe p = probe_at(t, now_us);

	nvidia(&p, "GPU-1", "", joules, 55, 450);
	nvidia(&p, "GPU-2", "", -1, 20.5, 450);
	nvidia(&p, "MIG-3", "GPU-2", -1, -1, -1);
	return power_of(meter, &p);
}

static void nvidia_counts_its_energy(void **state)
{
	struct power p = two_gpus(*state, 1000, S);

	assert_int_equal(p.milliwatts, 75500);
	p = two_gpus(*state, 1600, 3 * S);
	assert_int_equal(p.milliwatts, 320500);
	assert_int_equal(p.limit_milliwatts, 900000);
	assert_string_equal(p.source, "nvml");
}

/* A look that stands still for 6 s before it reads: the energy is that of 8 s. */
static void a_counter_is_timed_when_it_is_read(void **state)
{
	struct tree *t = *state;
	struct probe p;

	assert_int_equal(two_gpus(t, 1000, S).milliwatts, 75500);
	p = probe_at(t, 3 * S);
	clock_us += 6 * S;
	nvidia(&p, "GPU-1", "", 1800, 55, 450);
	clock_us += 5 * S;
	assert_int_equal(power_of(meter, &p).milliwatts, 100000);
}

static void without_a_name_nothing_is_counted(void **state)
{
	struct probe p = probe_at(*state, S);

	nvidia(&p, "", "", 1000, 55, 450);
	nvidia(&p, "", "", 5000, 45, 450);
	assert_int_equal(power_of(meter, &p).milliwatts, 100000);
	p = probe_at(*state, 2 * S);
	nvidia(&p, "", "", 1500, 55, 450);
	nvidia(&p, "", "", 5500, 45, 450);
	assert_int_equal(power_of(meter, &p).milliwatts, 100000);
}

/* As a chip does that has the name of such a file and no meter behind it. */
static void gpus_that_say_nought_leave_it_to_the_processor(void **state)
{
	struct tree *t = *state;
	struct power p;

	zone(t, "0", "package-0\n", "1000000\n", "262143328850\n");
	put(t, "/sys/class/drm/card0/device/vendor", "0x8086\n");
	put(t, "/sys/class/drm/card0/device/uevent", "PCI_SLOT_NAME=0000:00:02.0\n");
	put(t, HWMON "power1_input", "0\n");
	p = look_at(t, S);
	assert_int_equal(p.milliwatts, 0);
	assert_string_equal(p.source, "sysfs");
	zone(t, "0", "package-0\n", "31000000\n", "262143328850\n");
	p = look_at(t, 2 * S);
	assert_int_equal(p.milliwatts, 30000);
	assert_string_equal(p.source, "rapl");
	put(t, HWMON "power1_input", "9000000\n");
	assert_int_equal(mw_at(t, 3 * S), 9000);
	put(t, HWMON "power1_input", "0\n");
	zone(t, "0", "package-0\n", "51000000\n", "262143328850\n");       /* it was read meanwhile: 20 J in this second, none in that before */
	assert_int_equal(mw_at(t, 4 * S), 20000);
}

static void who_may_not_read_it_is_told(void **state)
{
	struct tree *t = *state;
	Corral__HardwareSnapshot *hw;

	put(t, RAPL "0/name", "package-0\n");
	hw = probe_machine(t->mem, t->root, "off", &(struct opt_list){ 0 });
	assert_string_equal(hw->notes[hw->n_notes - 1]->source, "rapl");
	put(t, RAPL "0/energy_uj", "5\n");
	hw = probe_machine(t->mem, t->root, "off", &(struct opt_list){ 0 });
	assert_string_not_equal(hw->notes[hw->n_notes - 1]->source, "rapl");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, open_meter, close_meter)
	const struct CMUnitTest tests[] = {
		T(nothing_tells_it), T(rapl_adds_packages_and_memory), T(a_counter_goes_round), T(a_counter_that_jumps_is_not_believed), T(nonsense_is_nothing),
		T(a_long_text_is_cut), T(amd_tells_its_power), T(a_counter_goes_before_a_meter), T(nvidia_counts_its_energy), T(a_counter_is_timed_when_it_is_read),
		T(without_a_name_nothing_is_counted), T(gpus_that_say_nought_leave_it_to_the_processor), T(who_may_not_read_it_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
