/* redact.c - see redact.h.
 *
 * piece: one text of the request, decoded, with the marks of what was found in it. run: pieces that a model reads as one. A mark that goes
 * over several pieces leaves its notice in the first of them and takes the rest out of the others. */
#include "common/llm/redact.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/pattern.h"
#include "common/data/json.h"
#include "common/data/json_write.h"

enum { NEST_MAX = 6, WORK_LEAST = 20000000, CARD_LEAST = 13, CARD_MOST = 19 };

struct rule {
	char name[REDACT_NAME_MAX + 1];
	bool refuse, card;
	const struct pattern *pattern;        /* NULL: a card */
	char needs;                   /* a byte that every match has; 0 = none known */
};

struct redact {
	struct rule rules[REDACT_RULES_MAX];
	unsigned n;
};

/* ---- reading rules ---- */

static const struct { const char *name, *pattern; char needs; } kinds[] = {
	{ "email", "[A-Za-z0-9._%+'-]+@([A-Za-z0-9-]+\\.)+[A-Za-z]{2,24}", '@' },
	{ "card", NULL, 0 },
	{ "api_key", "\\b(sk-[A-Za-z0-9_-]{16,}|(AKIA|ASIA)[0-9A-Z]{16}\\b|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}"
		     "|xox[abeprs]-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{35}|hf_[A-Za-z0-9]{30,}|(gsk|rpa)_[A-Za-z0-9]{30,}|[sr]k_(live|test)_[A-Za-z0-9]{16,}"
		     "|corral_sk_[A-Za-z0-9]{16}_[A-Za-z0-9]{40,}|eyJ[A-Za-z0-9_-]{8,}\\.eyJ[A-Za-z0-9_-]{8,}\\.[A-Za-z0-9_-]{16,})"
		     "|-----BEGIN [A-Z ]*PRIVATE KEY-----[A-Za-z0-9+/=\\s:,-]*", 0 },
};

static bool name_ok(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!((s.p[i] >= 'a' && s.p[i] <= 'z') || (s.p[i] >= '0' && s.p[i] <= '9') || s.p[i] == '_' || s.p[i] == '-'))
			return false;
	return s.n && s.n <= REDACT_NAME_MAX;
}

static struct str word(struct str *rest)
{
	struct str s = str_trim(*rest);
	size_t n = 0;

	while (n < s.n && s.p[n] != ' ' && s.p[n] != '\t')
		n++;
	*rest = str_trim(str_from(s, n));
	return str_n(s.p, n);
}

static bool wrong(struct why *why, unsigned line, const char *what)
{
	err_set(why, ERR_INVALID, "rules of what must not leave, line %u: %s", line, what);
	return false;
}

static bool built_in(struct rule *r, struct arena *mem, struct str name, struct why *why)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (str_eqz(name, kinds[i].name)) {
			r->card = !kinds[i].pattern;
			r->needs = kinds[i].needs;
			r->pattern = r->card ? NULL : pattern_new(mem, str_of(kinds[i].pattern), why);
			return r->card || r->pattern;
		}
	return false;
}

static bool read_rule(struct redact *set, struct arena *mem, struct str line, unsigned number, struct why *why)
{
	struct str action = word(&line), name = word(&line), how = word(&line);
	struct rule *r = &set->rules[set->n];
	struct why inner = { 0 };

	if (set->n == REDACT_RULES_MAX)
		return wrong(why, number, "there are more than 64 rules");
	if (!str_eqz(action, "redact") && !str_eqz(action, "refuse"))
		return wrong(why, number, "a rule begins with 'redact' or 'refuse'");
	if (!name_ok(name))
		return wrong(why, number, "the name has 1 to 32 of a-z, 0-9, '_' and '-'");
	*r = (struct rule){ .refuse = str_eqz(action, "refuse") };
	str_copy(r->name, sizeof(r->name), name);
	if (!how.n && !built_in(r, mem, name, &inner))
		return wrong(why, number, "built-in are email, card and api_key; others say 'NAME pattern …' or 'NAME text …'");
	if (str_eqz(how, "pattern"))
		r->pattern = pattern_new(mem, line, &inner);
	else if (str_eqz(how, "text"))
		r->pattern = pattern_literal(mem, line, &inner);
	else if (how.n)
		return wrong(why, number, "after the name comes 'pattern', 'text' or nothing");
	if (!r->pattern && !r->card)
		return wrong(why, number, inner.text);
	set->n++;
	return true;
}

