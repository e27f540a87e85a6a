/* doctor.c - `corral doctor`: what is not well, and what to do about it. doctor_machine.c looks at this machine. */
#include "services/corral/doctor.h"

#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "services/corral/turn.h"

static const struct flag flags[] = {
	FLAG(struct doctor_opts, config, 0, "FILE", "The configuration to look at, as serve --config. Else CORRAL_CONFIG, environment and defaults."),
	FLAG(struct doctor_opts, state_dir, 0, "DIR", "The state directory to look at, as serve --state-dir."),
	{ 0 }
};

/* --- findings --- */

static const char *const words[] = { "ok", "warn", "FAIL" };

void found(struct doctor *d, enum finding how, const char *check, const char *fmt, ...)
{
	static const enum tone tones[] = { TONE_GOOD, TONE_WARN, TONE_BAD };
	struct buf text = { 0 }, shown = { 0 };
	struct cli *c = d->cli;
	va_list ap;

	va_start(ap, fmt);
	buf_vprintf(&text, fmt, ap);
	va_end(ap);
	add_shown(&shown, buf_as_str(&text), false);
	d->count[how]++;
	if (c->json) {
		jw_obj(&d->json);
		jw_kv_strz(&d->json, "check", check);
		jw_kv_strz(&d->json, "state", words[how]);
		jw_kv_str(&d->json, "text", buf_as_str(&shown));
		jw_end(&d->json);
	} else {
		fprintf(c->out, "%s%-4s%s  %-13s  %s\n", tone_on(c->colour, tones[how]), words[how], tone_off(c->colour, tones[how]), check, buf_z(&shown));
		fflush(c->out);
	}
	buf_free(&text);
	buf_free(&shown);
}

/* --- the gateway and what is behind it --- */

static void check_gateway(struct doctor *d)
{
	struct cli *c = d->cli;
	struct answer a = remote_ask(d->gateway, "GET", "/health", STR(""), 5000);
	const char *url = remote_url(d->gateway), *word = a.is_json ? get_z(c, &a.doc, 0, "status") : "";

	d->reachable = *word != '\0';
	if (a.status == 0)
		found(d, FINDING_FAIL, "gateway", "%s cannot be reached: %s. Start it with 'corral serve', or say where it is with --url", url, a.error);
	else if (!*word)
		found(d, FINDING_FAIL, "gateway", "what answers at %s (status %d) is not Corral; stop it, or serve on another port with --listen", url, a.status);
	else if (strcmp(word, "ok") == 0)
		found(d, FINDING_OK, "gateway", "%s answers: Corral %s, %lld model%s", url, get_z(c, &a.doc, 0, "version"),
		      (long long)get_int(&a.doc, 0, "models"), get_int(&a.doc, 0, "models") == 1 ? "" : "s");
	else
		found(d, strcmp(word, "degraded") == 0 ? FINDING_WARN : FINDING_FAIL, "gateway", "%s answers, but says that it is %s: see the backends below", url, word);
}

/* What each kind answers without doing any work. */
static const char *probe_path(struct str kind)
{
	return str_eqz(kind, "ollama") ? "/api/version" : str_eqz(kind, "llamacpp") ? "/health" : "/v1/models";
}

static void check_backend(struct doctor *d, const char *name, struct str kind, const char *url, const char *state, const char *reason)
{
	struct why why;
	struct remote *r = remote_new(d->cli, url, &why);
	struct answer a;

	d->backends++;
	if (!r) {
		found(d, FINDING_FAIL, "backend", "%s: %s; correct it in --backends", name, why.text);
		return;
	}
	a = remote_ask(r, "GET", probe_path(kind), STR(""), 5000);
	remote_free(r);
	if (a.status == 0)
		found(d, FINDING_FAIL, "backend", "%s: nothing answers at %s: %s. Start that server, or correct its address in --backends", name, url, a.error);
	else if (a.status == 503)
		found(d, FINDING_WARN, "backend", "%s at %s is loading a model; wait for it", name, url);
	else if (a.status != 200)
		found(d, FINDING_WARN, "backend", "%s at %s answers %s with status %d; is it of the kind " STR_FMT "?", name, url, probe_path(kind), a.status,
		      STR_ARG(kind));
	else if (*state && strcmp(state, "up") != 0)
		found(d, FINDING_WARN, "backend", "%s answers at %s, but the gateway has it as %s%s%s; 'corral models sync' looks again", name, url, state,
		      *reason ? ": " : "", reason);
	else
		found(d, FINDING_OK, "backend", "%s answers at %s", name, url);
}

