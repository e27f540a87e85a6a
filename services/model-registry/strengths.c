/* strengths.c - see strengths.h. The built-in table is families.tsv, linked in as it is. */
#include "services/model-registry/strengths.h"

#include <ctype.h>
#include <errno.h>

#include "common/base/buf.h"
#include "common/policy/caps.h"
#include "services/model-registry/found.h"
#include "services/model-registry/settings.h"

__asm__(".pushsection .rodata\n"
	".global registry_families_begin\n.global registry_families_end\n"
	"registry_families_begin: .incbin \"services/model-registry/families.tsv\"\n"
	"registry_families_end: .byte 0\n"
	".popsection\n");
extern const char registry_families_begin[] __attribute__((visibility("hidden")));
extern const char registry_families_end[] __attribute__((visibility("hidden")));

struct row {
	struct str word, strengths;
	uint32_t caps;
};

struct families {
	struct row *rows;
	size_t n;
};

static bool read_table(const char *path, struct arena *, struct str *ret, struct why *);
static enum err parse_table(struct arena *, struct str text, struct families *, struct why *);
static bool next_strength(struct str *rest, struct strength *ret);
static size_t add_strengths(struct str list, struct strength *to, size_t n, size_t max);
static bool has_word(struct str text, struct str word);

const struct families *families_load(struct arena *mem, const char *path, struct why *why)
{
	struct families *families = arena_new_of(mem, struct families);
	struct str text = str_n(registry_families_begin, (size_t)(registry_families_end - registry_families_begin));

	if (path[0] && !read_table(path, mem, &text, why))
		return NULL;
	if (parse_table(mem, text, families, why))
		return NULL;
	return families;
}

size_t strengths_of(const struct opt_list *configured, const struct families *families, struct str model, struct str family,
		    struct strength *ret, size_t max, const char **ret_source)
{
	struct str name, value;
	size_t n = 0;

	*ret_source = "configuration";
	for (size_t i = 0; i < configured->n; i++)
		if (settings_pair(configured->items[i], &name, &value) && model_same(name, model))
			n = add_strengths(value, ret, n, max);
	if (n)
		return n;
	*ret_source = "family";
	for (size_t i = 0; i < families->n; i++)
		if (has_word(family, families->rows[i].word) || has_word(model, families->rows[i].word))
			n = add_strengths(families->rows[i].strengths, ret, n, max);
	if (!n)
		*ret_source = "unknown";
	return n;
}

uint32_t families_caps(const struct families *families, struct str model, struct str family)
{
	for (size_t i = 0; i < families->n; i++)
		if (families->rows[i].caps && (has_word(family, families->rows[i].word) || has_word(model, families->rows[i].word)))
			return families->rows[i].caps;
	return 0;
}

/* "org/llama-3.1-8b" -> "llama". */
struct str families_guess(const struct families *families, struct str model)
{
	size_t end = 0;

	for (size_t i = 0; i < model.n; i++)
		if (model.p[i] == '/')
			model = str_from(model, i + 1), i = (size_t)-1;
	while (end < model.n && isalnum((unsigned char)model.p[end]))
		end++;
	for (size_t i = 0; i < families->n; i++)
		if (families->rows[i].strengths.n && str_ieq(families->rows[i].word, str_n(model.p, end)))
			return families->rows[i].word;
	return STR("");
}

enum err strengths_check(const struct opt_list *configured, struct why *why)
{
	struct str name, value;
	struct strength one;

	for (size_t i = 0; i < configured->n; i++) {
		if (!settings_pair(configured->items[i], &name, &value))
			return err_field(why, ERR_INVALID, "strengths", "strengths: '%.100s' is not of the form model=TASK:score;TASK:score", configured->items[i]);
		while (value.n)
			if (!next_strength(&value, &one))
				return err_field(why, ERR_INVALID, "strengths", "strengths: '%.100s' has something that is not TASK:score with a score from 0 to 1",
						 configured->items[i]);
	}
	return ERR_OK;
}

