/* features.c - see features.h.
 *
 * One pass over the words of the user's text: each word is hashed while its end is looked for, and found or not in a table of cues (word or
 * pair of words -> task, weight); pairs are hashed only behind a word that some pair begins with. Cues at the start count double,
 * because people say what they want first. Signs of code come from punctuation and keywords.
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
	{ "extract", TASK_DATA_EXTRACTION, 5, START }, { "parse the", TASK_DATA_EXTRACTION, 3, 0 }, { "as json", TASK_DATA_EXTRACTION, 3, 0 },
	{ "entities", TASK_DATA_EXTRACTION, 4, 0 }, { "fields", TASK_DATA_EXTRACTION, 2, 0 },
	{ "summarize", TASK_SUMMARIZE, 6, START }, { "summarise", TASK_SUMMARIZE, 6, START }, { "summary", TASK_SUMMARIZE, 5, 0 }, { "tl;dr", TASK_SUMMARIZE, 6, 0 }, { "tldr", TASK_SUMMARIZE, 6, 0 }, { "key points", TASK_SUMMARIZE, 4, 0 },
	{ "translate", TASK_TRANSLATE, 7, START }, { "translation", TASK_TRANSLATE, 5, 0 }, { "into german", TASK_TRANSLATE, 4, 0 }, { "into english", TASK_TRANSLATE, 4, 0 }, { "into french", TASK_TRANSLATE, 4, 0 }, { "into spanish", TASK_TRANSLATE, 4, 0 },
	{ "calculate", TASK_MATH, 5, START }, { "solve", TASK_MATH, 4, START }, { "equation", TASK_MATH, 5, 0 }, { "integral", TASK_MATH, 5, 0 }, { "derivative", TASK_MATH, 5, 0 }, { "probability", TASK_MATH, 4, 0 }, { "prove", TASK_MATH, 4, START }, { "theorem", TASK_MATH, 5, 0 }, { "compute", TASK_MATH, 3, START }, { "percent", TASK_MATH, 2, 0 },
	{ "reason", TASK_REASONING, 3, 0 }, { "step by step", TASK_REASONING, 4, 0 }, { "analyze", TASK_REASONING, 4, START }, { "analyse", TASK_REASONING, 4, START }, { "compare", TASK_REASONING, 3, START }, { "trade-offs", TASK_REASONING, 4, 0 }, { "pros and", TASK_REASONING, 3, 0 }, { "why", TASK_REASONING, 1, START }, { "puzzle", TASK_REASONING, 4, 0 }, { "strategy", TASK_REASONING, 2, 0 },
	{ "poem", TASK_CREATIVE, 7, 0 }, { "story", TASK_CREATIVE, 6, 0 }, { "haiku", TASK_CREATIVE, 7, 0 }, { "lyrics", TASK_CREATIVE, 6, 0 }, { "slogan", TASK_CREATIVE, 5, 0 }, { "novel", TASK_CREATIVE, 3, 0 }, { "blog post", TASK_CREATIVE, 4, 0 }, { "essay", TASK_CREATIVE, 4, 0 },
	{ "who", TASK_QA, 3, START }, { "when", TASK_QA, 3, START }, { "where", TASK_QA, 3, START }, { "what is", TASK_QA, 4, START }, { "what are", TASK_QA, 3, START }, { "which", TASK_QA, 2, START }, { "how many", TASK_QA, 3, START }, { "capital of", TASK_QA, 5, 0 },
	{ "hello", TASK_CHAT, 5, START }, { "hi", TASK_CHAT, 5, START }, { "hey", TASK_CHAT, 4, START }, { "thanks", TASK_CHAT, 4, START }, { "good morning", TASK_CHAT, 5, START }, { "how are", TASK_CHAT, 4, START },
};
enum { N_CUES = sizeof(cues) / sizeof(*cues), TABLE = 1024, MAX_WORD = 24, LANGS = 22 };

static uint16_t table[TABLE];     /* cue index + 1, open addressing by hash of its words */
static uint32_t cue_hash[N_CUES];
static bool begins_pair[256];     /* by the lowest bits of a word's hash */

/* What a byte is in a text. K_UPPER is twice the bit that makes a letter small. */
enum { K_WORD = 1, K_DIGIT = 2, K_HINT = 4, K_CODE = 8, K_OTHER = 16, K_UPPER = 0x40 };
static uint8_t kind_of[256];

enum { HASH_START = 2166136261u, HASH_STEP = 16777619u };