static void check_running_backends(struct doctor *d, const struct json *j, uint32_t list)
{
	struct cli *c = d->cli;

	for (uint32_t b = list ? json_first(j, list) : 0; b; b = json_next(j, list, b))
		check_backend(d, get_z(c, j, b, "name"), get_str(c, j, b, "kind"), get_z(c, j, b, "url"), get_z(c, j, b, "state"), get_z(c, j, b, "reason"));
}

/* "name=kind+url;slots=4,…" */
static void check_configured_backends(struct doctor *d)
{
	struct arena *mem = d->cli->mem;
	struct str rest = str_of(config_value(d, "backends")), one, name, kind, url;

	while (rest.n && str_split(&rest, ',', &one)) {
		one = str_trim(one);
		if (!str_split(&one, '=', &name) || !one.p || !str_split(&one, '+', &kind) || !one.p)
			continue;             /* serve refuses it, and then the configuration has failed already */
		str_split(&one, ';', &url);
		check_backend(d, arena_str(mem, name).p, kind, arena_str(mem, url).p, "", "");
	}
}

static void check_backends(struct doctor *d)
{
	struct answer a = { 0 };

	if (d->reachable)
		a = remote_ask(d->gateway, "GET", "/backends", STR(""), 5000);
	if (a.status == 200 && a.is_json)
		check_running_backends(d, &a.doc, json_get(&a.doc, 0, "backends"));
	else
		check_configured_backends(d);
	if (!d->backends)
		found(d, FINDING_FAIL, "backend", "there is none; name one with --backends=NAME=KIND+URL (kinds: ollama, llamacpp, openai)");
}

/* --- a real answer, and its trace --- */

static void check_clock(struct doctor *d, const char *date)
{
	struct tm tm = { 0 };
	int64_t now = wall_us() / 1000000, apart;

	if (now < 1735689600) {
		found(d, FINDING_FAIL, "clock", "this machine's clock stands before the year 2025; set it, or usage is booked on wrong days");
		return;
	}
	if (!*date || !strptime(date, "%a, %d %b %Y %H:%M:%S GMT", &tm)) {
		found(d, FINDING_OK, "clock", "this machine's clock is plausible");
		return;
	}
	apart = now - (int64_t)timegm(&tm);
	if (apart < -5 || apart > 5)
		found(d, FINDING_WARN, "clock", "the gateway's clock is %lld s %s this one; keep both by NTP", (long long)(apart < 0 ? -apart : apart),
		      apart < 0 ? "ahead of" : "behind");
	else
		found(d, FINDING_OK, "clock", "this machine's clock is plausible and agrees with the gateway's");
}

static void check_answer(struct doctor *d, struct turn *t)
{
	static const struct message hello = { "user", STR_INIT("hello") };
	const struct question q = { .model = "auto", .messages = &hello, .n_messages = 1, .max_tokens = 16, .first_byte_ms = 120000 };

	turn_run(d->gateway, &q, NULL, NULL, t);
	if (t->end == TURN_INTERRUPTED)
		found(d, FINDING_WARN, "answer", "interrupted after %.1f s", (double)t->total_us / 1e6);
	else if (t->end != TURN_DONE)
		found(d, FINDING_FAIL, "answer", "no model answers: %s", t->error);
	else if (!t->first_us)
		found(d, FINDING_FAIL, "answer", "%s on %s ended its answer without a word", t->model, t->backend);
	else
		found(d, FINDING_OK, "answer", "%s on %s answered in %.2f s, its first token after %.2f s", t->model, t->backend, (double)t->total_us / 1e6,
		      (double)t->first_us / 1e6);
}

static bool has_closed_row(const struct answer *a)
{
	uint32_t rows = a->is_json ? json_get(&a->doc, 0, "attempts") : 0;

	for (uint32_t r = rows ? json_first(&a->doc, rows) : 0; r; r = json_next(&a->doc, rows, r))
		if (!get_bool(&a->doc, r, "open"))
			return true;
	return false;
}

