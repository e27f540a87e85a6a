/* opt_print.c - tables of options as people read them: --help, the reference page, the values in effect. */
#include <inttypes.h>

#include "common/data/json_write.h"
#include "common/data/opt_value.h"

enum { HELP_COLUMN = 30, WIDTH = 100 };

/* A name that stands in several tables is shown once, with the first. */
static bool shown_before(const struct opt_set *sets, size_t set, const struct opt *o)
{
	for (size_t i = 0; i < set; i++)
		for (const struct opt *p = sets[i].table; p && p->name; p++)
			if (strcmp(p->name, o->name) == 0)
				return true;
	return false;
}

static bool any_shown(const struct opt_set *sets, size_t set)
{
	for (const struct opt *o = sets[set].table; o && o->name; o++)
		if (!shown_before(sets, set, o))
			return true;
	return false;
}

static const char *dflt_of(const struct opt *o) { return o->dflt ? o->dflt : ""; }

/* --- --help --- */

static void add_flag(struct buf *b, struct arena *a, const struct opt *o)
{
	static const char *const values[] = {
		[OPT_T_STRING] = "TEXT", [OPT_T_INT] = "N", [OPT_T_DURATION] = "TIME", [OPT_T_BYTES] = "SIZE",
		[OPT_T_NUMBER] = "X", [OPT_T_LIST] = "A,B,...", [OPT_T_SECRET] = "SECRET"
	};
	const char *flag = opt_flag_name(a, o->name);

	if (o->type == OPT_T_BOOL) {
		buf_printf(b, "  --[no-]%s", flag + 2);
		return;
	}
	buf_printf(b, "  %s=", flag);
	if (o->type == OPT_T_ENUM)
		for (const char *p = o->words; *p; p++)
			buf_char(b, *p == ' ' ? '|' : *p);
	else
		buf_addz(b, values[o->type]);
}

static void add_wrapped(struct buf *b, struct str text, size_t column)
{
	struct str word;
	size_t at = column;

	while (text.n > 0 && str_split(&text, ' ', &word)) {
		if (at > column && at + 1 + word.n > WIDTH) {
			buf_printf(b, "\n%*s", (int)column, "");
			at = column;
		} else if (at > column) {
			buf_char(b, ' ');
			at++;
		}
		buf_str(b, word);
		at += word.n;
	}
	buf_char(b, '\n');
}

static void add_option(struct buf *b, struct arena *a, const struct opt *o)
{
	size_t start = b->n;
	struct str help;

	add_flag(b, a, o);
	if (b->n - start + 2 > HELP_COLUMN)
		buf_printf(b, "\n%*s", HELP_COLUMN, "");
	else
		buf_printf(b, "%*s", (int)(HELP_COLUMN - (b->n - start)), "");
	help = dflt_of(o)[0] ? arena_fmt(a, "%s (default %s%s)", o->help, o->dflt, o->live ? "" : "; restart") :
		arena_fmt(a, "%s%s", o->help, o->live ? "" : " (restart)");
	add_wrapped(b, help, HELP_COLUMN);
}

void opt_help(struct buf *b, const struct opt_set *sets, size_t n)
{
	struct arena *a = arena_new(0);

	for (size_t i = 0; i < n; i++) {
		if (!any_shown(sets, i))
			continue;
		buf_printf(b, "\n%s:\n", sets[i].owner);
		for (const struct opt *o = sets[i].table; o->name; o++)
			if (!shown_before(sets, i, o))
				add_option(b, a, o);
	}
	arena_free(a);
}

/* --- --dump=config --- */

static void add_cell(struct buf *b, const char *text)
{
	for (; *text; text++) {
		if (*text == '|' || *text == '<')
			buf_char(b, '\\');
		buf_char(b, *text);
	}
}

static void add_code(struct buf *b, const char *text)
{
	if (!text[0]) {
		buf_addz(b, "–");
		return;
	}
	buf_char(b, '`');
	for (; *text; text++)
		buf_printf(b, *text == '|' ? "\\|" : "%c", *text);
	buf_char(b, '`');
}

static void add_range(struct buf *b, const struct opt *o)
{
	static const char *const kinds[] = {
		[OPT_T_STRING] = "text", [OPT_T_BOOL] = "true, false", [OPT_T_INT] = "whole number", [OPT_T_DURATION] = "duration",
		[OPT_T_BYTES] = "size", [OPT_T_NUMBER] = "number", [OPT_T_LIST] = "list", [OPT_T_SECRET] = "secret"
	};

	if (o->type == OPT_T_ENUM) {
		for (const char *p = o->words; *p; p++)
			buf_printf(b, *p == ' ' ? ", " : "%c", *p);
		return;
	}
	buf_addz(b, kinds[o->type]);
	if (o->type == OPT_T_LIST && o->shape) {
		buf_addz(b, " of ");
		add_code(b, o->shape);
	}
	if (o->min == 0 && o->max == 0)
		return;
	buf_addz(b, ", ");
	opt_number_print(b, o->type, o->min);
	buf_addz(b, " to ");
	opt_number_print(b, o->type, o->max);
}

