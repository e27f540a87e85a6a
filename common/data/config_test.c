/* config_test.c - YAML that is read, and YAML that is refused with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/buf.h"
#include "common/data/config.h"

static struct arena *mem;

static void show(struct buf *b, const struct config_node *n)
{
	if (n->kind == CONFIG_SCALAR) {
		buf_printf(b, n->null ? "null" : "'%s'", n->text);
		return;
	}
	buf_char(b, n->kind == CONFIG_MAP ? '{' : '[');
	for (const struct config_node *c = n->first; c; c = c->next) {
		if (c->key)
			buf_printf(b, "%s@%u:%u=", c->key, c->key_line, c->key_column);
		show(b, c);
		if (c->next)
			buf_char(b, ' ');
	}
	buf_char(b, n->kind == CONFIG_MAP ? '}' : ']');
}

/* The tree, or the error's sentence. */
static const char *parsed(const char *text)
{
	static struct buf b;
	static struct why why;
	struct config_node *top;

	buf_clear(&b);
	if (config_parse(mem, "f.yaml", str_of(text), &top, &why) != ERR_OK)
		return why.text;
	show(&b, top);
	return buf_z(&b);
}

static void reads_trees(void **state)
{
	assert_string_equal(parsed(""), "{}");
	assert_string_equal(parsed("# nothing\n---\n"), "{}");
	assert_string_equal(parsed("a: 1\nb-c: [x, 'y z', no]\n# c\nd:\n  e: \"q\\n\"\n  f: ~\n  g:\n"),
			    "{a@1:1='1' b-c@2:1=['x' 'y z' 'no'] d@4:1={e@5:3='q\n' f@6:3=null g@7:3=null}}");
	assert_string_equal(parsed("a: \"\"\nb: 'null'\n"), "{a@1:1='' b@2:1='null'}");
}

static void refuses_with_place(void **state)
{
	assert_string_equal(parsed("a: 1\nb: 2\na: 3\n"), "f.yaml:3:1: 'a' was already given in line 1");
	assert_string_equal(parsed("x-y: 1\nx_y: 2\n"), "f.yaml:2:1: 'x_y' was already given in line 1");
	assert_string_equal(parsed("a:\n  b: 1\n  b: 2\n"), "f.yaml:3:3: 'b' was already given in line 2");
	assert_string_equal(parsed("a: &x 1\n"), "f.yaml:1:4: anchors, aliases, tags and '<<' are not supported; write the value out");
	assert_string_equal(parsed("a: *x\n"), "f.yaml:1:4: anchors, aliases, tags and '<<' are not supported; write the value out");
	assert_string_equal(parsed("a: !!int 1\n"), "f.yaml:1:4: anchors, aliases, tags and '<<' are not supported; write the value out");
	assert_string_equal(parsed("<<: {a: 1}\n"), "f.yaml:1:1: anchors, aliases, tags and '<<' are not supported; write the value out");
	assert_string_equal(parsed("- a\n"), "f.yaml:1:1: expected lines of the form 'option: value'");
	assert_string_equal(parsed("just words\n"), "f.yaml:1:1: expected lines of the form 'option: value'");
	assert_string_equal(parsed("a: 1\n---\nb: 2\n"), "f.yaml:2:1: a second document; one file is one document");
	assert_string_equal(parsed("a: \"x\\0y\"\n"), "f.yaml:1:4: a NUL character in a value");
	assert_string_equal(parsed("[a, b]: 1\n"), "f.yaml:1:1: a key must be a word");
	assert_string_equal(parsed("a: [1, 2\n"), "f.yaml:2:1: did not find expected ',' or ']' while parsing a flow sequence");
	assert_string_equal(parsed("a: 1\n\tb: 2\n"), "f.yaml:2:1: found a tab character that violates indentation while scanning a plain scalar");
	assert_string_equal(parsed("a: \xff\n"), "f.yaml: invalid leading UTF-8 octet at byte 3");
}

static void limits_depth_and_size(void **state)
{
	struct buf b = { 0 };

	buf_addz(&b, "a: ");
	for (int i = 0; i < 15; i++)
		buf_char(&b, '[');
	for (int i = 0; i < 15; i++)
		buf_char(&b, ']');
	assert_string_equal(parsed(buf_z(&b)), "{a@1:1=[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]}");
	assert_string_equal(parsed("a: [[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]"), "f.yaml:1:19: nested deeper than 16 levels");
	buf_clear(&b);
	buf_reserve(&b, CONFIG_MAX_BYTES + 2);
	memset(b.p, '#', CONFIG_MAX_BYTES + 1);
	b.n = CONFIG_MAX_BYTES + 1;
	assert_string_equal(parsed(buf_z(&b)), "f.yaml: larger than 1 MiB");
	buf_free(&b);
}

static void expands_the_environment(void **state)
{
	setenv("CT_HOST", "gpu1", 1);
	setenv("CT_EMPTY", "", 1);
	unsetenv("CT_UNSET");
	assert_string_equal(parsed("a: http://${CT_HOST}:1/$x\n"), "{a@1:1='http://gpu1:1/$x'}");
	assert_string_equal(parsed("a: '${CT_UNSET:-7}${CT_EMPTY:-8}${CT_EMPTY}'\n"), "{a@1:1='78'}");
	assert_string_equal(parsed("a: $${CT_HOST} $\n"), "{a@1:1='${CT_HOST} $'}");
	assert_string_equal(parsed("\na: x${CT_UNSET}\n"), "f.yaml:2:4: the environment has no CT_UNSET (write ${CT_UNSET:-default} to do without)");
	assert_string_equal(parsed("a: ${CT_HOST\n"), "f.yaml:1:4: '${' without '}' (write '$${' for a literal '${')");
}

static void says_why_a_file_is_not_read(void **state)
{
	struct config_node *top;
	struct why why;

	assert_int_equal(config_load(mem, "/nowhere/f.yaml", &top, &why), ERR_INVALID);
	assert_string_equal(why.text, "/nowhere/f.yaml: cannot be read: No such file or directory");
	assert_int_equal(config_load(mem, "/", &top, &why), ERR_INVALID);
	assert_string_equal(why.text, "/: cannot be read: Is a directory");
}

static int setup(void **state) { mem = arena_new(0); return 0; }
static int teardown(void **state) { arena_free(mem); return 0; }

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_trees), cmocka_unit_test(refuses_with_place), cmocka_unit_test(limits_depth_and_size),
		cmocka_unit_test(expands_the_environment), cmocka_unit_test(says_why_a_file_is_not_read),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
