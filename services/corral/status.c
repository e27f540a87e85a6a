/* status.c - `corral status`: is it well, at a glance. */
#include "common/data/json_write.h"
#include "services/corral/remote.h"
#include "services/corral/table.h"

struct status_opts { const char *admin_url; };

static const struct flag flags[] = {
	FLAG(struct status_opts, admin_url, 0, "URL", "Where its admin port is, for /readyz. Else the gateway's port and 10 more; silence there is no fault."),
	{ 0 }
};

static const char *admin_url(struct cli *c)
{
	const struct status_opts *o = c->opts;
	const struct http_url *u = remote_parts(c->gateway);

	if (*o->admin_url)
		return o->admin_url;
	return arena_printf(c->mem, strchr(u->host, ':') ? "http://[%s]:%u" : "http://%s:%u", u->host, u->port + 10u);
}

static struct answer ask_ready(struct cli *c)
{
	struct answer a = { 0 };
	struct why why;
	struct remote *admin = remote_new(c, admin_url(c), &why);

	if (!admin)
		return a;
	a = remote_ask(admin, "GET", "/readyz", STR(""), 2000);
	remote_free(admin);
	return a;
}

static int print_json(struct cli *c, const struct answer *health, const struct answer *backends, const struct answer *ready)
{
	struct buf b = { 0 };
	struct json_out jo;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_raw(&jo, "health", health->body);
	jw_kv_raw(&jo, "backends", json_raw(&backends->doc, json_get(&backends->doc, 0, "backends")));
	if (ready->is_json)
		jw_kv_raw(&jo, "ready", ready->body);
	else
		jw_kv_null(&jo, "ready");
	json_done(&jo);
	fprintf(c->out, "%s\n", buf_z(&b));
	buf_free(&b);
	return EXIT_OK;
}

static const char *plural(int64_t n) { return n == 1 ? "" : "s"; }

static void print_first_line(struct cli *c, const struct json *health, uint32_t backends_up, uint32_t backends)
{
	struct str word = get_str(c, health, 0, "status");
	enum tone tone = tone_of_state(word);
	int64_t models = get_int(health, 0, "models");

	fprintf(c->out, "Corral %s at %s is %s" STR_FMT "%s: %lld model%s, %u of %u backends up.\n", get_z(c, health, 0, "version"), remote_url(c->gateway),
		tone_on(c->colour, tone), STR_ARG(word), tone_off(c->colour, tone), (long long)models, plural(models), backends_up, backends);
}

struct sums { int64_t queued; unsigned loaded, models, breakers; };

static struct sums add_up(struct cli *c, const struct json *j, uint32_t models)
{
	struct sums s = { 0 };

	for (uint32_t m = models ? json_first(j, models) : 0; m; m = json_next(j, models, m)) {
		s.queued += get_int(j, m, "queued");
		s.loaded += get_bool(j, m, "loaded");
		s.breakers += get_str(c, j, m, "breaker").n && !str_eqz(get_str(c, j, m, "breaker"), "closed");
		s.models++;
	}
	return s;
}

static void add_backend(struct cli *c, struct table *t, const struct json *j, uint32_t b, struct buf *notes)
{
	struct sums s = add_up(c, j, json_get(j, b, "models"));
	struct str state = get_str(c, j, b, "state"), reason = get_str(c, j, b, "reason");

	table_cell(t, TONE_PLAIN, get_str(c, j, b, "name"));
	table_cell(t, TONE_PLAIN, get_str(c, j, b, "kind"));
	table_cell(t, tone_of_state(state), state);
	table_fmt(t, TONE_PLAIN, "%lld/%lld", (long long)get_int(j, b, "in_use"), (long long)get_int(j, b, "slots"));
	table_fmt(t, s.queued ? TONE_WARN : TONE_PLAIN, "%lld", (long long)s.queued);
	table_fmt(t, TONE_PLAIN, "%u", s.models);
	table_fmt(t, TONE_PLAIN, "%u", s.loaded);
	table_cell(t, TONE_PLAIN, get_str(c, j, b, "url"));
	if (reason.n)
		buf_printf(notes, "%s is %s: %s.\n", get_z(c, j, b, "name"), get_z(c, j, b, "state"), get_z(c, j, b, "reason"));
	if (s.breakers)
		buf_printf(notes, "%s: %u model%s not asked for now, after failures in a row.\n", get_z(c, j, b, "name"), s.breakers,
			   s.breakers == 1 ? " is" : "s are");
}

