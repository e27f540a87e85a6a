/* prices.c - `corral prices`: what tokens and machines cost, from when on. */
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "services/corral/money.h"
#include "services/corral/remote.h"
#include "services/corral/table.h"

#define DAY_US INT64_C(86400000000)

struct prices_opts {
	const char *model, *provider, *backend, *input, *cached_input, *output, *gpu_hour, *kwh, *from, *to;
	bool all, dry_run;
};

#define O struct prices_opts
static const struct flag flags[] = {
	FLAG(O, model, 'm', "NAME", "set: of this model; * stands for any characters. Default: of all."),
	FLAG(O, provider, 'p', "NAME", "set: of this provider: openai, ollama, …"),
	FLAG(O, backend, 'b', "NAME", "set: of this backend."),
	FLAG(O, input, 0, "USD", "set: a million tokens of prompts."),
	FLAG(O, cached_input, 0, "USD", "set: a million tokens of prompts that the provider had in its cache. Default: as the others."),
	FLAG(O, output, 0, "USD", "set: a million tokens of answers."),
	FLAG(O, gpu_hour, 0, "USD", "set: an hour of one's own machine, all its slots busy."),
	FLAG(O, kwh, 0, "USD", "set: a kilowatt-hour, where the hardware says what it draws."),
	FLAG(O, from, 0, "TIME", "set: from then on; default: now. reprice: requests from then on."),
	FLAG(O, to, 0, "TIME", "reprice: until then, not included; default: now."),
	FLAG(O, all, 'a', NULL, "list: also those that newer ones have followed."),
	FLAG(O, dry_run, 'n', NULL, "reprice: says what would change."),
	{ 0 }
};
#undef O

/* --- list --- */

static void money_cell(struct cli *c, struct table *t, const struct json *j, uint32_t at, const char *key)
{
	table_cell(t, TONE_PLAIN, json_get(j, at, key) ? str_of(money(c->mem, get_int(j, at, key))) : STR("-"));
}

static void add_price(struct cli *c, struct table *t, const struct json *j, uint32_t at, bool later)
{
	bool in_force = get_bool(j, at, "in_force");

	table_cell(t, TONE_PLAIN, get_str(c, j, at, "model"));
	table_cell(t, TONE_PLAIN, get_str(c, j, at, "provider"));
	table_cell(t, TONE_PLAIN, get_str(c, j, at, "backend"));
	table_cell(t, TONE_PLAIN, get_str(c, j, at, "valid_from"));
	table_cell(t, in_force ? TONE_GOOD : TONE_FAINT, in_force ? STR("in force") : later ? STR("later") : STR("followed"));
	money_cell(c, t, j, at, "input_microusd");
	money_cell(c, t, j, at, "cached_input_microusd");
	money_cell(c, t, j, at, "output_microusd");
	money_cell(c, t, j, at, "gpu_hour_microusd");
	money_cell(c, t, j, at, "kwh_microusd");
}

