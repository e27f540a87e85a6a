/* features.c - see features.h.
 *
 * One pass over the words of the user's text: each word is hashed once and looked up in a table of cues (word or pair of words -> task,
 * weight). Cues at the start count double, because people say what they want first. Signs of code come from punctuation and keywords.
 * The method is a linear model with hand-set weights: small, explainable, and good enough until outcomes teach a better one. */
#include "common/policy/features.h"

#include <pthread.h>
#include <string.h>

static const char *const task_names[TASK_COUNT] = {
	"UNKNOWN", "BUG_FIX", "FEATURE", "REFACTOR", "CODE_REVIEW", "EXPLAIN", "TEST_GENERATION", "DOCS", "SQL", "SHELL", "DATA_EXTRACTION",
	"SUMMARIZE", "TRANSLATE", "MATH", "REASONING", "CREATIVE", "QA", "CHAT", "AGENT_TOOL",
};

static const struct { const char *word; enum task task; } synonyms[] = {
	{ "CODE_GENERATION", TASK_FEATURE }, { "CODEGEN", TASK_FEATURE }, { "IMPLEMENT", TASK_FEATURE }, { "REVIEW", TASK_CODE_REVIEW },
	{ "CODE_EXPLANATION", TASK_EXPLAIN }, { "TESTS", TASK_TEST_GENERATION }, { "DOCUMENTATION", TASK_DOCS },
	{ "EXTRACT", TASK_DATA_EXTRACTION }, { "ANALYSIS", TASK_REASONING }, { "CREATIVE_WRITING", TASK_CREATIVE },
	{ "CONVERSATION", TASK_CHAT }, { "AGENT", TASK_AGENT_TOOL },
};

const char *task_name(enum task t) { return t < TASK_COUNT ? task_names[t] : task_names[0]; }

static bool word_eq(struct str word, const char *name)
{
	if (word.n != strlen(name))
		return false;
	for (size_t i = 0; i < word.n; i++) {
		char c = word.p[i] == '-' || word.p[i] == ' ' ? '_' : word.p[i];

		if ((c >= 'a' && c <= 'z' ? c - 32 : c) != name[i])
			return false;
	}
	return true;
}

bool task_parse(struct str word, enum task *ret)
{
	for (int t = 0; t < TASK_COUNT; t++)
		if (word_eq(word, task_names[t])) {
			*ret = (enum task)t;
			return true;
		}
	for (size_t i = 0; i < sizeof(synonyms) / sizeof(*synonyms); i++)
		if (word_eq(word, synonyms[i].word)) {
			*ret = synonyms[i].task;
			return true;
		}
	return false;
}

bool task_is_code(enum task t)
{
	return (t >= TASK_BUG_FIX && t <= TASK_TEST_GENERATION) || t == TASK_SQL || t == TASK_SHELL;
}

static const char *const complexity_names[] = { "SIMPLE", "MEDIUM", "COMPLEX" };
const char *complexity_name(enum complexity c) { return complexity_names[c]; }

bool complexity_parse(struct str word, enum complexity *ret)
{
	for (int c = 0; c < 3; c++)
		if (word_eq(word, complexity_names[c])) {
			*ret = (enum complexity)c;
			return true;
		}
	return false;
}

/* --- cues --- */

