/* opt_test.c - precedence, types, names, places, and the sentences an operator reads at night. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#include "common/data/opt.h"

struct conf {
	const char *listen, *key, *mode;
	bool fast;
	int64_t workers, drain, room;
	double share;
	struct opt_list backends, tags, place;
};
struct other { const char *listen; };

static const struct opt table[] = {
	OPT(struct conf, STRING, listen, "127.0.0.1:8100", "Where clients connect.", .aliases = "OT_LISTEN, OT_HOST"),
	OPT(struct conf, SECRET, key, "", "The key of the | upstream.", .live = true),
	OPT(struct conf, ENUM, mode, "auto", "How.", .words = "auto json text"),
	OPT(struct conf, BOOL, fast, "no", "Be fast."),
	OPT(struct conf, INT, workers, "2", "Threads.", .min = 1, .max = 64),
	OPT(struct conf, DURATION, drain, "5m", "Time that answers in progress may take after SIGTERM before they are broken off.", .min = 0, .max = 86400000),
	OPT(struct conf, BYTES, room, "64k", "Room."),
	OPT(struct conf, NUMBER, share, "0.5", "Share.", .min = 0, .max = 1),
	OPT(struct conf, LIST, backends, "", "Model servers.", .shape = "name=kind+url;slots"),
	OPT(struct conf, LIST, tags, "a, b", "Tags."),
	OPT(struct conf, LIST, place, "", "Where they are.", .keyed = true),
	OPT_END
};
static const struct opt other_table[] = { OPT(struct other, STRING, listen, "x", "Another."), OPT_END };

static struct arena *mem;
static struct conf c;
static struct other other;
static struct why why;
static struct opt_list args;
static struct opt_set sets[2] = { { table, &c, "first", NULL }, { other_table, &other, "second", NULL } };
static char file[64];

static enum err load(char *first, char *second)
{
	char *argv[] = { "program", first, second, NULL };

	memset(&c, 0, sizeof(c));
	why.text[0] = '\0';
	args = (struct opt_list){ 0 };
	return opt_load(sets, 2, first ? second ? 3 : 2 : 1, argv, mem, &args, &why);
}

static enum err load_yaml(const char *text)
{
	FILE *f = fopen(file, "w");

	fputs(text, f);
	fclose(f);
	return load("--config", file);
}

static const char *refused(enum err e)
{
	assert_int_equal(e, ERR_INVALID);
	return why.text;
}

/* The sentence after the file's name. */
static const char *refused_yaml(const char *text)
{
	return refused(load_yaml(text)) + strlen(file);
}

static void has_defaults(void **state)
{
	assert_int_equal(load(NULL, NULL), ERR_OK);
	assert_string_equal(c.listen, "127.0.0.1:8100");
	assert_string_equal(other.listen, "x");
	assert_string_equal(c.key, "");
	assert_string_equal(c.mode, "auto");
	assert_true(!c.fast && c.workers == 2 && c.drain == 300000 && c.room == 65536 && c.share == 0.5);
	assert_int_equal(c.backends.n, 0);
	assert_int_equal(c.tags.n, 2);
	assert_string_equal(c.tags.items[1], "b");
}

static void later_sources_win(void **state)
{
	assert_int_equal(load_yaml("listen: f:1\nworkers: 3\ndrain: 7s\n"), ERR_OK);
	assert_true(strcmp(c.listen, "f:1") == 0 && strcmp(other.listen, "f:1") == 0 && c.workers == 3 && c.drain == 7000);
	setenv("CORRAL_LISTEN", "e:1", 1);
	setenv("CORRAL_WORKERS", "4", 1);
	setenv("CORRAL_DRAIN", "", 1);            /* empty: not set */
	setenv("CORRAL_CONFIG", file, 1);
	assert_int_equal(load("--listen=g:1", NULL), ERR_OK);
	assert_string_equal(c.listen, "g:1");
	assert_string_equal(other.listen, "g:1");
	assert_true(c.workers == 4 && c.drain == 7000);
	assert_string_equal(sets[0].sources[0], "--listen");
	assert_string_equal(sets[0].sources[4], "environment CORRAL_WORKERS");
	assert_string_equal(sets[0].sources[5] + strlen(file), ":3");
	assert_string_equal(sets[0].sources[9], "default");
	unsetenv("CORRAL_LISTEN");
	unsetenv("CORRAL_WORKERS");
	unsetenv("CORRAL_DRAIN");
	unsetenv("CORRAL_CONFIG");
}

