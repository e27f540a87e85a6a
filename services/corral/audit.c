/* audit.c - `corral audit`: who changed what; and whether the log of it is still what was written, also without a running service. */
#include <errno.h>
#include <unistd.h>

#include "common/data/json_write.h"
#include "common/data/secret.h"
#include "common/policy/access_json.h"
#include "services/corral/local.h"
#include "services/corral/remote.h"
#include "services/corral/table.h"

struct audit_opts { const char *from, *to, *actor, *action, *after, *file, *head, *state_dir, *config; };

#define O struct audit_opts
static const struct flag flags[] = {
	FLAG(O, from, 0, "TIME", "list: from then on: 2026-11-21, or 2026-11-21T09:00:00Z."),
	FLAG(O, to, 0, "TIME", "list: until then, not included."),
	FLAG(O, actor, 0, "ID", "list: only what this key did; 'loopback', 'anonymous' and 'system' have none."),
	FLAG(O, action, 'a', "ACTION", "list: only this action, as keys.create; or keys.* for all that begin so."),
	FLAG(O, after, 0, "SEQ", "list: only entries after this one."),
	FLAG(O, head, 0, "SEQ:HASH", "verify: the log must have this entry; from an 'audit checkpoint' line of the program's log."),
	FLAG(O, file, 'f', "PATH", "verify: the database file itself, without a service. Default when no gateway answers: that of 'corral serve'."),
	FLAG(O, state_dir, 0, "DIR", "verify, when no gateway runs: where 'corral serve' keeps its state."),
	FLAG(O, config, 0, "FILE", "verify, when no gateway runs: the configuration of 'corral serve'."),
	{ 0 }
};
#undef O

/* --- list --- */

static void add_entry(struct cli *c, struct table *t, const struct json *j, uint32_t e)
{
	struct str outcome = get_str(c, j, e, "outcome");

	table_fmt(t, TONE_PLAIN, "%lld", (long long)get_int(j, e, "seq"));
	table_fmt(t, TONE_PLAIN, "%.19s", get_z(c, j, e, "at"));
	table_cell(t, TONE_PLAIN, get_str(c, j, e, "actor"));
	table_cell(t, TONE_PLAIN, get_str(c, j, e, "action"));
	table_cell(t, TONE_PLAIN, get_str(c, j, e, "object"));
	table_cell(t, str_eqz(outcome, "ok") ? TONE_PLAIN : TONE_WARN, outcome);
	table_cell(t, TONE_FAINT, get_str(c, j, e, "detail"));
}

static const char *list_path(struct cli *c, const struct audit_opts *o)
{
	struct buf b = { 0 };
	const char *path;

	buf_addz(&b, "/audit");
	add_query(&b, "from", o->from);
	add_query(&b, "to", o->to);
	add_query(&b, "actor", o->actor);
	add_query(&b, "action", o->action);
	add_query(&b, "after", o->after);
	path = arena_str(c->mem, buf_as_str(&b)).p;
	buf_free(&b);
	return path;
}

static int list(struct cli *c, const struct audit_opts *o)
{
	struct buf b = { 0 };
	struct answer a;
	struct table t;
	uint32_t all;
	int status = cli_ask(c, "GET", list_path(c, o), STR(""), &a);

	if (status)
		return status;
	all = json_get(&a.doc, 0, "entries");
	if (!all)
		return cli_answer_failed(c, &a);
	if (c->json)
		return cli_print_raw(c, &a);
	table_init(&t, c->mem, ">SEQ|AT|ACTOR|ACTION|~OBJECT|OUTCOME|~DETAIL");
	for (uint32_t i = json_first(&a.doc, all); i; i = json_next(&a.doc, all, i))
		add_entry(c, &t, &a.doc, i);
	if (t.rows)
		table_print(&t, &b, c->width, c->colour);
	else
		buf_addz(&b, "There are no such entries.\n");
	if (get_int(&a.doc, 0, "next_seq"))
		buf_printf(&b, "There are more: corral audit --after %lld\n", (long long)get_int(&a.doc, 0, "next_seq"));
	fwrite(b.p, 1, b.n, c->out);
	buf_free(&b);
	return EXIT_OK;
}

/* --- verify --- */

struct remembered { uint64_t seq; uint8_t hash[SHA256_BYTES]; char hex[2 * SHA256_BYTES + 1]; };

static int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

static bool head_parse(struct cli *c, const char *text, struct remembered *ret)
{
	struct str hash = str_of(text), seq;
	bool ok = str_split(&hash, ':', &seq) && str_u64(seq, &ret->seq) && ret->seq && hash.n == 2 * SHA256_BYTES;

	for (size_t i = 0; ok && i < SHA256_BYTES; i++) {
		int high = digit(hash.p[2 * i]), low = digit(hash.p[2 * i + 1]);

		ok = high >= 0 && low >= 0;
		ret->hash[i] = (uint8_t)(high << 4 | low);
	}
	if (!ok)
		cli_usage(c, "--head: '%s' is not of the form SEQ:HASH, a number and 64 hexadecimal digits", text);
	else
		str_copy(ret->hex, sizeof(ret->hex), hash);
	return ok;
}