struct redact *redact_new(struct arena *mem, struct str rules, struct why *why)
{
	struct redact *set = arena_new_of(mem, struct redact);
	struct str line;

	for (unsigned number = 1; str_split(&rules, '\n', &line); number++) {
		if (line.n && line.p[line.n - 1] == '\r')
			line.n--;
		line = str_trim(line);
		if (line.n && *line.p != '#' && !read_rule(set, mem, line, number, why))
			return NULL;
	}
	return set;
}

unsigned redact_n_rules(const struct redact *set) { return set->n; }
const char *redact_name(const struct redact *set, unsigned rule) { return rule < set->n ? set->rules[rule].name : ""; }

/* ---- finding ---- */

struct mark { size_t from, to; unsigned rule; bool head; };      /* head: here stands the notice */

struct piece {
	struct str was, text;         /* decoded; as rewritten inside, when it is JSON */
	uint32_t token;
	struct mark *marks;
	size_t n_marks, cap_marks;
	size_t run_at;                /* where it begins in the run that is looked at */
};

struct job {
	const struct redact *set;
	struct arena *mem;
	struct redacted *ret;
	struct why *why;
	int64_t work;
	enum err err;
};

struct doc {                          /* one JSON text: the request, or one inside of it */
	struct job *job;
	struct json j;
	struct piece *pieces;
	size_t n_pieces;
	struct piece **by_token;
	unsigned depth;
};

static bool luhn(const char *digits, unsigned n)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < n; i++) {
		unsigned d = (unsigned)(digits[n - 1 - i] - '0');

		d = i & 1 ? d * 2 : d;
		sum += d > 9 ? d - 9 : d;
	}
	return sum % 10 == 0 && *digits >= '2' && *digits <= '6';
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* A card number that begins at 'from', where a group of digits does; whole groups, parted by one blank or hyphen. 0 = none. */
static size_t card_end(struct str t, size_t from)
{
	char digits[CARD_MOST];
	unsigned n = 0;
	size_t found = 0;

	for (size_t at = from; at < t.n; at++) {
		bool last = at + 1 == t.n || !is_digit(t.p[at + 1]);

		if (is_digit(t.p[at])) {
			if (n == CARD_MOST)
				break;
			digits[n++] = t.p[at];
			if (last && n >= CARD_LEAST && luhn(digits, n))
				found = at + 1;
		} else if ((t.p[at] != ' ' && t.p[at] != '-') || last) {
			break;
		}
	}
	return found;
}

static bool find_cards(struct job *job, struct str t, struct span **ret, size_t *ret_n)
{
	struct span *found = NULL;
	size_t n = 0, cap = 0;

	job->work -= (int64_t)t.n;
	for (size_t at = 0; at < t.n; at++) {
		size_t end = is_digit(t.p[at]) && (!at || !is_digit(t.p[at - 1])) ? card_end(t, at) : 0;

		if (!end)
			continue;
		if (n == cap) {
			struct span *more = arena_alloc(job->mem, sizeof(*more) * (cap = cap * 2 + 8));

			if (n)
				memcpy(more, found, sizeof(*more) * n);
			found = more;
		}
		found[n++] = (struct span){ at, end };
		at = end - 1;
	}
	*ret = found;
	*ret_n = n;
	return job->work > 0;
}

static bool too_much(struct job *job)
{
	job->err = err_set(job->why, ERR_TOO_LARGE, "the request is too large to be searched for what must not leave; it was not sent");
	return false;
}

static bool refuse(struct job *job, unsigned rule)
{
	job->ret->refused_by = (int)rule;
	job->err = err_set(job->why, ERR_INVALID, "the request holds what must not leave for a provider (rule '%s'); it was not sent", job->set->rules[rule].name);
	return false;
}