static void honours_aliases(void **state)
{
	setenv("OT_HOST", "h:2", 1);
	assert_int_equal(load(NULL, NULL), ERR_OK);
	assert_string_equal(c.listen, "h:2");
	assert_string_equal(sets[0].sources[0], "environment OT_HOST");
	assert_string_equal(other.listen, "x");
	setenv("OT_LISTEN", "h:1", 1);
	assert_int_equal(load(NULL, NULL), ERR_OK);
	assert_string_equal(c.listen, "h:1");
	unsetenv("OT_HOST");
	unsetenv("OT_LISTEN");
}

static void reads_flags(void **state)
{
	assert_int_equal(load("--listen", "a:1"), ERR_OK);
	assert_string_equal(c.listen, "a:1");
	assert_int_equal(load("--fast", "more"), ERR_OK);
	assert_true(c.fast && args.n == 1 && strcmp(args.items[0], "more") == 0);
	assert_int_equal(load("--fast", "--no-fast"), ERR_OK);
	assert_false(c.fast);
	assert_int_equal(load("--fast=On", "-"), ERR_OK);
	assert_true(c.fast && args.n == 1);
	assert_int_equal(load("--", "--fast"), ERR_OK);
	assert_true(!c.fast && args.n == 1 && strcmp(args.items[0], "--fast") == 0);
	assert_int_equal(load("--tags=x,y", "--tags=z"), ERR_OK);
	assert_int_equal(c.tags.n, 3);
	assert_string_equal(c.tags.items[2], "z");
}

static void reads_units(void **state)
{
	static const struct { char *arg; int64_t drain, room; } t[] = {
		{ "--drain=500ms", 500, 65536 }, { "--drain=30s", 30000, 65536 }, { "--drain=1.5h", 5400000, 65536 }, { "--drain=1d", 86400000, 65536 },
		{ "--drain=8", 8000, 65536 }, { "--drain=0", 0, 65536 }, { "--room=10", 300000, 10 }, { "--room=2M", 300000, 2097152 },
		{ "--room=1 GiB", 300000, 1073741824 }, { "--room=3KiB", 300000, 3072 },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		assert_int_equal(load(t[i].arg, NULL), ERR_OK);
		assert_true(c.drain == t[i].drain && c.room == t[i].room);
	}
}

static void refuses_values(void **state)
{
	assert_string_equal(refused(load("--drain=5x", NULL)), "--drain: '5x' is not a duration (like 500ms, 30s, 5m, 24h or 7d)");
	assert_string_equal(why.field, "drain");
	assert_string_equal(refused(load("--drain=-5s", NULL)), "--drain: '-5s' is not a duration (like 500ms, 30s, 5m, 24h or 7d)");
	assert_string_equal(refused(load("--drain=8d", NULL)), "--drain: '8d' is not between 0s and 1d");
	assert_string_equal(refused(load("--drain=", NULL)), "--drain: '' is not a duration (like 500ms, 30s, 5m, 24h or 7d)");
	assert_string_equal(refused(load("--room=3KB", NULL)), "--room: '3KB' is not a size (like 4096, 64k, 8m or 1g)");
	assert_string_equal(refused(load("--workers", "two")), "--workers: 'two' is not a whole number");
	assert_string_equal(refused(load("--workers=0", NULL)), "--workers: '0' is not between 1 and 64");
	assert_string_equal(refused(load("--share=1.5", NULL)), "--share: '1.5' is not between 0 and 1");
	assert_string_equal(refused(load("--share=nan", NULL)), "--share: 'nan' is not a number");
	assert_string_equal(refused(load("--fast=maybe", NULL)), "--fast: 'maybe' is not true or false");
	assert_string_equal(refused(load("--mode=jsn", NULL)), "--mode: 'jsn' is not one of: auto json text; did you mean 'json'?");
	assert_string_equal(refused(load("--mode=quiet", NULL)), "--mode: 'quiet' is not one of: auto json text");
	assert_string_equal(refused(load("--listen", NULL)), "--listen: a value is missing (write --listen=VALUE)");
	assert_string_equal(refused(load("--listen", "--fast")), "--listen: a value is missing (write --listen=VALUE)");
	setenv("CORRAL_WORKERS", "99", 1);
	assert_string_equal(refused(load(NULL, NULL)), "environment CORRAL_WORKERS: '99' is not between 1 and 64");
	unsetenv("CORRAL_WORKERS");
	assert_string_equal(refused_yaml("\nworkers: many\n"), ":2:10: workers: 'many' is not a whole number");
	assert_string_equal(refused_yaml("workers: [1]\n"), ":1:10: workers: expected one value, not a list");
}

