/* providers.c - `corral providers`: which providers in the cloud can be used, and why others cannot. */
#include <unistd.h>

#include "common/data/secret.h"
#include "services/corral/money.h"
#include "services/corral/remote.h"
#include "services/corral/table.h"

enum { KEY_MOST = 4096, MASTER_LEAST = 16, MASTER_MOST = 4096 };

struct providers_opts { const char *master_key_file; bool models; };

static const struct flag flags[] = {
	FLAG(struct providers_opts, models, 'm', NULL, "Their models, with contexts and prices for a million tokens."),
	FLAG(struct providers_opts, master_key_file, 0, "FILE", "seal: the file with the master key; CORRAL_CLOUD_MASTER_KEY_FILE and CORRAL_MASTER_KEY_FILE name it too."),
	{ 0 }
};

static enum tone tone_of(struct str state)
{
	return str_eqz(state, "ready") ? TONE_GOOD : str_eqz(state, "cooling") ? TONE_WARN : TONE_BAD;
}

static bool is_given(const struct json *j, uint32_t at, const char *key)
{
	uint32_t v = json_get(j, at, key);

	return v && json_kind(j, v) != JSON_NULL;
}

static void number_cell(struct table *t, const struct json *j, uint32_t at, const char *key)
{
	if (is_given(j, at, key))
		table_fmt(t, TONE_PLAIN, "%lld", (long long)get_int(j, at, key));
	else
		table_cell(t, TONE_FAINT, STR("-"));
}

static void money_cell(struct cli *c, struct table *t, const struct json *j, uint32_t at, const char *key)
{
	table_cell(t, TONE_PLAIN, is_given(j, at, key) ? str_of(money(c->mem, get_int(j, at, key))) : STR("-"));
}

/* Of a provider that is ready: those of its models that rest. */
static struct str resting(struct cli *c, const struct json *j, uint32_t list)
{
	struct str text = STR("");

	for (uint32_t m = list ? json_first(j, list) : 0; m; m = json_next(j, list, m))
		if (is_given(j, m, "rests_until"))
			text = arena_fmt(c->mem, STR_FMT "%s" STR_FMT, STR_ARG(text), text.n ? "; " : "", STR_ARG(get_str(c, j, m, "reason")));
	return text.n ? text : STR("-");
}

static void add_provider(struct cli *c, struct table *t, const struct json *j, uint32_t p)
{
	struct str state = get_str(c, j, p, "state"), reason = get_str(c, j, p, "reason");

	table_cell(t, TONE_PLAIN, get_str(c, j, p, "name"));
	table_cell(t, TONE_PLAIN, get_str(c, j, p, "kind"));
	table_cell(t, tone_of(state), state);
	number_cell(t, j, p, "keys");
	table_fmt(t, TONE_PLAIN, "%u", json_count(j, json_get(j, p, "models")));
	number_cell(t, j, p, "left_tokens");
	money_cell(c, t, j, p, "left_microusd");
	table_cell(t, TONE_FAINT, reason.n ? reason : resting(c, j, json_get(j, p, "models")));
}

static void add_models(struct cli *c, struct table *t, const struct json *j, uint32_t p)
{
	uint32_t list = json_get(j, p, "models");

	for (uint32_t m = list ? json_first(j, list) : 0; m; m = json_next(j, list, m)) {
		table_cell(t, TONE_PLAIN, get_str(c, j, m, "name"));
		number_cell(t, j, m, "context_tokens");
		number_cell(t, j, m, "max_output_tokens");
		money_cell(c, t, j, m, "input_microusd");
		money_cell(c, t, j, m, "cached_input_microusd");
		money_cell(c, t, j, m, "output_microusd");
		table_cell(t, TONE_PLAIN, get_list(c, j, m, "capabilities"));
		table_cell(t, is_given(j, m, "rests_until") ? TONE_WARN : TONE_FAINT, is_given(j, m, "rests_until") ? get_str(c, j, m, "rests_until") : STR("-"));
	}
}

/* --- seal --- */

static struct str without_end(const char *text, size_t n)
{
	while (n && (text[n - 1] == '\n' || text[n - 1] == '\r'))
		n--;
	return str_n(text, n);
}

static const char *master_file(const struct providers_opts *o)
{
	const char *const from[] = { o->master_key_file, getenv("CORRAL_CLOUD_MASTER_KEY_FILE"), getenv("CORRAL_MASTER_KEY_FILE") };

	for (size_t i = 0; i < sizeof(from) / sizeof(*from); i++)
		if (from[i] && from[i][0])
			return from[i];
	return NULL;
}

