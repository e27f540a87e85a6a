/* yaml_fuzz.c - any bytes as a configuration file: parsed or refused with a place; what options made of it, printed as
 * --check-config prints it, reads back as the same. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/data/config.h"
#include "common/data/opt_value.h"

#define CHECK(cond) ((cond) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond), abort()))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct values {
	const char *text, *word;
	bool on;
	int64_t n, time, room;
	double share;
	struct opt_list list;
};

static const struct opt table[] = {
	OPT(struct values, STRING, text, "", ""), OPT(struct values, ENUM, word, "auto", "", .words = "auto json text"),
	OPT(struct values, BOOL, on, "no", ""), OPT(struct values, INT, n, "0", "", .min = -5, .max = 1000000),
	OPT(struct values, DURATION, time, "1s", ""), OPT(struct values, BYTES, room, "1k", ""),
	OPT(struct values, NUMBER, share, "0", ""), OPT(struct values, LIST, list, "", "", .shape = "name=kind+url;slots;note"), OPT_END
};
enum { N_OPTIONS = sizeof(table) / sizeof(table[0]) - 1 };

static void set(const struct config_node *n, struct values *v, struct arena *mem)
{
	struct why why = { 0 };
	enum err err;

	for (const struct opt *o = table; o->name; o++) {
		if (n->kind == CONFIG_SCALAR)
			err = opt_value_parse(o, n->text, v, mem, "x", &why);
		else if (o->type == OPT_T_LIST)
			err = opt_list_from_yaml(o, n, "f", mem, &v->list, &why);
		else
			continue;
		CHECK(err == ERR_OK || (err == ERR_INVALID && why.text[0]));
	}
}

static void walk(const struct config_node *n, unsigned depth, struct values *v, struct arena *mem)
{
	CHECK(depth <= CONFIG_MAX_DEPTH && n->line > 0 && n->column > 0 && n->text);
	set(n, v, mem);
	for (const struct config_node *c = n->first; c; c = c->next)
		walk(c, depth + 1, v, mem);
}

static void same(const struct values *a, const struct values *b)
{
	CHECK(strcmp(a->text, b->text) == 0 && strcmp(a->word, b->word) == 0);
	CHECK(a->on == b->on && a->n == b->n && a->time == b->time && a->room == b->room && a->list.n == b->list.n);
	for (size_t i = 0; i < a->list.n; i++)
		CHECK(strcmp(a->list.items[i], b->list.items[i]) == 0);
}

static void round_trip(struct values *v, struct arena *mem)
{
	static const char *sources[N_OPTIONS] = { "a", "b", "c", "d", "e", "f", "g", "h" };
	struct opt_set out = { table, v, "all", sources };
	struct values back = { .text = "", .word = "" };
	struct config_node *top;
	struct buf b = { 0 };
	struct why why;

	opt_print(&b, &out, 1);
	CHECK(config_parse(mem, "printed", buf_as_str(&b), &top, &why) == ERR_OK);
	for (const struct config_node *n = top->first; n; n = n->next)
		for (const struct opt *o = table; o->name; o++)
			if (strcmp(o->name, n->key) == 0)
				CHECK((o->type == OPT_T_LIST ? opt_list_from_yaml(o, n, "f", mem, &back.list, &why) :
				       opt_value_parse(o, n->text, &back, mem, "x", &why)) == ERR_OK);
	if (!strstr(buf_z(&b), "***"))            /* a password in a URL is not printed */
		same(v, &back);
	buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena *mem = arena_new(0);
	struct values v = { .text = "", .word = "auto" };
	struct why why = { 0 };
	struct config_node *top;

	if (config_parse(mem, "f", str_n((const char *)data, size), &top, &why) == ERR_OK) {
		CHECK(top->kind == CONFIG_MAP);
		walk(top, 0, &v, mem);
		round_trip(&v, mem);
	} else {
		CHECK(strncmp(why.text, "f:", 2) == 0);
	}
	arena_free(mem);
	return 0;
}