/* 'verb' cues count double among the first words. NEED_CODE cues count only when there is code or a code noun. */
enum { NEED_CODE = 1, START = 2 };
static const struct cue { const char *words; uint8_t task; uint8_t weight; uint8_t flags; } cues[] = {
	{ "fix", TASK_BUG_FIX, 4, START }, { "debug", TASK_BUG_FIX, 5, START }, { "bug", TASK_BUG_FIX, 4, 0 }, { "crashes", TASK_BUG_FIX, 4, 0 },
	{ "traceback", TASK_BUG_FIX, 5, 0 }, { "exception", TASK_BUG_FIX, 3, 0 }, { "segfault", TASK_BUG_FIX, 5, 0 }, { "fails", TASK_BUG_FIX, 3, NEED_CODE },
	{ "error", TASK_BUG_FIX, 2, NEED_CODE }, { "broken", TASK_BUG_FIX, 3, NEED_CODE }, { "not working", TASK_BUG_FIX, 3, 0 }, { "doesn't work", TASK_BUG_FIX, 3, 0 },
	{ "write", TASK_FEATURE, 2, START | NEED_CODE }, { "implement", TASK_FEATURE, 4, START }, { "add", TASK_FEATURE, 2, START | NEED_CODE },
	{ "create", TASK_FEATURE, 2, START | NEED_CODE }, { "build", TASK_FEATURE, 2, START | NEED_CODE }, { "generate", TASK_FEATURE, 1, START | NEED_CODE },
	{ "function", TASK_FEATURE, 1, 0 }, { "class", TASK_FEATURE, 1, NEED_CODE }, { "endpoint", TASK_FEATURE, 2, 0 }, { "code", TASK_FEATURE, 1, 0 },
	{ "program", TASK_FEATURE, 1, 0 }, { "algorithm", TASK_FEATURE, 2, 0 },
	{ "refactor", TASK_REFACTOR, 6, START }, { "clean up", TASK_REFACTOR, 4, START | NEED_CODE }, { "simplify", TASK_REFACTOR, 3, START | NEED_CODE },
	{ "rename", TASK_REFACTOR, 4, START | NEED_CODE }, { "restructure", TASK_REFACTOR, 4, NEED_CODE }, { "extract method", TASK_REFACTOR, 5, 0 },
	{ "review", TASK_CODE_REVIEW, 4, START }, { "code review", TASK_CODE_REVIEW, 5, 0 }, { "pull request", TASK_CODE_REVIEW, 5, 0 }, { "diff", TASK_CODE_REVIEW, 2, NEED_CODE },
	{ "explain", TASK_EXPLAIN, 4, START }, { "what does", TASK_EXPLAIN, 3, NEED_CODE }, { "how does", TASK_EXPLAIN, 3, 0 }, { "walk through", TASK_EXPLAIN, 3, 0 }, { "understand", TASK_EXPLAIN, 2, 0 },
	{ "unit test", TASK_TEST_GENERATION, 7, 0 }, { "unit tests", TASK_TEST_GENERATION, 7, 0 }, { "test cases", TASK_TEST_GENERATION, 6, 0 }, { "pytest", TASK_TEST_GENERATION, 5, 0 },
	{ "write tests", TASK_TEST_GENERATION, 7, 0 }, { "tests for", TASK_TEST_GENERATION, 5, 0 }, { "junit", TASK_TEST_GENERATION, 5, 0 },
	{ "docstring", TASK_DOCS, 6, 0 }, { "docstrings", TASK_DOCS, 6, 0 }, { "readme", TASK_DOCS, 5, 0 }, { "document", TASK_DOCS, 3, START | NEED_CODE }, { "documentation", TASK_DOCS, 4, 0 }, { "javadoc", TASK_DOCS, 6, 0 }, { "changelog", TASK_DOCS, 4, 0 },
	{ "sql", TASK_SQL, 6, 0 }, { "select from", TASK_SQL, 4, 0 }, { "postgres", TASK_SQL, 3, 0 }, { "query", TASK_SQL, 2, NEED_CODE }, { "join", TASK_SQL, 1, NEED_CODE }, { "database schema", TASK_SQL, 4, 0 },
	{ "bash", TASK_SHELL, 5, 0 }, { "shell", TASK_SHELL, 4, 0 }, { "command line", TASK_SHELL, 4, 0 }, { "one-liner", TASK_SHELL, 3, 0 }, { "grep", TASK_SHELL, 3, 0 }, { "awk", TASK_SHELL, 4, 0 }, { "sed", TASK_SHELL, 3, 0 }, { "cron", TASK_SHELL, 3, 0 },
	{ "extract", TASK_DATA_EXTRACTION, 5, START }, { "parse the", TASK_DATA_EXTRACTION, 3, 0 }, { "as json", TASK_DATA_EXTRACTION, 3, 0 }, { "entities", TASK_DATA_EXTRACTION, 4, 0 }, { "fields", TASK_DATA_EXTRACTION, 2, 0 },
	{ "summarize", TASK_SUMMARIZE, 6, START }, { "summarise", TASK_SUMMARIZE, 6, START }, { "summary", TASK_SUMMARIZE, 5, 0 }, { "tl;dr", TASK_SUMMARIZE, 6, 0 }, { "tldr", TASK_SUMMARIZE, 6, 0 }, { "key points", TASK_SUMMARIZE, 4, 0 },
	{ "translate", TASK_TRANSLATE, 7, START }, { "translation", TASK_TRANSLATE, 5, 0 }, { "into german", TASK_TRANSLATE, 4, 0 }, { "into english", TASK_TRANSLATE, 4, 0 }, { "into french", TASK_TRANSLATE, 4, 0 }, { "into spanish", TASK_TRANSLATE, 4, 0 },
	{ "calculate", TASK_MATH, 5, START }, { "solve", TASK_MATH, 4, START }, { "equation", TASK_MATH, 5, 0 }, { "integral", TASK_MATH, 5, 0 }, { "derivative", TASK_MATH, 5, 0 }, { "probability", TASK_MATH, 4, 0 }, { "prove", TASK_MATH, 4, START }, { "theorem", TASK_MATH, 5, 0 }, { "compute", TASK_MATH, 3, START }, { "percent", TASK_MATH, 2, 0 },
	{ "reason", TASK_REASONING, 3, 0 }, { "step by step", TASK_REASONING, 4, 0 }, { "analyze", TASK_REASONING, 4, START }, { "analyse", TASK_REASONING, 4, START }, { "compare", TASK_REASONING, 3, START }, { "trade-offs", TASK_REASONING, 4, 0 }, { "pros and", TASK_REASONING, 3, 0 }, { "why", TASK_REASONING, 1, START }, { "puzzle", TASK_REASONING, 4, 0 }, { "strategy", TASK_REASONING, 2, 0 },
	{ "poem", TASK_CREATIVE, 7, 0 }, { "story", TASK_CREATIVE, 6, 0 }, { "haiku", TASK_CREATIVE, 7, 0 }, { "lyrics", TASK_CREATIVE, 6, 0 }, { "slogan", TASK_CREATIVE, 5, 0 }, { "novel", TASK_CREATIVE, 3, 0 }, { "blog post", TASK_CREATIVE, 4, 0 }, { "essay", TASK_CREATIVE, 4, 0 },
	{ "who", TASK_QA, 3, START }, { "when", TASK_QA, 3, START }, { "where", TASK_QA, 3, START }, { "what is", TASK_QA, 4, START }, { "what are", TASK_QA, 3, START }, { "which", TASK_QA, 2, START }, { "how many", TASK_QA, 3, START }, { "capital of", TASK_QA, 5, 0 },
	{ "hello", TASK_CHAT, 5, START }, { "hi", TASK_CHAT, 5, START }, { "hey", TASK_CHAT, 4, START }, { "thanks", TASK_CHAT, 4, START }, { "good morning", TASK_CHAT, 5, START }, { "how are", TASK_CHAT, 4, START },
};
enum { N_CUES = sizeof(cues) / sizeof(*cues), TABLE = 1024, MAX_WORD = 24 };

