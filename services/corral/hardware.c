/* hardware.c - `corral hardware`: what the machine has, and which models fit it. */
#include "services/corral/remote.h"
#include "services/corral/table.h"

struct hardware_opts {
	const char *context;
	bool all;
};

static const struct flag flags[] = {
	FLAG(struct hardware_opts, context, 0, "TOKENS", "The context that models get, for the memory they need; 8192 unless said otherwise."),
	FLAG(struct hardware_opts, all, 'a', NULL, "Models that do not fit as well."),
	{ 0 }
};

static void gib_cell(struct table *t, const struct json *j, uint32_t o, const char *key)
{
	int64_t v = 0;

	if (json_i64(j, json_get(j, o, key), &v))
		table_fmt(t, TONE_PLAIN, "%.1f", (double)v / (1 << 30));
	else
		table_cell(t, TONE_FAINT, STR("-"));
}

static void double_cell(struct table *t, const struct json *j, uint32_t o, const char *key, double scale, const char *fmt)
{
	double v = 0;

	if (!json_double(j, json_get(j, o, key), &v))
		table_cell(t, TONE_FAINT, STR("-"));
	else if (*fmt == '%')
		table_fmt(t, TONE_PLAIN, "%.0f %%", v * scale);
	else
		table_fmt(t, TONE_PLAIN, "%.0f %s", v * scale, fmt);
}

static void print_gpus(struct cli *c, const struct json *j, struct buf *b)
{
	uint32_t list = json_get(j, 0, "gpus");
	struct table t;

	table_init(&t, c->mem, "~GPU|VENDOR|>MEMORY GiB|>FREE GiB|>BUSY|>TEMP|>POWER|~THROTTLED BY");
	for (uint32_t g = list ? json_first(j, list) : 0; g; g = json_next(j, list, g)) {
		struct str throttled = get_list(c, j, g, "throttled_by");

		table_fmt(&t, TONE_PLAIN, "%s%s", *get_z(c, j, g, "part_of") ? "  " : "", get_z(c, j, g, "name"));
		table_cell(&t, TONE_PLAIN, get_str(c, j, g, "vendor"));
		gib_cell(&t, j, g, "memory_total_bytes");
		gib_cell(&t, j, g, "memory_free_bytes");
		double_cell(&t, j, g, "utilisation", 100, "%");
		double_cell(&t, j, g, "temperature_celsius", 1, "C");
		double_cell(&t, j, g, "power_watts", 1, "W");
		table_cell(&t, throttled.n ? TONE_WARN : TONE_FAINT, throttled.n ? throttled : STR("-"));
	}
	if (t.rows) {
		table_print(&t, b, c->width, c->colour);
		buf_char(b, '\n');
	}
}

static double gib_of(const struct json *j, uint32_t o, const char *key) { return (double)get_int(j, o, key) / (1 << 30); }

static void print_machine(struct cli *c, const struct json *j, struct buf *b)
{
	uint32_t cpu = json_get(j, 0, "cpu"), memory = json_get(j, 0, "memory"), limits = json_get(j, 0, "limits"), disks = json_get(j, 0, "disks");

	buf_printf(b, "Processor  %s, %lld cores, %s", get_z(c, j, cpu, "model"), (long long)get_int(j, cpu, "usable_cores"), get_z(c, j, cpu, "simd"));
	if (get_double(j, limits, "cpu_cores") > 0)
		buf_printf(b, " (limited to %.1f)", get_double(j, limits, "cpu_cores"));
	buf_printf(b, "\nMemory     %.1f GiB, %.1f usable now", gib_of(j, memory, "total_bytes"), gib_of(j, memory, "usable_bytes"));
	if (get_int(j, limits, "memory_bytes") > 0)
		buf_printf(b, " (limited to %.1f)", gib_of(j, limits, "memory_bytes"));
	for (uint32_t d = disks ? json_first(j, disks) : 0; d; d = json_next(j, disks, d))
		buf_printf(b, "\nDisk       %.1f GiB free below %s", gib_of(j, d, "free_bytes"), get_z(c, j, d, "path"));
	if (*get_z(c, j, 0, "power_source"))
		buf_printf(b, "\nPower      %.1f W (%s)", get_double(j, 0, "power_watts"), get_z(c, j, 0, "power_source"));
	if (*get_z(c, j, 0, "nvidia_driver"))
		buf_printf(b, "\nDriver     NVIDIA %s, CUDA %s", get_z(c, j, 0, "nvidia_driver"), get_z(c, j, 0, "cuda"));
	buf_addz(b, "\n\n");
}