/* Half a character is not left behind. */
static size_t floor_char(struct str t, size_t at)
{
	while (at > 0 && at < t.n && ((unsigned char)t.p[at] & 0xc0) == 0x80)
		at--;
	return at;
}

static size_t ceil_char(struct str t, size_t at)
{
	while (at < t.n && ((unsigned char)t.p[at] & 0xc0) == 0x80)
		at++;
	return at;
}

static void mark(struct job *job, struct piece *p, size_t from, size_t to, unsigned rule, bool head)
{
	if (p->n_marks == p->cap_marks) {
		struct mark *more = arena_alloc(job->mem, sizeof(*more) * (p->cap_marks = p->cap_marks * 2 + 4));

		if (p->n_marks)
			memcpy(more, p->marks, sizeof(*more) * p->n_marks);
		p->marks = more;
	}
	p->marks[p->n_marks++] = (struct mark){ floor_char(p->text, from), ceil_char(p->text, to), rule, head };
}

static bool find(struct job *job, const struct rule *r, struct str text, struct span **ret, size_t *ret_n)
{
	*ret_n = 0;
	if (!text.n || (r->needs && !memchr(text.p, r->needs, text.n)))
		return true;
	return r->card ? find_cards(job, text, ret, ret_n) : pattern_find(r->pattern, text, job->mem, &job->work, ret, ret_n);
}

/* In each piece of the run that it goes over; the first from 'k' on. */
static void mark_run(struct job *job, struct piece **run, size_t n, size_t k, struct span s, unsigned rule)
{
	for (size_t p = k; p < n && run[p]->run_at < s.to; p++) {
		size_t begin = run[p]->run_at, from = s.from > begin ? s.from - begin : 0, to = s.to - begin;

		if (run[p]->text.n)
			mark(job, run[p], from, to < run[p]->text.n ? to : run[p]->text.n, rule, p == k);
	}
}

/* The pieces of a run, in order; one alone is a run of one. */
static bool search(struct job *job, struct piece **run, size_t n, struct str text)
{
	for (unsigned rule = 0; rule < job->set->n; rule++) {
		struct span *found = NULL;
		size_t n_found, k = 0;

		if (!find(job, &job->set->rules[rule], text, &found, &n_found))
			return too_much(job);
		if (n_found && job->set->rules[rule].refuse)
			return refuse(job, rule);
		for (size_t i = 0; i < n_found; i++) {
			while (k + 1 < n && run[k + 1]->run_at <= found[i].from)
				k++;
			mark_run(job, run, n, k, found[i], rule);
		}
	}
	return true;
}

static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

/* \u00XX that stands for ASCII, or \/: its length, and the byte. 0 = neither. */
static size_t escape_at(struct str t, size_t at, char *ret)
{
	int high, low;

	if (t.p[at] != '\\' || at + 1 >= t.n)
		return 0;
	*ret = '/';
	if (t.p[at + 1] == '/')
		return 2;
	if (at + 5 >= t.n || !str_starts(str_from(t, at + 1), STR("u00")))
		return 0;
	high = hex_digit(t.p[at + 4]);
	low = hex_digit(t.p[at + 5]);
	*ret = (char)(high * 16 + low);
	return high < 0 || high > 7 || low < 0 ? 0 : 6;
}

/* What is written with JSON's escapes in a text that is no JSON as a whole: a log line in a question, arguments that were cut. */
static bool search_unescaped(struct job *job, struct piece *p)
{
	struct piece plain = { 0 }, *run = &plain;
	char *to, byte;
	size_t *from;

	if (!str_find(p->text, STR("\\u00")) && !str_find(p->text, STR("\\/")))
		return true;
	plain.text.p = to = arena_alloc(job->mem, p->text.n + 1);
	from = arena_array(job->mem, size_t, p->text.n + 1);
	for (size_t at = 0; at < p->text.n;) {
		size_t n = escape_at(p->text, at, &byte);

		from[plain.text.n] = at;
		to[plain.text.n++] = n ? byte : p->text.p[at];
		at += n ? n : 1;
	}
	from[plain.text.n] = p->text.n;
	if (!search(job, &run, 1, plain.text))
		return false;
	for (size_t i = 0; i < plain.n_marks; i++)
		mark(job, p, from[plain.marks[i].from], from[plain.marks[i].to], plain.marks[i].rule, true);
	return true;
}