static uint16_t table[TABLE];     /* cue index + 1, open addressing by hash of its words */

static uint32_t hash_bytes(uint32_t h, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];

		h = (h ^ (c >= 'A' && c <= 'Z' ? c | 0x20u : c)) * 16777619u;
	}
	return h;
}

static void build_table(void)
{
	for (unsigned i = 0; i < N_CUES; i++) {
		uint32_t at = hash_bytes(2166136261u, cues[i].words, strlen(cues[i].words));

		while (table[at % TABLE])
			at++;
		table[at % TABLE] = (uint16_t)(i + 1);
	}
}

static const struct cue *find_cue(uint32_t hash, struct str text)
{
	for (uint32_t at = hash; table[at % TABLE]; at++) {
		const struct cue *c = &cues[table[at % TABLE] - 1];

		if (str_ieq(text, str_of(c->words)))
			return c;
	}
	return NULL;
}

struct scan {
	int score[TASK_COUNT], code_score[TASK_COUNT];
	unsigned words, code_signs, fences, numbers, questions;
};

static bool is_word(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '\'' || c == '-' || (c & 0x80);
}

static void hit(struct scan *s, const struct cue *c)
{
	int w = c->weight * ((c->flags & START) && s->words < 4 ? 2 : 1);

	if ((c->flags & START) && s->words >= 12)
		w = (w + 1) / 2;          /* said in passing */
	if (c->flags & NEED_CODE)
		s->code_score[c->task] += w;
	else
		s->score[c->task] += w;
}