static inline uint32_t hash_byte(uint32_t h, unsigned char c) { return (h ^ (c | (kind_of[c] & K_UPPER) >> 1)) * HASH_STEP; }

static uint32_t hash_bytes(uint32_t h, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h = hash_byte(h, (unsigned char)p[i]);
	return h;
}

static void build_kinds(void)
{
	for (unsigned c = 0; c < 256; c++)
		kind_of[c] = c >= 'A' && c <= 'Z' ? K_WORD | K_UPPER : (c >= 'a' && c <= 'z') || c == '\'' || c == '-' || c >= 0x80 ? K_WORD :
			     c >= '0' && c <= '9' ? K_DIGIT : 0;
	for (const char *p = "#+<:"; *p; p++)
		kind_of[(unsigned char)*p] = K_HINT;
	for (const char *p = "{};=_"; *p; p++)
		kind_of[(unsigned char)*p] = K_CODE;
	for (const char *p = "?(`"; *p; p++)
		kind_of[(unsigned char)*p] = K_OTHER;
}

static void build_table(void)
{
	for (unsigned i = 0; i < N_CUES; i++) {
		const char *words = cues[i].words, *blank = strchr(words, ' ');
		uint32_t at = cue_hash[i] = hash_bytes(HASH_START, words, strlen(words));

		while (table[at % TABLE])
			at++;
		table[at % TABLE] = (uint16_t)(i + 1);
		if (blank)
			begins_pair[hash_bytes(HASH_START, words, (size_t)(blank - words)) & 255] = true;
	}
}

static const struct cue *find_cue(uint32_t hash, struct str text)
{
	for (uint32_t at = hash; table[at % TABLE]; at++) {
		unsigned i = table[at % TABLE] - 1u;

		if (cue_hash[i] == hash && str_ieq(text, str_of(cues[i].words)))
			return &cues[i];
	}
	return NULL;
}

struct scan {
	int score[TASK_COUNT], code_score[TASK_COUNT];
	unsigned words, code_signs, fences, numbers, questions, hints;
	int lang[LANGS];
};

static void see_language(struct scan *, uint32_t hash, struct str word);

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

struct word { struct str text; uint32_t hash; };        /* the hash of one of up to MAX_WORD bytes */

/* A word alone, and with the one before it when only one blank is between. */
static void see_word(struct scan *s, struct word w, struct word *prev)
{
	const struct cue *c;

	s->hints += w.text.n == 1 && *w.text.p == 'C';
	if (w.text.n <= MAX_WORD) {
		if ((c = find_cue(w.hash, w.text)))
			hit(s, c);
		see_language(s, w.hash, w.text);
	}
	if (begins_pair[prev->hash & 255] && prev->text.n && prev->text.p + prev->text.n + 1 == w.text.p && *(w.text.p - 1) == ' ') {
		struct str pair = str_n(prev->text.p, prev->text.n + 1 + w.text.n);

		if (pair.n <= 2 * MAX_WORD && (c = find_cue(hash_bytes(prev->hash, w.text.p - 1, w.text.n + 1), pair)))
			hit(s, c);
	}
	*prev = w;
	s->words++;
}

static inline uint8_t kind_at(const char *p) { return kind_of[(unsigned char)*p]; }

/* Letters and the like; a semicolon between them as well, as in tl;dr. */
static inline bool in_word(const char *p, const char *end)
{
	return kind_at(p) & K_WORD || (*p == ';' && p + 1 < end && kind_at(p + 1) & K_WORD);
}

static const char *word_end(const char *p, const char *end)
{
	for (;; p++) {
		while (p < end && kind_at(p) & K_WORD)
			p++;
		if (p == end || !in_word(p, end))
			return p;
	}
}

static struct word read_word(const char *p, const char *end)
{
	const char *from = p, *hashed = end - p > MAX_WORD ? p + MAX_WORD : end;
	uint32_t hash = HASH_START;

	for (; p < hashed && in_word(p, end); p++)
		hash = hash_byte(hash, (unsigned char)*p);
	p = word_end(p, end);
	return (struct word){ str_n(from, (size_t)(p - from)), hash };
}