static enum tone tone_of_fit(const char *fits)
{
	return strcmp(fits, "no") == 0 ? TONE_BAD : strcmp(fits, "partly") == 0 ? TONE_WARN : TONE_PLAIN;
}

static void print_models(struct cli *c, const struct json *j, struct buf *b)
{
	uint32_t list = json_get(j, 0, "recommended_models");
	struct table t;

	table_init(&t, c->mem, "|MODEL|ROLE|FITS|>DOWNLOAD GB|~WHY");
	for (uint32_t m = list ? json_first(j, list) : 0; m; m = json_next(j, list, m)) {
		const char *fits = get_z(c, j, m, "fits");

		table_cell(&t, TONE_GOOD, get_bool(j, m, "first") ? STR("*") : STR(""));
		table_cell(&t, get_bool(j, m, "first") ? TONE_STRONG : TONE_PLAIN, get_str(c, j, m, "name"));
		table_cell(&t, TONE_PLAIN, get_str(c, j, m, "role"));
		table_fmt(&t, tone_of_fit(fits), "%s", fits);
		table_fmt(&t, TONE_PLAIN, "%.1f", (double)get_int(j, m, "download_bytes") / 1e9);
		table_cell(&t, TONE_FAINT, get_str(c, j, m, "why"));
	}
	if (t.rows)
		table_print(&t, b, c->width, c->colour);
	else
		buf_addz(b, "No model of the catalogue fits this machine; --all shows what they would need.\n");
}

static void print_notes(struct cli *c, const struct json *j, struct buf *b)
{
	uint32_t list = json_get(j, 0, "notes");

	for (uint32_t n = list ? json_first(j, list) : 0; n; n = json_next(j, list, n))
		buf_printf(b, "%s%s: %s%s\n", tone_on(c->colour, TONE_FAINT), get_z(c, j, n, "source"), get_z(c, j, n, "text"), tone_off(c->colour, TONE_FAINT));
}

static int print(struct cli *c, const struct json *j)
{
	struct buf b = { 0 };

	print_gpus(c, j, &b);
	print_machine(c, j, &b);
	print_models(c, j, &b);
	print_notes(c, j, &b);
	fwrite(b.p, 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

static int run(struct cli *c)
{
	const struct hardware_opts *o = c->opts;
	struct buf path = { 0 };
	struct answer a;
	int status;

	buf_addz(&path, "/hardware");
	add_query(&path, "context", o->context);
	add_query(&path, "all", o->all ? "true" : "");
	status = cli_ask(c, "GET", buf_z(&path), STR(""), &a);
	buf_free(&path);
	if (status)
		return status;
	return c->json ? cli_print_raw(c, &a) : print(c, &a.doc);
}

const struct command cmd_hardware = {
	.name = "hardware", .args = "", .summary = "Show what this machine has and which models fit it.",
	.flags = flags, .opts_size = sizeof(struct hardware_opts), .run = run,
	.text = "An asterisk marks the model to begin with in each role. FITS says where it runs: gpu, gpus (spread over several), partly (some of it "
		"on the processor), cpu, or no.",
	.examples = (const struct example[]){
		{ "corral hardware", "The machine of the gateway." },
		{ "corral hardware --context 32768", "What fits when models get a longer context." },
		{ "corral hardware --json | jq -r '.recommended_models[] | select(.first).name'", "The models to begin with." },
		{ 0 } },
};