/* A word alone, and with the one before it when only one blank is between. */
static void see_word(struct scan *s, struct str word, struct str *prev)
{
	const struct cue *c;

	if (word.n <= MAX_WORD && (c = find_cue(hash_bytes(2166136261u, word.p, word.n), word)))
		hit(s, c);
	if (prev->n && prev->p + prev->n + 1 == word.p && *(word.p - 1) == ' ') {
		struct str pair = str_n(prev->p, prev->n + 1 + word.n);

		if (pair.n <= 2 * MAX_WORD && (c = find_cue(hash_bytes(2166136261u, pair.p, pair.n), pair)))
			hit(s, c);
	}
	*prev = word;
	s->words++;
}

static void scan_text(struct scan *s, struct str text)
{
	struct str prev = { 0 };

	for (size_t i = 0; i < text.n;) {
		char c = text.p[i];
		size_t start = i;

		if (is_word(c) || c == ';') {
			while (i < text.n && (is_word(text.p[i]) || (text.p[i] == ';' && i > start && i + 1 < text.n && is_word(text.p[i + 1]))))
				i++;
			if (i > start) {
				see_word(s, str_n(text.p + start, i - start), &prev);
				continue;
			}
		}
		s->numbers += c >= '0' && c <= '9' && (i == 0 || text.p[i - 1] < '0' || text.p[i - 1] > '9');
		s->questions += c == '?';
		s->code_signs += c == '{' || c == '}' || c == ';' || c == '=' || c == '_';
		s->code_signs += (c == '(' && i + 1 < text.n && text.p[i + 1] == ')') * 3u;
		if (c == '`' && i + 2 < text.n && text.p[i + 1] == '`' && text.p[i + 2] == '`') {
			s->fences++;
			i += 2;
		}
		i++;
	}
}

/* --- language --- */

static const struct { const char *mark, *language; uint8_t weight; } marks[] = {
	{ "python", "python", 6 }, { "def ", "python", 3 }, { "import numpy", "python", 5 }, { "self.", "python", 3 }, { "Traceback (most", "python", 6 },
	{ "#include", "c", 6 }, { "int main(", "c", 4 }, { "std::", "cpp", 6 }, { "c++", "cpp", 6 }, { "cout", "cpp", 3 },
	{ "javascript", "javascript", 6 }, { "const ", "javascript", 1 }, { "=> {", "javascript", 3 }, { "console.log", "javascript", 5 }, { "node.js", "javascript", 5 },
	{ "typescript", "typescript", 7 }, { "interface ", "typescript", 1 }, { ": string", "typescript", 3 }, { "golang", "go", 7 }, { "func ", "go", 3 }, { "package main", "go", 6 },
	{ "rust", "rust", 4 }, { "fn ", "rust", 3 }, { "let mut", "rust", 6 }, { "impl ", "rust", 3 }, { "java ", "java", 4 }, { "public class", "java", 5 }, { "System.out", "java", 6 },
	{ "SELECT ", "sql", 4 }, { "sql", "sql", 5 }, { "SQL", "sql", 5 }, { "INSERT INTO", "sql", 5 }, { "#!/bin/", "shell", 6 }, { "bash", "shell", 4 }, { "ruby", "ruby", 5 }, { "php", "php", 5 }, { "<?php", "php", 7 },
	{ "c#", "csharp", 6 }, { "kotlin", "kotlin", 6 }, { "swift", "swift", 4 }, { "haskell", "haskell", 6 }, { " in C", "c", 3 }, { "```c\n", "c", 6 }, { "```py", "python", 6 }, { "```js", "javascript", 6 }, { "```rs", "rust", 6 }, { "```go", "go", 6 }, { "```sql", "sql", 6 }, { "```sh", "shell", 6 },
};