static void add_environment(struct buf *b, struct arena *a, const struct opt *o)
{
	struct str rest = str_of(o->aliases), part;

	buf_printf(b, "`%s`", opt_env_name(a, o->name, ""));
	if (o->type == OPT_T_SECRET)
		buf_printf(b, ", `%s`", opt_env_name(a, o->name, "_FILE"));
	while (rest.n > 0 && str_split(&rest, ',', &part))
		buf_printf(b, ", `" STR_FMT "`", STR_ARG(str_trim(part)));
}

static void add_row(struct buf *b, struct arena *a, const struct opt *o)
{
	buf_printf(b, "| `%s` | ", o->name);
	add_environment(b, a, o);
	buf_addz(b, " | ");
	add_code(b, dflt_of(o));
	buf_addz(b, " | ");
	add_range(b, o);
	buf_printf(b, " | %s | ", o->live ? "SIGHUP" : "restart");
	add_cell(b, o->help);
	buf_addz(b, " |\n");
}

void opt_dump(struct buf *b, const struct opt_set *sets, size_t n)
{
	struct arena *a = arena_new(0);

	for (size_t i = 0; i < n; i++) {
		if (!any_shown(sets, i))
			continue;
		buf_printf(b, "\n## %s\n\n| option | environment | default | value | change by | what it does |\n|---|---|---|---|---|---|\n", sets[i].owner);
		for (const struct opt *o = sets[i].table; o->name; o++)
			if (!shown_before(sets, i, o))
				add_row(b, a, o);
	}
	arena_free(a);
}

/* --- --check-config: can be used as a file, but for the secrets --- */

/* Code points that YAML has only as escapes, or takes for a line's end: controls, U+2028 and U+2029, the byte order mark, the two that are none. */
static unsigned needs_escape(struct str rest)
{
	const unsigned char *p = (const unsigned char *)rest.p;

	if (p[0] < 0x20 || p[0] == 0x7f)
		return p[0];
	if (rest.n >= 2 && p[0] == 0xc2 && p[1] < 0xa0)
		return p[1];
	if (rest.n >= 3 && p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9))
		return 0x1f80u + p[2];
	if (rest.n >= 3 && p[0] == 0xef && ((p[1] == 0xbb && p[2] == 0xbf) || (p[1] == 0xbf && p[2] >= 0xbe)))
		return p[1] == 0xbb ? 0xfeff : 0xff00 + p[2] + 0x40u;
	return 0;
}

/* A double-quoted YAML scalar; bytes that are not UTF-8 become '?'. */
static void add_quoted(struct buf *b, const char *text)
{
	struct str s = str_of(text);
	bool valid = str_utf8_valid(s);

	buf_char(b, '"');
	for (; s.n > 0; s = str_from(s, 1)) {
		unsigned code = needs_escape(s);

		if (!valid && (unsigned char)*s.p >= 0x80) {
			buf_char(b, '?');
		} else if (code) {
			buf_printf(b, "\\u%04x", code);
			s = str_from(s, code >= 0x800 ? 2 : code >= 0x80 ? 1 : 0);
		} else if (*s.p == '"' || *s.p == '\\') {
			buf_printf(b, "\\%c", *s.p);
		} else {
			buf_addz(b, *s.p == '$' && s.n > 1 && s.p[1] == '{' ? "$" : "");
			buf_char(b, *s.p);
		}
	}
	buf_char(b, '"');
}

/* A part of a URL, without what stands behind each password= (and sslpassword=) in its query. */
static void masked_query(struct buf *b, const char *text)
{
	const char *at;

	while ((at = strstr(text, "password="))) {
		at += strlen("password=");
		buf_add(b, text, (size_t)(at - text));
		buf_addz(b, "***");
		text = at + strcspn(at, "&,");
	}
	buf_addz(b, text);
}

/* A password in a URL, which no option needs, is a secret all the same. */
static void masked(struct buf *b, const char *text)
{
	const char *at = strstr(text, "://"), *end, *colon, *user;

	user = at ? at + 3 : NULL;
	end = user ? strpbrk(user, "@/?#,") : NULL;
	colon = user && end && *end == '@' ? memchr(user, ':', (size_t)(end - user)) : NULL;
	if (colon) {
		buf_add(b, text, (size_t)(colon + 1 - text));
		buf_addz(b, "***");
		text = end;
	}
	if (at)
		masked_query(b, text);
	else
		buf_addz(b, text);
}

static void add_masked(struct buf *b, const char *text)
{
	struct buf shown = { 0 };

	masked(&shown, text);
	add_quoted(b, buf_z(&shown));
	buf_free(&shown);
}

static void add_list(struct buf *b, const struct opt_list *l)
{
	buf_char(b, '[');
	for (size_t i = 0; i < l->n; i++) {
		buf_addz(b, i ? ", " : "");
		add_masked(b, l->items[i]);
	}
	buf_char(b, ']');
}