static void names_the_nearest(void **state)
{
	assert_string_equal(refused(load("--lisen=x", NULL)), "unknown option '--lisen'; did you mean '--listen'?");
	assert_string_equal(refused(load("--quite-another", NULL)), "unknown option '--quite-another'; --help lists them");
	assert_string_equal(refused(load("-x", NULL)), "unknown option '-x'; --help lists them");
	assert_string_equal(refused_yaml("fast: yes\nbakends: a\n"), ":2:1: unknown option 'bakends'; did you mean 'backends'?");
	assert_string_equal(refused_yaml("zzzzzzz: a\n"), ":1:1: unknown option 'zzzzzzz'; --help lists them");
	assert_string_equal(refused_yaml("config: other.yaml\n"), ":1:1: unknown option 'config'; --help lists them");
	assert_string_equal(refused_yaml("fast: 1\n\nfast: 0\n"), ":3:1: 'fast' was already given in line 1");
	assert_string_equal(refused(load("--config", "/nowhere.yaml")), "/nowhere.yaml: cannot be read: No such file or directory");
	assert_string_equal(refused(load("--config", NULL)), "--config: a value is missing (write --config=FILE)");
}

static void warns_of_unread_names(void **state)
{
	struct opt_list l;

	setenv("CORRAL_LISEN", "x", 1);
	setenv("CORRAL_NOTHING_LIKE_IT", "x", 1);
	setenv("CORRAL_URL", "x", 1);
	setenv("CORRAL_KEY_FILE", "x", 1);
	setenv("CORRAL_GATEWAY_PORT_8100_TCP", "tcp://10.0.0.1:8100", 1);
	opt_unknown_env(sets, 2, mem, &l);
	assert_int_equal(l.n, 2);
	for (size_t i = 0; i < l.n; i++)
		assert_true(strcmp(l.items[i], "nothing reads CORRAL_LISEN of the environment; did you mean CORRAL_LISTEN?") == 0 ||
			    strcmp(l.items[i], "nothing reads CORRAL_NOTHING_LIKE_IT of the environment") == 0);
	unsetenv("CORRAL_LISEN");
	unsetenv("CORRAL_NOTHING_LIKE_IT");
	unsetenv("CORRAL_URL");
	unsetenv("CORRAL_KEY_FILE");
	unsetenv("CORRAL_GATEWAY_PORT_8100_TCP");
}

static void shapes_lists(void **state)
{
	static const char *const same[] = {
		"backends: g1=ollama+http://h:1;slots=4, g2=vllm+http://i\n",
		"backends: [g1=ollama+http://h:1;slots=4, g2=vllm+http://i]\n",
		"backends:\n  - {name: g1, kind: ollama, url: 'http://h:1', slots: 4}\n  - g2=vllm+http://i\n",
		"backends:\n  g1: {kind: ollama, url: 'http://h:1', slots: 4}\n  g2: vllm+http://i\n",
	};

	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
		assert_int_equal(load_yaml(same[i]), ERR_OK);
		assert_int_equal(c.backends.n, 2);
		assert_string_equal(c.backends.items[0], "g1=ollama+http://h:1;slots=4");
		assert_string_equal(c.backends.items[1], "g2=vllm+http://i");
	}
	assert_int_equal(load_yaml("tags:\n  fast: m1\n  slow: 'm2,m3'\nbackends:\n"), ERR_OK);
	assert_string_equal(c.tags.items[1], "slow=m2,m3");
	assert_int_equal(c.backends.n, 0);
	assert_string_equal(refused_yaml("backends:\n  - {name: a, kind: b}\n"), ":2:5: backends: 'url' is missing (an item has: name=kind+url;slots)");
	assert_string_equal(refused_yaml("backends:\n  - {name: a, kid: b}\n"), ":2:15: backends: unknown key 'kid' (an item has: name=kind+url;slots)");
	assert_string_equal(refused_yaml("backends:\n  - {name: [a], kind: b}\n"), ":2:12: backends: 'name' must be one value");
	assert_string_equal(refused_yaml("backends: [[a]]\n"), ":1:12: backends: a list in a list");
	assert_string_equal(refused_yaml("tags: [{a: b}]\n"), ":1:8: tags: expected texts, not mappings");
}