static bool search_one(struct job *job, struct piece *p)
{
	p->run_at = 0;
	return search(job, &p, 1, p->text) && search_unescaped(job, p);
}

static bool search_run(struct job *job, struct piece **run, size_t n)
{
	struct str *parts = arena_array(job->mem, struct str, n);
	size_t at = 0;

	for (size_t i = 0; i < n; i++) {
		parts[i] = run[i]->text;
		run[i]->run_at = at;
		at += parts[i].n;
	}
	return search(job, run, n, arena_join(job->mem, parts, n));
}

/* ---- the texts of a JSON text ---- */

static bool clean_text(struct job *job, struct str text, unsigned depth, struct str *ret, enum err *ret_err);

/* Arguments of a tool are JSON in a string: what is written in there with escapes is decoded there. */
static bool look_inside(struct doc *d, struct piece *p)
{
	struct str t = p->text;
	enum err err = ERR_OK;

	while (t.n && (*t.p == ' ' || *t.p == '\t' || *t.p == '\n' || *t.p == '\r'))
		t = str_from(t, 1);
	if (!t.n || (*t.p != '{' && *t.p != '[' && *t.p != '"'))
		return true;
	if (d->depth == NEST_MAX) {
		d->job->err = err_set(d->job->why, ERR_TOO_LARGE, "JSON texts lie more than %d deep in each other; the request cannot be searched for what must not leave", NEST_MAX);
		return false;
	}
	return clean_text(d->job, p->text, d->depth + 1, &p->text, &err);
}

/* The texts, and the numbers that are long enough to be secret; of the root's own members neither the model nor a number. */
static bool is_looked_at(const struct doc *d, uint32_t t, bool of_root)
{
	if (json_is_string(&d->j, t))
		return !of_root || !json_key_is(&d->j, t, "model");
	return json_kind(&d->j, t) == JSON_NUMBER && d->j.tok[t].len >= CARD_LEAST && !of_root;
}

static bool collect_one(struct doc *d, uint32_t t)
{
	struct piece *p = &d->pieces[d->n_pieces];
	bool text = json_is_string(&d->j, t);

	*p = (struct piece){ .token = t };
	p->was = p->text = text ? json_string(&d->j, t, d->job->mem) : json_raw(&d->j, t);
	if (text && !(d->j.tok[t].flags & JSON_KEY) && !look_inside(d, p))
		return false;
	if (!search_one(d->job, p))
		return false;
	d->by_token[t] = p;
	d->n_pieces++;
	return true;
}

static bool collect(struct doc *d)
{
	uint32_t of_root = d->depth ? 0 : json_first(&d->j, 0);

	d->pieces = arena_array(d->job->mem, struct piece, d->j.n);
	d->by_token = arena_array(d->job->mem, struct piece *, d->j.n);
	for (uint32_t t = 0; t < d->j.n; t++) {
		bool direct = of_root && t == of_root;

		if (direct)
			of_root = json_next(&d->j, 0, t);
		if (is_looked_at(d, t, direct) && !collect_one(d, t))
			return false;
	}
	return true;
}

/* What a model reads as one: the strings of an array, and the texts of its parts ({"type": "text", "text": …}). */
static bool search_array(struct doc *d, uint32_t array)
{
	struct piece **run = arena_array(d->job->mem, struct piece *, json_count(&d->j, array) + 1u);
	size_t n = 0;

	for (uint32_t v = json_first(&d->j, array); v; v = json_next(&d->j, array, v)) {
		uint32_t t = json_kind(&d->j, v) == JSON_OBJECT ? json_get(&d->j, v, "text") : v;

		if (t && json_is_string(&d->j, t) && d->by_token[t])
			run[n++] = d->by_token[t];
	}
	return n < 2 || search_run(d->job, run, n);
}

/* ---- writing ---- */