static const struct { const char *words[6]; const char *language; } natural[] = {
	{ { " the ", " is ", " and ", " of ", " to ", " what " }, "en" }, { { " der ", " die ", " und ", " ist ", " nicht ", " eine " }, "de" },
	{ { " le ", " les ", " est ", " une ", " des ", " pour " }, "fr" }, { { " el ", " los ", " es ", " una ", " para ", " que " }, "es" },
	{ { " il ", " che ", " una ", " per ", " sono ", " della " }, "it" },
};

static void find_language(struct features *f, struct str text)
{
	const char *best = "";
	int best_score = 2;

	if (text.n > 2048)
		text.n = 2048;            /* a language shows early */
	for (size_t i = 0; i < sizeof(marks) / sizeof(*marks); i++) {
		int score = 0;

		if (!str_find(text, str_of(marks[i].mark)))
			continue;
		for (size_t k = 0; k < sizeof(marks) / sizeof(*marks); k++)
			if (strcmp(marks[k].language, marks[i].language) == 0 && str_find(text, str_of(marks[k].mark)))
				score += marks[k].weight;
		if (score > best_score) {
			best_score = score;
			best = marks[i].language;
		}
	}
	for (size_t i = 0; !*best && i < sizeof(natural) / sizeof(*natural); i++) {
		int score = 0;

		for (size_t k = 0; k < 6; k++)
			score += str_find(text, str_of(natural[i].words[k])) ? 2 : 0;
		if (score > best_score) {
			best_score = score;
			best = natural[i].language;
		}
	}
	str_copy(f->language, sizeof(f->language), str_of(best));
}

/* --- putting it together --- */

static void find_task(struct features *f, const struct scan *s, const struct feature_text *t, bool code)
{
	int best = 0, second = 0, total;

	f->task = TASK_UNKNOWN;
	for (int i = 1; i < TASK_COUNT; i++) {
		total = s->score[i] + (code ? s->code_score[i] : 0);
		if (total > best) {
			second = best;
			best = total;
			f->task = (enum task)i;
		} else if (total > second) {
			second = total;
		}
	}
	if (best < 3 && t->has_tools) {
		f->task = TASK_AGENT_TOOL;
		best = 5;
	} else if (best < 3 && t->has_schema) {
		f->task = TASK_DATA_EXTRACTION;
		best = 5;
	} else if (best < 3) {
		f->task = s->questions && s->words > 2 ? TASK_QA : TASK_UNKNOWN;
	}
	f->confidence = f->task == TASK_UNKNOWN ? 0 : (double)best / (best + second + 3);
}

static enum complexity complexity_of(enum task task, const struct scan *s, const struct feature_text *t)
{
	int points = 0;

	points += t->prompt_tokens > 300;
	points += t->prompt_tokens > 1500;
	points += t->prompt_tokens > 6000;
	points += t->n_messages > 8;
	points += s->fences >= 2 || s->code_signs > 40;
	points += task == TASK_REASONING || task == TASK_MATH || task == TASK_REFACTOR || task == TASK_BUG_FIX;
	points += s->words > 120;
	if (task == TASK_CHAT || task == TASK_QA || task == TASK_TRANSLATE)
		points--;
	return points <= 0 ? COMPLEXITY_SIMPLE : points <= 2 ? COMPLEXITY_MEDIUM : COMPLEXITY_COMPLEX;
}

void features_extract(struct features *f, const struct feature_text *t)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct scan s = { 0 };
	struct str context = t->context;
	struct scan c = { 0 };
	bool code;

	pthread_once(&once, build_table);
	memset(f, 0, sizeof(*f));
	scan_text(&s, t->user);
	if (context.n > 1024)
		context.n = 1024;         /* only to see whether it is code */
	scan_text(&c, context);
	find_language(f, t->user);
	if (!*f->language)
		find_language(f, context);
	code = s.fences || s.code_signs > 8 || c.fences || c.code_signs > 8 || (strlen(f->language) > 2 || strcmp(f->language, "c") == 0 || strcmp(f->language, "go") == 0) ||
	       s.score[TASK_FEATURE] > 0;
	find_task(f, &s, t, code);
	f->complexity = complexity_of(f->task, &s, t);
}