/* The last of a name is the one that counts, so each source adds. */
static void takes_items_by_name(void **state)
{
	setenv("CORRAL_PLACE_TWO_WORDS", "tcp://b:1,tcp://c:1", 1);
	assert_int_equal(load_yaml("place: {one: a, two-words: b}"), ERR_OK);
	assert_int_equal(c.place.n, 3);
	assert_string_equal(c.place.items[0], "one=a");
	assert_string_equal(c.place.items[2], "two-words=tcp://b:1,tcp://c:1");
	assert_int_equal(load((char *)"--place.three=c,d", (char *)"--place.one"), ERR_INVALID);
	assert_string_equal(why.text, "--place.one: a value is missing (write --place.one=VALUE)");
	assert_int_equal(load((char *)"--place.three=c,d", (char *)"--place.one=e"), ERR_OK);
	assert_int_equal(c.place.n, 3);
	assert_string_equal(c.place.items[1], "three=c,d");
	assert_string_equal(c.place.items[2], "one=e");
	struct opt_list unread;

	opt_unknown_env(sets, 2, mem, &unread);
	assert_int_equal(unread.n, 0);
	unsetenv("CORRAL_PLACE_TWO_WORDS");
	assert_int_equal(load((char *)"--tags.x=1", NULL), ERR_INVALID);
	assert_int_equal(load((char *)"--place.=1", NULL), ERR_INVALID);
}

static void reads_secrets_from_files(void **state)
{
	char path[] = "/tmp/opt_test.XXXXXX", arg[64];
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "s3cret\n", 7), 7);
	close(fd);
	snprintf(arg, sizeof(arg), "--key-file=%s", path);
	assert_int_equal(load(arg, NULL), ERR_OK);
	assert_string_equal(c.key, "s3cret");
	setenv("CORRAL_KEY_FILE", path, 1);
	assert_int_equal(load(NULL, NULL), ERR_OK);
	assert_string_equal(c.key, "s3cret");
	unlink(path);
	assert_non_null(strstr(refused(load(NULL, NULL)), "cannot be read: No such file or directory"));
	unsetenv("CORRAL_KEY_FILE");
}

static void prints_itself(void **state)
{
	struct buf b = { 0 };

	assert_int_equal(load("--key=abc", "--room=3m"), ERR_OK);
	opt_print(&b, sets, 2);
	assert_non_null(strstr(buf_z(&b), "key: \"***\"                                        # --key\n"));
	assert_non_null(strstr(b.p, "room: 3m                                          # --room\n"));
	assert_non_null(strstr(b.p, "tags: [\"a\", \"b\"]                                  # default\n"));
	assert_null(strstr(b.p, "abc"));
	buf_clear(&b);
	opt_help(&b, sets, 2);
	assert_non_null(strstr(buf_z(&b), "\nfirst:\n  --listen=TEXT               Where clients connect. (default 127.0.0.1:8100; restart)\n"));
	assert_non_null(strstr(b.p, "  --drain=TIME                Time that answers in progress may take after SIGTERM before they are\n"
				    "                              broken off. (default 5m; restart)\n"));
	assert_non_null(strstr(b.p, "  --[no-]fast                 Be fast."));
	assert_non_null(strstr(b.p, "  --mode=auto|json|text       How."));
	assert_null(strstr(b.p, "second"));
	buf_clear(&b);
	opt_dump(&b, sets, 2);
	assert_non_null(strstr(buf_z(&b), "| `listen` | `CORRAL_LISTEN`, `OT_LISTEN`, `OT_HOST` | `127.0.0.1:8100` | text | restart | Where clients connect. |\n"));
	assert_non_null(strstr(b.p, "| `key` | `CORRAL_KEY`, `CORRAL_KEY_FILE` | – | secret | SIGHUP | The key of the \\| upstream. |\n"));
	assert_non_null(strstr(b.p, "| `drain` | `CORRAL_DRAIN` | `5m` | duration, 0s to 1d |"));
	buf_free(&b);
}

/* What --check-config prints can be used as a file. */
static void prints_what_it_reads(void **state)
{
	struct buf b = { 0 };

	assert_int_equal(load("--listen=a\"b\\${X}\t", "--backends=g1=ollama+http://h"), ERR_OK);
	opt_print(&b, sets, 2);
	assert_int_equal(load_yaml(buf_z(&b)), ERR_OK);
	assert_string_equal(c.listen, "a\"b\\${X}\t");
	assert_string_equal(c.backends.items[0], "g1=ollama+http://h");
	buf_free(&b);
}

static int setup(void **state)
{
	mem = arena_new(0);
	snprintf(file, sizeof(file), "/tmp/opt_test.%d.yaml", (int)getpid());
	return 0;
}

static int teardown(void **state)
{
	unlink(file);
	arena_free(mem);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(has_defaults), cmocka_unit_test(later_sources_win), cmocka_unit_test(honours_aliases),
		cmocka_unit_test(reads_flags), cmocka_unit_test(reads_units), cmocka_unit_test(refuses_values),
		cmocka_unit_test(names_the_nearest), cmocka_unit_test(warns_of_unread_names), cmocka_unit_test(shapes_lists),
		cmocka_unit_test(takes_items_by_name), cmocka_unit_test(reads_secrets_from_files), cmocka_unit_test(prints_itself),
		cmocka_unit_test(prints_what_it_reads),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