static int by_place(const void *a, const void *b)
{
	const struct mark *x = a, *y = b;

	return x->from != y->from ? (x->from < y->from ? -1 : 1) : x->to != y->to ? (x->to > y->to ? -1 : 1) : (x->rule > y->rule) - (x->rule < y->rule);
}

static void note(struct job *job, struct buf *out, unsigned rule, bool is_key)
{
	job->ret->count[rule]++;
	job->ret->total++;
	if (is_key)                           /* two of them may not be alike in one object */
		buf_printf(out, "[redacted:%s:%u]", job->set->rules[rule].name, job->ret->total);
	else
		buf_printf(out, "[redacted:%s]", job->set->rules[rule].name);
}

static void write_piece(struct job *job, struct piece *p, bool is_key, struct buf *out)
{
	size_t at = 0;

	if (p->n_marks)
		qsort(p->marks, p->n_marks, sizeof(*p->marks), by_place);
	for (size_t i = 0; i < p->n_marks;) {
		struct mark all = p->marks[i++];

		for (; i < p->n_marks && p->marks[i].from < all.to; i++) {
			if (p->marks[i].head && !all.head)
				all.rule = p->marks[i].rule;
			all.head |= p->marks[i].head;
			all.to = p->marks[i].to > all.to ? p->marks[i].to : all.to;
		}
		buf_add(out, p->text.p + at, all.from - at);
		if (all.head)
			note(job, out, all.rule, is_key);
		at = all.to;
	}
	buf_add(out, p->text.p + at, p->text.n - at);
}

static struct str quoted(struct job *job, struct piece *p, bool is_key)
{
	struct buf plain = { 0 }, json = { 0 };
	struct str s;

	write_piece(job, p, is_key, &plain);
	buf_char(&json, '"');
	json_escape(&json, buf_as_str(&plain));
	buf_char(&json, '"');
	s = arena_str(job->mem, buf_as_str(&json));
	buf_free(&plain);
	buf_free(&json);
	return s;
}

static struct str rewrite(struct doc *d, struct str text)
{
	struct json_edit *edits = arena_array(d->job->mem, struct json_edit, d->n_pieces + 1);
	struct buf out = { 0 };
	struct str s;
	size_t n = 0;

	for (size_t i = 0; i < d->n_pieces; i++) {
		struct piece *p = &d->pieces[i];

		if (p->n_marks || p->text.p != p->was.p)
			edits[n++] = json_edit_value(&d->j, p->token, quoted(d->job, p, d->j.tok[p->token].flags & JSON_KEY));
	}
	if (!n)
		return text;
	json_splice(&out, text, edits, n);
	s = arena_str(d->job->mem, buf_as_str(&out));
	buf_free(&out);
	return s;
}

/* False when the whole has failed. What is no JSON stays as it is, *ret_err tells. */
static bool clean_text(struct job *job, struct str text, unsigned depth, struct str *ret, enum err *ret_err)
{
	const struct json_limits limits = { .max_depth = json_limits_default.max_depth, .max_nodes = json_limits_default.max_nodes };
	struct doc d = { .job = job, .depth = depth };
	struct why why = { 0 };

	*ret_err = json_parse(&d.j, job->mem, text, depth ? &limits : NULL, depth ? &why : job->why);
	if (*ret_err != ERR_OK)
		return *ret_err == ERR_MALFORMED || too_much(job);
	if (!collect(&d))
		return false;
	for (uint32_t t = 0; t < d.j.n; t++)
		if (json_kind(&d.j, t) == JSON_ARRAY && !search_array(&d, t))
			return false;
	*ret = rewrite(&d, text);
	return true;
}

enum err redact_apply(const struct redact *set, struct str json, struct arena *mem, struct redacted *ret, struct why *why)
{
	struct job job = { .set = set, .mem = mem, .ret = ret, .why = why, .work = WORK_LEAST + 200 * (int64_t)json.n };
	enum err err = ERR_OK;

	*ret = (struct redacted){ .json = json, .refused_by = -1 };
	if (!set->n)
		return ERR_OK;
	if (!clean_text(&job, json, 0, &ret->json, &err))
		return job.err;
	return err;
}