/* Counts what is no word; how many bytes it is long. */
static size_t see_mark(struct scan *s, struct str text, size_t i)
{
	const char *p = text.p + i;

	switch (kind_at(p)) {
	case K_DIGIT:
		s->numbers += i == 0 || kind_at(p - 1) != K_DIGIT;
		return 1;
	case K_HINT:
		s->hints++;
		return 1;
	case K_CODE:
		s->code_signs++;
		return 1;
	}
	s->questions += *p == '?';
	s->code_signs += (*p == '(' && i + 1 < text.n && p[1] == ')') * 3u;
	if (*p == '`' && i + 2 < text.n && p[1] == '`' && p[2] == '`') {
		s->fences++;
		return 3;
	}
	return 1;
}

static void scan_text(struct scan *s, struct str text)
{
	struct word prev = { 0 };

	for (size_t i = 0; i < text.n;) {
		uint8_t kind = kind_at(text.p + i);

		if (kind & K_WORD) {
			struct word w = read_word(text.p + i, text.p + text.n);

			see_word(s, w, &prev);
			i += w.text.n;
		} else {
			i += kind ? see_mark(s, text, i) : 1;
		}
	}
}

/* --- language --- */

/* Words that give a language away, looked up in the same pass; programming languages first, then the smallest words of natural ones. */
enum lang { L_NONE, L_PYTHON, L_C, L_CPP, L_JAVASCRIPT, L_TYPESCRIPT, L_GO, L_RUST, L_JAVA, L_SQL, L_SHELL, L_RUBY, L_PHP, L_CSHARP, L_KOTLIN,
	L_SWIFT, L_HASKELL, L_NATURAL, L_EN = L_NATURAL, L_DE, L_FR, L_ES, L_IT, L_COUNT };
static const char *const lang_names[L_COUNT] = { "", "python", "c", "cpp", "javascript", "typescript", "go", "rust", "java", "sql", "shell", "ruby",
	"php", "csharp", "kotlin", "swift", "haskell", "en", "de", "fr", "es", "it" };
_Static_assert((int)L_COUNT == (int)LANGS, "the scan counts every language");

static const struct lang_word { const char *word; uint8_t lang, weight; } lang_words[] = {
	{ "python", L_PYTHON, 6 }, { "def", L_PYTHON, 3 }, { "numpy", L_PYTHON, 5 }, { "traceback", L_PYTHON, 6 }, { "pytest", L_PYTHON, 5 },
	{ "javascript", L_JAVASCRIPT, 6 }, { "const", L_JAVASCRIPT, 2 }, { "nodejs", L_JAVASCRIPT, 5 }, { "console", L_JAVASCRIPT, 2 },
	{ "typescript", L_TYPESCRIPT, 7 }, { "golang", L_GO, 7 }, { "func", L_GO, 3 }, { "goroutine", L_GO, 6 }, { "rust", L_RUST, 4 },
	{ "fn", L_RUST, 3 }, { "impl", L_RUST, 3 }, { "mut", L_RUST, 4 }, { "java", L_JAVA, 5 }, { "junit", L_JAVA, 5 }, { "sql", L_SQL, 6 },
	{ "postgres", L_SQL, 4 }, { "bash", L_SHELL, 5 }, { "shell", L_SHELL, 4 }, { "awk", L_SHELL, 4 }, { "ruby", L_RUBY, 5 },
	{ "php", L_PHP, 5 }, { "kotlin", L_KOTLIN, 6 }, { "swift", L_SWIFT, 4 }, { "haskell", L_HASKELL, 6 },
	{ "the", L_EN, 2 }, { "is", L_EN, 1 }, { "and", L_EN, 1 }, { "of", L_EN, 2 }, { "to", L_EN, 1 }, { "what", L_EN, 2 }, { "please", L_EN, 2 },
	{ "this", L_EN, 2 }, { "der", L_DE, 2 }, { "die", L_DE, 2 }, { "und", L_DE, 2 }, { "ist", L_DE, 2 }, { "nicht", L_DE, 3 }, { "eine", L_DE, 2 },
	{ "le", L_FR, 2 }, { "les", L_FR, 2 }, { "est", L_FR, 2 }, { "une", L_FR, 2 }, { "des", L_FR, 2 }, { "pour", L_FR, 2 }, { "el", L_ES, 2 },
	{ "los", L_ES, 2 }, { "es", L_ES, 1 }, { "una", L_ES, 1 }, { "para", L_ES, 2 }, { "que", L_ES, 1 }, { "il", L_IT, 2 }, { "che", L_IT, 2 },
	{ "per", L_IT, 2 }, { "sono", L_IT, 2 }, { "della", L_IT, 2 },
};
enum { N_LANG_WORDS = sizeof(lang_words) / sizeof(*lang_words), LANG_TABLE = 256 };
static uint8_t lang_table[LANG_TABLE];
static uint32_t lang_hash[N_LANG_WORDS];