static uint32_t print_backends(struct cli *c, const struct json *j, uint32_t list, uint32_t *ret_up, struct buf *out)
{
	struct buf notes = { 0 };
	struct table t;
	uint32_t n = 0;

	*ret_up = 0;
	table_init(&t, c->mem, "BACKEND|KIND|STATE|>SLOTS|>QUEUE|>MODELS|>LOADED|~URL");
	for (uint32_t b = list ? json_first(j, list) : 0; b; b = json_next(j, list, b), n++) {
		add_backend(c, &t, j, b, &notes);
		*ret_up += str_eqz(get_str(c, j, b, "state"), "up");
	}
	if (n)
		table_print(&t, out, c->width, c->colour);
	else
		buf_addz(out, "There is no backend. Name one: corral serve --backends NAME=KIND+URL (kinds: ollama, llamacpp, openai).\n");
	if (notes.n) {
		buf_char(out, '\n');
		add_shown(out, buf_as_str(&notes), true);
	}
	buf_free(&notes);
	return n;
}

static void print_needs(struct cli *c, const struct answer *ready)
{
	const struct json *j = &ready->doc;
	uint32_t needs = ready->is_json ? json_get(j, 0, "needs") : 0;
	struct str status = ready->is_json ? get_str(c, j, 0, "status") : STR("ready");

	if (!str_eqz(status, "ready"))
		fprintf(c->out, "\nIt is " STR_FMT ":\n", STR_ARG(status));
	for (uint32_t n = needs ? json_first(j, needs) : 0; n; n = json_next(j, needs, n))
		if (!get_bool(j, n, "ok"))
			fprintf(c->out, "  %s waits for %s: %s\n", get_z(c, j, n, "service"), get_z(c, j, n, "need"), get_z(c, j, n, "text"));
}

static int run(struct cli *c)
{
	struct remote *r = remote_gateway(c);
	struct answer health, backends, ready;
	struct buf table = { 0 };
	uint32_t n, up;
	int status;

	if (!r)
		return EXIT_USAGE;
	health = remote_ask(r, "GET", "/health", STR(""), 10000);
	/* 503 is an answer here: the body says what is not well */
	if (!health.is_json || !get_str(c, &health.doc, 0, "status").n)
		return cli_answer_failed(c, &health);
	status = cli_ask(c, "GET", "/backends", STR(""), &backends);
	if (status)
		return status;
	ready = ask_ready(c);
	if (c->json) {
		print_json(c, &health, &backends, &ready);
	} else {
		n = print_backends(c, &backends.doc, json_get(&backends.doc, 0, "backends"), &up, &table);
		print_first_line(c, &health.doc, up, n);
		fprintf(c->out, "\n%s", buf_z(&table));
		print_needs(c, &ready);
		buf_free(&table);
	}
	return health.status < 400 ? EXIT_OK : EXIT_FAILED;
}

const struct command cmd_status = {
	.name = "status", .args = "", .summary = "Show whether Corral is well: its backends, their slots and queues.", .run = run,
	.flags = flags, .opts_size = sizeof(struct status_opts),
	.text = "SLOTS are those in use of those there are; QUEUE is how many requests wait. Exit status 1 when nothing can be served.",
	.examples = (const struct example[]){
		{ "corral status", "The table." },
		{ "watch -n 2 corral status", "The table, again and again." },
		{ "corral status --json | jq -r .health.status", "One word: ok, degraded or unavailable." },
		{ 0 } },
};