static void add_value(struct buf *b, const struct opt *o, void *at)
{
	switch (o->type) {
	case OPT_T_BOOL: buf_addz(b, *(bool *)at ? "true" : "false"); return;
	case OPT_T_INT:
	case OPT_T_DURATION:
	case OPT_T_BYTES: opt_number_print(b, o->type, *(int64_t *)at); return;
	case OPT_T_NUMBER: buf_printf(b, "%g", *(double *)at); return;
	case OPT_T_LIST: add_list(b, at); return;
	case OPT_T_SECRET: buf_addz(b, (*(const char **)at)[0] ? "\"***\"" : "\"\""); return;
	case OPT_T_ENUM: buf_addz(b, *(const char **)at); return;
	case OPT_T_STRING: add_masked(b, *(const char **)at); return;
	}
}

/* What names the file cannot stand in it; what was made of another option need not. */
static bool belongs_in_file(const struct opt_set *set, const struct opt *o)
{
	return strcmp(o->name, "config") != 0 && !str_starts(str_of(set->sources[o - set->table]), STR("option "));
}

void opt_print(struct buf *b, const struct opt_set *sets, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!any_shown(sets, i))
			continue;
		buf_printf(b, "# %s\n", sets[i].owner);
		for (const struct opt *o = sets[i].table; o->name; o++) {
			size_t start = b->n;

			if (shown_before(sets, i, o))
				continue;
			buf_printf(b, "%s%s: ", belongs_in_file(&sets[i], o) ? "" : "# ", o->name);
			add_value(b, o, opt_at(sets[i].config, o));
			buf_printf(b, "%*s  # %s\n", b->n - start < 48 ? (int)(48 - (b->n - start)) : 0, "", sets[i].sources[o - sets[i].table]);
		}
	}
}

/* --- the same for machines --- */

static void json_value(struct json_out *jo, const struct opt *o, void *at)
{
	struct buf b = { 0 };

	switch (o->type) {
	case OPT_T_BOOL: jw_bool(jo, *(bool *)at); break;
	case OPT_T_INT: jw_i64(jo, *(int64_t *)at); break;
	case OPT_T_NUMBER: jw_double(jo, *(double *)at); break;
	case OPT_T_SECRET: jw_strz(jo, (*(const char **)at)[0] ? "***" : ""); break;
	case OPT_T_ENUM:
	case OPT_T_STRING: masked(&b, *(const char **)at), jw_str(jo, buf_as_str(&b)); break;
	case OPT_T_DURATION:
	case OPT_T_BYTES: opt_number_print(&b, o->type, *(int64_t *)at), jw_str(jo, buf_as_str(&b)); break;
	case OPT_T_LIST:
		jw_arr(jo);
		for (size_t i = 0; i < ((struct opt_list *)at)->n; i++) {
			buf_clear(&b);
			masked(&b, ((struct opt_list *)at)->items[i]);
			jw_str(jo, buf_as_str(&b));
		}
		jw_end(jo);
		break;
	}
	buf_free(&b);
}

static void json_source(struct json_out *jo, const char *source)
{
	const char *colon = strrchr(source, ':');
	uint64_t line;

	jw_obj(jo);
	if (strcmp(source, "default") == 0) {
		jw_kv_strz(jo, "kind", "default");
	} else if (strncmp(source, "environment ", 12) == 0) {
		jw_kv_strz(jo, "kind", "environment");
		jw_kv_strz(jo, "name", source + 12);
	} else if (colon && source[0] != '-' && str_u64(str_of(colon + 1), &line)) {
		jw_kv_strz(jo, "kind", "file");
		jw_kv_str(jo, "file", str_n(source, (size_t)(colon - source)));
		jw_kv_u64(jo, "line", line);
	} else {
		jw_kv_strz(jo, "kind", "flag");
		jw_kv_strz(jo, "name", source);
	}
	jw_end(jo);
}

void opt_print_json(struct buf *b, const struct opt_set *sets, size_t n)
{
	struct json_out jo;

	json_begin(&jo, b);
	jw_obj(&jo);
	jw_key(&jo, "options");
	jw_arr(&jo);
	for (size_t i = 0; i < n; i++)
		for (const struct opt *o = sets[i].table; o && o->name; o++) {
			if (shown_before(sets, i, o))
				continue;
			jw_obj(&jo);
			jw_kv_strz(&jo, "name", o->name);
			jw_kv_strz(&jo, "of", sets[i].owner);
			jw_key(&jo, "value");
			json_value(&jo, o, opt_at(sets[i].config, o));
			jw_kv_strz(&jo, "default", dflt_of(o));
			jw_key(&jo, "source");
			json_source(&jo, sets[i].sources[o - sets[i].table]);
			jw_kv_bool(&jo, "live", o->live);
			jw_end(&jo);
		}
	json_done(&jo);
}