static void build_lang_table(void)
{
	for (unsigned i = 0; i < N_LANG_WORDS; i++) {
		uint32_t at = lang_hash[i] = hash_bytes(HASH_START, lang_words[i].word, strlen(lang_words[i].word));

		while (lang_table[at % LANG_TABLE])
			at++;
		lang_table[at % LANG_TABLE] = (uint8_t)(i + 1);
	}
}

static void see_language(struct scan *s, uint32_t hash, struct str word)
{
	for (uint32_t at = hash; lang_table[at % LANG_TABLE]; at++) {
		unsigned i = lang_table[at % LANG_TABLE] - 1u;

		if (lang_hash[i] == hash && str_ieq(word, str_of(lang_words[i].word))) {
			s->lang[lang_words[i].lang] += lang_words[i].weight;
			return;
		}
	}
}

/* Marks that are not words; looked for only where a sign of code was seen. */
static const struct { const char *mark; uint8_t lang, weight; } marks[] = {
	{ "#include", L_C, 6 }, { "int main(", L_C, 4 }, { " in C", L_C, 3 }, { "```c\n", L_C, 6 }, { "std::", L_CPP, 7 }, { "C++", L_CPP, 6 }, { "c++", L_CPP, 6 },
	{ "cout <<", L_CPP, 5 }, { "self.", L_PYTHON, 3 }, { "```py", L_PYTHON, 6 }, { "=> {", L_JAVASCRIPT, 3 }, { "console.log", L_JAVASCRIPT, 5 },
	{ "```js", L_JAVASCRIPT, 6 }, { ": string", L_TYPESCRIPT, 3 }, { "```ts", L_TYPESCRIPT, 6 }, { "package main", L_GO, 6 }, { ":= ", L_GO, 3 }, { "```go", L_GO, 6 },
	{ "let mut", L_RUST, 6 }, { "```rs", L_RUST, 6 }, { "```rust", L_RUST, 6 }, { "public class", L_JAVA, 5 }, { "System.out", L_JAVA, 6 }, { "SELECT ", L_SQL, 4 },
	{ "INSERT INTO", L_SQL, 5 }, { "```sql", L_SQL, 6 }, { "#!/bin/", L_SHELL, 6 }, { "```sh", L_SHELL, 6 }, { "<?php", L_PHP, 7 }, { "C#", L_CSHARP, 6 },
};

static void find_language(struct features *f, struct scan *s, struct str text)
{
	int best = L_NONE;

	if (text.n > 2048)
		text.n = 2048;            /* a language shows early */
	for (size_t i = 0; (s->code_signs || s->fences || s->hints) && i < sizeof(marks) / sizeof(*marks); i++)
		if (str_find(text, str_of(marks[i].mark)))
			s->lang[marks[i].lang] += marks[i].weight;
	for (int l = 1; l < L_NATURAL; l++)
		if (s->lang[l] > 2 && s->lang[l] > s->lang[best])
			best = l;
	for (int l = L_NATURAL; !best && l < L_COUNT; l++)
		if (s->lang[l] > 2 && s->lang[l] > s->lang[best])
			best = l;
	for (int l = L_NATURAL; best >= L_NATURAL && l < L_COUNT; l++)
		if (s->lang[l] > s->lang[best])
			best = l;
	str_copy(f->language, sizeof(f->language), str_of(lang_names[best]));
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

static void build_tables(void)
{
	build_kinds();
	build_table();
	build_lang_table();
}

void features_extract(struct features *f, const struct feature_text *t)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct scan s = { 0 };
	struct str context = t->context;
	struct scan c = { 0 };
	bool code;

	pthread_once(&once, build_tables);
	memset(f, 0, sizeof(*f));
	scan_text(&s, t->user);
	if (context.n > 1024)
		context.n = 1024;         /* only to see whether it is code */
	scan_text(&c, context);
	find_language(f, &s, t->user);
	if (!*f->language)
		find_language(f, &c, context);
	code = s.fences || s.code_signs > 8 || c.fences || c.code_signs > 8 ||
	       (strlen(f->language) > 2 || strcmp(f->language, "c") == 0 || strcmp(f->language, "go") == 0) ||
	       s.score[TASK_FEATURE] > 0;
	find_task(f, &s, t, code);
	f->complexity = complexity_of(f->task, &s, t);
}