static bool seal_key(struct cli *c, const char *path, uint8_t ret[SEAL_KEY_BYTES])
{
	char text[MASTER_MOST];
	FILE *f = path ? fopen(path, "re") : NULL;
	struct str master = without_end(text, f ? fread(text, 1, sizeof(text), f) : 0);

	if (f)
		fclose(f);
	if (master.n >= MASTER_LEAST)
		seal_key_of(master, ret);
	else
		cli_fail(c, EXIT_FAILED, path ? "the master key file %s cannot be read, or holds less than 16 bytes" : "name the file with the master key: --master-key-file%s",
			 path ? path : "");
	secret_wipe(text, sizeof(text));
	return master.n >= MASTER_LEAST;
}

/* The key comes by standard input, for arguments are seen by others. */
static int seal(struct cli *c, const char *provider)
{
	char text[KEY_MOST];
	uint8_t key[SEAL_KEY_BYTES];
	struct buf b = { 0 };
	size_t n = 0;
	ssize_t got;

	if (!seal_key(c, master_file(c->opts), key))
		return EXIT_FAILED;
	if (c->in_tty)
		fprintf(c->err, "The key of %s, and Enter: ", provider);
	while (n < sizeof(text) && (got = read(c->in_fd, text + n, sizeof(text) - n)) > 0 && !memchr(text + n, '\n', (size_t)got))
		n += (size_t)got;
	n += n < sizeof(text) && got > 0 ? (size_t)got : 0;
	if (!without_end(text, n).n)
		return cli_fail(c, EXIT_FAILED, "there is no key on standard input");
	secret_seal(key, str_of(provider), without_end(text, n), &b);
	fprintf(c->out, STR_FMT "\n", STR_ARG(buf_as_str(&b)));
	secret_wipe(text, sizeof(text));
	secret_wipe(key, sizeof(key));
	buf_free(&b);
	return EXIT_OK;
}

static int run(struct cli *c)
{
	const struct providers_opts *o = c->opts;
	struct buf b = { 0 };
	struct answer a;
	struct table t;
	uint32_t all;
	int status;

	if (c->n_args == 2 && strcmp(c->args[0], "seal") == 0)
		return seal(c, c->args[1]);
	if (c->n_args)
		return cli_usage(c, "write 'corral providers', or 'corral providers seal NAME'");
	status = cli_ask(c, "GET", "/providers", STR(""), &a);
	if (status)
		return status;
	all = json_get(&a.doc, 0, "providers");
	if (!all)
		return cli_answer_failed(c, &a);
	if (c->json)
		return cli_print_raw(c, &a);
	if (!json_count(&a.doc, all)) {
		fputs("There is no provider; the option 'providers' of cloud-fallback names them.\n", c->out);
		return EXIT_OK;
	}
	table_init(&t, c->mem, o->models ? "~MODEL|>CONTEXT|>MOST OUTPUT|>INPUT/M|>CACHED/M|>OUTPUT/M|~CAN|RESTS UNTIL" : "PROVIDER|KIND|STATE|>KEYS|>MODELS|>TOKENS LEFT|>MONEY LEFT|~WHY");
	for (uint32_t i = json_first(&a.doc, all); i; i = json_next(&a.doc, all, i)) {
		if (o->models)
			add_models(c, &t, &a.doc, i);
		else
			add_provider(c, &t, &a.doc, i);
	}
	table_print(&t, &b, c->width, c->colour);
	fwrite(b.p ? b.p : "", 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

const struct command cmd_providers = {
	.name = "providers", .args = "[seal NAME]", .summary = "Show the providers in the cloud, and why one cannot be used; seal their keys.",
	.flags = flags, .opts_size = sizeof(struct providers_opts), .max_args = 2, .run = run,
	.text = "STATE is ready, not configured, no budget or cooling; WHY says which condition failed, and of a provider that is ready which of its models have reached\n"
		"a limit of the day: auto leaves these out until it is over. What a '-' stands for is not limited, or not known.\n"
		"seal reads a key of the provider NAME from standard input and prints it sealed: a line for its key file, of no use without the master key.",
	.examples = (const struct example[]){
		{ "corral providers", "Which can be used." },
		{ "corral providers --models", "What their models cost." },
		{ "corral providers seal oa --master-key-file master <key >>oa.keys", "A key that is sealed at rest." },
		{ "corral providers --json | jq -r '.providers[] | select(.state != \"ready\") | .reason'", "What is to be done." },
		{ 0 } },
};