static bool read_table(const char *path, struct arena *mem, struct str *ret, struct why *why)
{
	FILE *f = fopen(path, "re");
	struct buf text = { 0 };
	char part[4096];
	size_t n;

	if (!f) {
		err_field(why, ERR_INVALID, "families", "families: cannot read '%s': %s", path, strerror(errno));
		return false;
	}
	while ((n = fread(part, 1, sizeof part, f)) > 0 && text.n < (1 << 20))
		buf_add(&text, part, n);
	(void)fclose(f);
	*ret = arena_str(mem, buf_as_str(&text));
	buf_free(&text);
	return true;
}

static enum err parse_row(struct str line, struct row *row, size_t number, struct why *why)
{
	struct str rest = line, words, word;
	struct strength one;

	*row = (struct row){ 0 };
	(void)str_split(&rest, '\t', &row->word);
	row->word = str_trim(row->word);
	if (!str_split(&rest, '\t', &row->strengths))
		row->strengths = STR("");
	row->strengths = words = str_trim(row->strengths);
	while (words.n)
		if (!next_strength(&words, &one))
			return err_field(why, ERR_INVALID, "families", "families: line %zu has something that is not TASK:score with a score from 0 to 1", number);
	words = str_trim(rest);
	while (words.n && str_split(&words, ' ', &word))
		row->caps |= llm_cap_parse(word);
	return ERR_OK;
}

static enum err parse_table(struct arena *mem, struct str text, struct families *families, struct why *why)
{
	size_t lines = 1, number = 0;
	struct str rest = text, line;
	enum err err = ERR_OK;

	for (size_t i = 0; i < text.n; i++)
		lines += text.p[i] == '\n';
	families->rows = arena_array(mem, struct row, lines);
	while (!err && str_split(&rest, '\n', &line)) {
		number++;
		if (str_trim(line).n == 0 || line.p[0] == '#')
			continue;
		err = parse_row(line, &families->rows[families->n], number, why);
		families->n++;
	}
	return err;
}

/* Takes "TASK:0.5" off the list. False when it is something else. */
static bool next_strength(struct str *rest, struct strength *ret)
{
	struct str part, task;
	double score;

	if (!str_split(rest, ';', &part))
		return false;
	part = str_trim(part);
	if (!str_split(&part, ':', &task) || task.n == 0 || task.n > 32 || !str_double(part, &score) || !(score >= 0 && score <= 1))
		return false;
	*ret = (struct strength){ task, score };
	return true;
}

/* One that is there already stays as it is. */
static size_t add_one(struct strength one, struct strength *to, size_t n, size_t max)
{
	for (size_t i = 0; i < n; i++)
		if (str_eq(to[i].task, one.task))
			return n;
	if (n < max)
		to[n++] = one;
	return n;
}

static size_t add_strengths(struct str list, struct strength *to, size_t n, size_t max)
{
	static const char *const coding[] = { "BUG_FIX", "FEATURE", "REFACTOR", "CODE_REVIEW", "TEST_GENERATION", "SQL", "SHELL" };
	struct strength one;

	while (list.n && next_strength(&list, &one)) {
		if (!str_eqz(one.task, "CODE")) {
			n = add_one(one, to, n, max);
			continue;
		}
		for (size_t i = 0; i < sizeof coding / sizeof *coding; i++)
			n = add_one((struct strength){ str_of(coding[i]), one.score }, to, n, max);
	}
	return n;
}

static bool has_word(struct str text, struct str word)
{
	size_t from = 0;

	for (size_t i = 0; i <= text.n; i++) {
		if (i < text.n && isalnum((unsigned char)text.p[i]))
			continue;
		if (str_ieq(str_n(text.p + from, i - from), word))
			return true;
		from = i + 1;
	}
	return false;
}