static int list(struct cli *c, const struct prices_opts *o)
{
	struct buf b = { 0 };
	struct answer a;
	struct table t;
	uint32_t all;
	int status = cli_ask(c, "GET", "/prices", STR(""), &a);

	if (status)
		return status;
	all = json_get(&a.doc, 0, "prices");
	if (!all)
		return cli_answer_failed(c, &a);
	if (c->json)
		return cli_print_raw(c, &a);
	table_init(&t, c->mem, "~MODEL|~PROVIDER|~BACKEND|FROM|STATE|>INPUT/M|>CACHED/M|>OUTPUT/M|>GPU-HOUR|>KWH");
	for (uint32_t i = json_first(&a.doc, all); i; i = json_next(&a.doc, all, i)) {
		bool later = str_cmp(get_str(c, &a.doc, i, "valid_from"), get_str(c, &a.doc, 0, "as_of")) > 0;

		if (o->all || later || get_bool(&a.doc, i, "in_force"))
			add_price(c, &t, &a.doc, i, later);
	}
	if (!json_count(&a.doc, all))
		fprintf(c->out, "There are no prices: everything costs nothing. 'corral prices set' sets one.\n");
	else
		table_print(&t, &b, c->width, c->colour);
	fwrite(b.p ? b.p : "", 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

/* --- set --- */

static bool add_money(struct cli *c, struct json_out *jo, const char *key, const char *flag, const char *said)
{
	int64_t microusd;

	if (!*said)
		return true;
	if (!money_parse(said, &microusd)) {
		cli_usage(c, "--%s: '%s' is no amount of dollars; write 2.50 (at most six digits behind the point)", flag, said);
		return false;
	}
	jw_kv_i64(jo, key, microusd);
	return true;
}

static bool body_of(struct cli *c, const struct prices_opts *o, struct buf *b)
{
	struct json_out jo;
	bool ok;

	json_begin(&jo, b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "model", o->model);
	jw_kv_strz(&jo, "provider", o->provider);
	jw_kv_strz(&jo, "backend", o->backend);
	if (*o->from)
		jw_kv_strz(&jo, "valid_from", o->from);
	ok = add_money(c, &jo, "input_microusd", "input", o->input) && add_money(c, &jo, "cached_input_microusd", "cached-input", o->cached_input) &&
	     add_money(c, &jo, "output_microusd", "output", o->output) && add_money(c, &jo, "gpu_hour_microusd", "gpu-hour", o->gpu_hour) &&
	     add_money(c, &jo, "kwh_microusd", "kwh", o->kwh);
	jw_end(&jo);
	json_done(&jo);
	return ok;
}

static int set(struct cli *c, const struct prices_opts *o)
{
	struct buf b = { 0 };
	struct answer a;
	int64_t from_us = INT64_MAX;
	int status = body_of(c, o, &b) ? cli_ask(c, "PUT", "/prices", buf_as_str(&b), &a) : EXIT_USAGE;

	buf_free(&b);
	if (status)
		return status;
	if (c->json)
		return cli_print_raw(c, &a);
	fprintf(c->out, "%s from %s on.\n", a.status == 201 ? "Set," : "Was set already,", get_z(c, &a.doc, 0, "valid_from"));
	(void)clock_parse_rfc3339(get_z(c, &a.doc, 0, "valid_from"), &from_us);
	if (from_us < wall_us() - 60000000)
		fprintf(c->out, "What is booked keeps its cost; 'corral prices reprice --from %s' books the difference.\n", get_z(c, &a.doc, 0, "valid_from"));
	return EXIT_OK;
}

/* --- reprice: day by day, so that the ledger goes on in between --- */

struct repriced { int64_t attempts, changed, before, after; };

static int one_day(struct cli *c, int64_t from_us, int64_t to_us, bool dry_run, struct repriced *sum)
{
	char from[40], to[40];
	struct str body;
	struct answer a;
	int status;

	clock_rfc3339(from_us, 6, from, sizeof(from));
	clock_rfc3339(to_us, 6, to, sizeof(to));
	body = arena_fmt(c->mem, "{\"from\":\"%s\",\"to\":\"%s\",\"dry_run\":%s}", from, to, dry_run ? "true" : "false");
	a = remote_ask(c->gateway, "POST", "/prices/reprice", body, 130000);
	if (a.status != 200 || !a.is_json)
		return cli_answer_failed(c, &a);
	status = EXIT_OK;
	sum->attempts += get_int(&a.doc, 0, "attempts");
	sum->changed += get_int(&a.doc, 0, "changed");
	sum->before += get_int(&a.doc, 0, "before_microusd");
	sum->after += get_int(&a.doc, 0, "after_microusd");
	if (!c->json && get_int(&a.doc, 0, "attempts"))
		fprintf(c->out, "%.10s  %lld attempts, %lld %s, $%s -> $%s\n", from, (long long)get_int(&a.doc, 0, "attempts"),
			(long long)get_int(&a.doc, 0, "changed"), dry_run ? "would change" : "changed", money(c->mem, get_int(&a.doc, 0, "before_microusd")),
			money(c->mem, get_int(&a.doc, 0, "after_microusd")));
	fflush(c->out);
	return status;
}

static int reprice(struct cli *c, const struct prices_opts *o)
{
	int64_t from_us = 0, to_us = wall_us();
	struct repriced sum = { 0 };
	int status = EXIT_OK;

	if (!*o->from || !clock_parse_rfc3339(o->from, &from_us))
		return cli_usage(c, "reprice needs --from, a time: 2026-11-01, or 2026-11-01T09:00:00Z");
	if (*o->to && !clock_parse_rfc3339(o->to, &to_us))
		return cli_usage(c, "--to: '%s' is not a time; write 2026-11-21 or 2026-11-21T09:00:00Z", o->to);
	if (!remote_gateway(c))
		return EXIT_USAGE;
	while (status == EXIT_OK && from_us < to_us) {
		int64_t end_us = from_us - from_us % DAY_US + DAY_US;

		status = one_day(c, from_us, end_us < to_us ? end_us : to_us, o->dry_run, &sum);
		from_us = end_us;
	}
	if (status == EXIT_OK && c->json)
		fprintf(c->out, "{\"attempts\":%lld,\"changed\":%lld,\"before_microusd\":%lld,\"after_microusd\":%lld,\"dry_run\":%s}\n", (long long)sum.attempts,
			(long long)sum.changed, (long long)sum.before, (long long)sum.after, o->dry_run ? "true" : "false");
	else if (status == EXIT_OK)
		fprintf(c->out, "%lld of %lld attempts %s; their cost is $%s%s.\n", (long long)sum.changed, (long long)sum.attempts,
			o->dry_run ? "would change" : "changed", money(c->mem, sum.after), o->dry_run ? " then" : " now");
	return status;
}

/* --- the command --- */

static bool says_price(const struct prices_opts *o) { return *o->input || *o->output || *o->cached_input || *o->gpu_hour || *o->kwh; }

static int run(struct cli *c)
{
	const struct prices_opts *o = c->opts;
	const char *word = c->n_args ? c->args[0] : "list";

	if (strcmp(word, "list") == 0)
		return says_price(o) ? cli_usage(c, "prices list sets no price; prices set does") : list(c, o);
	if (strcmp(word, "set") == 0)
		return says_price(o) ? set(c, o) : cli_usage(c, "say a price: --input and --output, or --gpu-hour, or --kwh");
	if (strcmp(word, "reprice") == 0)
		return reprice(c, o);
	return cli_usage(c, "prices knows list, set and reprice, not '%s'", word);
}

const struct command cmd_prices = {
	.name = "prices", .args = "[list] | set | reprice", .summary = "Show and set what tokens and machines cost.",
	.flags = flags, .opts_size = sizeof(struct prices_opts), .max_args = 1, .run = run,
	.text = "A price counts for attempts that begin when it is in force; one that is set later follows it and changes nothing that is booked. The price "
		"of the most telling name counts: of a model before one of a backend or a provider, a name before a pattern.\n"
		"For prices that were learned late, set them --from the past, and reprice books the difference as corrections, day by day.",
	.examples = (const struct example[]){
		{ "corral prices", "What is in force, and what comes." },
		{ "corral prices set --model gpt-x --provider openai --input 2.50 --cached-input 0.25 --output 10", "A cloud model's list price, a million tokens each." },
		{ "corral prices set --backend gpu1 --gpu-hour 1.80 --kwh 0.28", "A machine of one's own." },
		{ "corral prices reprice --from 2026-11-01 --dry-run", "What the month would cost at the prices of now." },
		{ 0 } },
};