/* The row comes within moments after the answer: asked again until then. */
static void check_ledger(struct doctor *d, const struct turn *t)
{
	int64_t began = mono_us();
	struct buf path = { 0 };
	struct answer a = { 0 };
	bool there = false;

	buf_addz(&path, "/requests/");
	add_percent(&path, str_of(t->request_id));
	while (!there && mono_us() - began < 5000000) {
		a = remote_ask(d->gateway, "GET", buf_z(&path), STR(""), 5000);
		there = a.status == 200 && has_closed_row(&a);
		if (!there)
			usleep(20000);
	}
	buf_free(&path);
	if (there)
		found(d, FINDING_OK, "ledger", "it has the record of that request");
	else
		found(d, FINDING_FAIL, "ledger", "it has no record of request %s after 5 s%s%s; look at the log for 'usage-tracker'", t->request_id,
		      a.error ? ": " : "", a.error ? a.error : "");
}

static void check_traffic(struct doctor *d)
{
	struct turn t = { 0 };

	if (!d->reachable) {
		found(d, FINDING_WARN, "answer", "not tried, because the gateway cannot be reached");
		found(d, FINDING_WARN, "ledger", "not looked at, because the gateway cannot be reached");
	} else {
		check_answer(d, &t);
		if (t.end == TURN_DONE)
			check_ledger(d, &t);
		else
			found(d, FINDING_WARN, "ledger", "not looked at, because there was no answer to find in it");
	}
	check_clock(d, t.date);
	turn_free(&t);
}

/* --- all of it --- */

static const char *gateway_url(struct doctor *d)
{
	const char *listen = config_value(d, "listen");

	if (*d->cli->url)
		return d->cli->url;
	if (!*listen || strncmp(listen, "unix:", 5) == 0)
		return "http://127.0.0.1:8100";
	return arena_printf(d->cli->mem, "http://%s%s", listen[0] == ':' ? "127.0.0.1" : "", listen);
}

static int summary(struct doctor *d, struct buf *json)
{
	bool ok = d->count[FINDING_FAIL] == 0;

	if (d->cli->json) {
		jw_end(&d->json);
		jw_kv_bool(&d->json, "ok", ok);
		json_done(&d->json);
		fprintf(d->cli->out, "%s\n", buf_z(json));
	} else if (!ok) {
		fprintf(d->cli->out, "\n%u of %u checks failed.\n", d->count[FINDING_FAIL], d->count[0] + d->count[1] + d->count[2]);
	} else {
		fprintf(d->cli->out, "\nAll is well%s.\n", d->count[FINDING_WARN] ? ", but for the warnings" : "");
	}
	buf_free(json);
	return ok ? EXIT_OK : EXIT_FAILED;
}

static int run(struct cli *c)
{
	struct doctor d = { .cli = c, .opts = c->opts };
	struct buf json = { 0 };

	json_begin(&d.json, &json);
	jw_obj(&d.json);
	jw_key(&d.json, "checks");
	jw_arr(&d.json);
	check_config(&d);
	c->url = gateway_url(&d);
	d.gateway = remote_gateway(c);
	if (!d.gateway) {
		buf_free(&json);
		return EXIT_USAGE;
	}
	check_gateway(&d);
	check_ports(&d);
	check_state_dir(&d);
	check_descriptors(&d);
	check_backends(&d);
	interrupts_watch();
	check_traffic(&d);
	interrupts_release();
	return summary(&d, &json);
}

const struct command cmd_doctor = {
	.name = "doctor", .args = "", .summary = "Check all that can be wrong, a real answer included; say what to do.", .run = run,
	.flags = flags, .opts_size = sizeof(struct doctor_opts),
	.text = "It looks at the configuration, the gateway, its ports, the state directory and its disk, the limit of open files, each "
		"backend, a short real answer through the gateway, its record in the ledger, and the clock.\n\n"
		"Each line is ok, warn or FAIL with a sentence; the exit status is 1 when one is FAIL. It asks a model for a few tokens, which "
		"are in the ledger like any others, and writes nothing else. Without --url it looks where the configuration listens.",
	.examples = (const struct example[]){
		{ "corral doctor", "Before asking for help." },
		{ "corral doctor --config /etc/corral/corral.yaml", "With the file of the service." },
		{ "corral doctor --json | jq '.checks[] | select(.state != \"ok\")'", "What is not well, for a monitor." },
		{ 0 } },
};