static int say_verdict(struct cli *c, bool ok, const char *text)
{
	struct buf shown = { 0 };

	add_shown(&shown, str_of(text), false);
	fprintf(c->out, "%s%s%s\n", tone_on(c->colour, ok ? TONE_GOOD : TONE_BAD), buf_z(&shown), tone_off(c->colour, ok ? TONE_GOOD : TONE_BAD));
	buf_free(&shown);
	return ok ? EXIT_OK : EXIT_FAILED;
}

static int verify_file(struct cli *c, const char *file, const struct remembered *head)
{
	Corral__AuditVerifyReply r;
	struct buf b = { 0 };
	struct json_out jo;
	struct why why;

	if (access(file, R_OK) != 0)
		return cli_fail(c, EXIT_FAILED, "'%s' cannot be read: %s", file, strerror(errno));
	if (local_verify(c, file, head->seq, head->hash, &r, &why))
		return cli_fail(c, EXIT_FAILED, "%s", why.text);
	if (!c->json)
		return say_verdict(c, r.ok, r.text);
	json_begin(&jo, &b);
	json_audit_verdict(&jo, &r);
	json_done(&jo);
	fprintf(c->out, "%s\n", buf_z(&b));
	buf_free(&b);
	return r.ok ? EXIT_OK : EXIT_FAILED;
}

/* Is the remembered entry in the log of the service? The chain around it was walked there. */
static int check_head(struct cli *c, const struct remembered *head, bool *ret_there)
{
	struct answer a;
	uint32_t all, first;
	int status = cli_ask(c, "GET", arena_printf(c->mem, "/audit?after=%llu", (unsigned long long)head->seq - 1), STR(""), &a);

	if (status)
		return status;
	all = json_get(&a.doc, 0, "entries");
	if (!all)
		return cli_answer_failed(c, &a);
	first = json_first(&a.doc, all);
	*ret_there = first && (uint64_t)get_int(&a.doc, first, "seq") == head->seq && str_eqz(get_str(c, &a.doc, first, "hash"), head->hex);
	return EXIT_OK;
}

static int verify_asking(struct cli *c, const struct answer *a, const struct remembered *head)
{
	bool ok = get_bool(&a->doc, 0, "ok"), there = true;
	int status = ok && head->seq ? check_head(c, head, &there) : EXIT_OK;

	if (status)
		return status;
	if (!there && !c->json)
		return say_verdict(c, false, arena_printf(c->mem, "entry %llu is not the one whose hash was remembered, or is missing: the log was cut or written anew",
							  (unsigned long long)head->seq));
	if (!c->json)
		return say_verdict(c, ok, get_z(c, &a->doc, 0, "text"));
	cli_print_raw(c, a);
	return ok && there ? EXIT_OK : cli_fail(c, EXIT_FAILED, there ? "the chain is broken" : "the remembered entry is not in the log");
}

static int verify(struct cli *c, const struct audit_opts *o)
{
	struct local_place place = { o->state_dir, o->config };
	struct remembered head = { 0 };
	struct remote *r;
	struct answer a;
	const char *file;
	struct why why;

	if (*o->head && !head_parse(c, o->head, &head))
		return EXIT_USAGE;
	if (*o->file)
		return verify_file(c, o->file, &head);
	r = remote_gateway(c);
	if (!r)
		return EXIT_USAGE;
	a = remote_ask(r, "GET", "/audit/verify", STR(""), 120000);
	if (a.status == 200 && a.is_json && json_get(&a.doc, 0, "ok"))
		return verify_asking(c, &a, &head);
	if (a.status != 0 || *c->url || !cli_n_services)
		return cli_answer_failed(c, &a);
	if (local_audit_file(c, &place, &file, &why))
		return cli_fail(c, EXIT_UNREACHABLE, "no gateway answers at %s, and here: %s", remote_url(r), why.text);
	fprintf(c->err, "no gateway runs at %s; this is %s\n", remote_url(r), file);
	return verify_file(c, file, &head);
}

static int run(struct cli *c)
{
	const struct audit_opts *o = c->opts;
	const char *word = c->n_args ? c->args[0] : "list";
	bool of_list = *o->from || *o->to || *o->actor || *o->action || *o->after, of_verify = *o->file || *o->head || *o->state_dir || *o->config;

	if (strcmp(word, "verify") == 0)
		return of_list ? cli_usage(c, "audit verify walks the whole log; it takes --head and --file") : verify(c, o);
	if (strcmp(word, "list") != 0)
		return cli_usage(c, "audit knows list and verify, not '%s'", word);
	return of_verify ? cli_usage(c, "--file and --head are for audit verify") : list(c, o);
}

const struct command cmd_audit = {
	.name = "audit", .args = "[list | verify]", .summary = "Show who changed what, and verify that nobody changed the log of it.",
	.flags = flags, .opts_size = sizeof(struct audit_opts), .max_args = 1, .run = run,
	.text = "Every administrative act is in the log, refused ones too. Its entries are a chain: each holds a hash of itself and of the one before, so that one "
		"that was changed, removed or moved is found. A log that was cut at its end, hashes and all, is found by an entry that was remembered elsewhere: the "
		"program writes one to its own log every hour ('audit checkpoint'), for --head.",
	.examples = (const struct example[]){
		{ "corral audit --action 'keys.*' --from 2026-11-01", "What was done to keys this month." },
		{ "corral audit verify", "Is it all there?" },
		{ "corral audit verify --file /backup/access.db --head 4711:HASH", "A copy, against an entry of then; HASH is its 64 digits." },
		{ 0 } },
};
