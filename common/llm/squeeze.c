/* squeeze.c - see squeeze.h. One pass; blocks are found again by a hash and compared. */
#include "common/llm/squeeze.h"

#include "common/base/buf.h"
#include "common/data/json_write.h"
#include "common/llm/text.h"

struct squeezing {
	struct arena *mem;
	struct buf out;
	struct str *seen;             /* blocks that came, by their hash; places in 'out' would move, so these are copies of the lines that were read */
	uint32_t mask;
	struct buf block;             /* the one that is being read */
	bool in_fence;
	char fence;                   /* '`' or '~' */
};

static struct str without_blanks(struct str line)
{
	while (line.n && (line.p[line.n - 1] == ' ' || line.p[line.n - 1] == '\t' || line.p[line.n - 1] == '\r'))
		line.n--;
	return line;
}

/* ``` or ~~~, after at most three blanks. */
static char fence_of(struct str line)
{
	unsigned blanks = 0;

	while (blanks < 3 && blanks < line.n && line.p[blanks] == ' ')
		blanks++;
	line = str_from(line, blanks);
	return str_starts(line, STR("```")) ? '`' : str_starts(line, STR("~~~")) ? '~' : 0;
}

static bool came_before(struct squeezing *s, struct str block)
{
	uint32_t at = (uint32_t)str_hash(block, 1) & s->mask;

	for (; s->seen[at].n; at = (at + 1) & s->mask)
		if (str_eq(s->seen[at], block))
			return true;
	s->seen[at] = arena_str(s->mem, block);
	return false;
}

static void end_block(struct squeezing *s)
{
	struct str block = buf_as_str(&s->block);

	if (!block.n)
		return;
	if (s->out.n)
		buf_addz(&s->out, "\n\n");
	if (block.n >= SQUEEZE_LEAST && came_before(s, block))
		buf_addz(&s->out, SQUEEZE_MARK);
	else
		buf_str(&s->out, block);
	buf_clear(&s->block);
}

static void add_line(struct squeezing *s, struct str line)
{
	if (s->block.n)
		buf_char(&s->block, '\n');
	buf_str(&s->block, line);
}

static void read_line(struct squeezing *s, struct str line)
{
	char fence;

	line = without_blanks(line);
	fence = fence_of(line);
	if (s->in_fence) {
		add_line(s, line);
		if (fence == s->fence)
			s->in_fence = false;
		return;
	}
	if (!line.n) {
		end_block(s);
		return;
	}
	if (fence) {
		s->in_fence = true;
		s->fence = fence;
	}
	add_line(s, line);
}

static uint32_t table_size(struct str text)
{
	uint32_t size = 64;

	while (size < 2 * (text.n / SQUEEZE_LEAST + 1))
		size *= 2;
	return size;
}

struct str llm_squeeze(struct str text, struct arena *mem)
{
	struct squeezing s = { .mem = mem, .mask = table_size(text) - 1 };
	struct str rest = text, line, squeezed;

	s.seen = arena_array(mem, struct str, s.mask + 1u);
	while (str_split(&rest, '\n', &line))
		read_line(&s, line);
	end_block(&s);
	squeezed = s.out.n < text.n ? arena_str(mem, buf_as_str(&s.out)) : text;
	buf_free(&s.out);
	buf_free(&s.block);
	return squeezed;
}

struct str llm_squeeze_body(struct str body, struct arena *mem)
{
	struct json_edit edit;
	struct buf out = { 0 };
	struct str text, squeezed;
	struct json doc;
	uint32_t context;

	if (json_parse(&doc, mem, body, NULL, NULL) != ERR_OK || !(context = json_get(&doc, 0, "context")) || !json_is_string(&doc, context))
		return body;              /* what is wrong with it is said by who reads it */
	text = json_string(&doc, context, mem);
	squeezed = llm_squeeze(text, mem);
	if (squeezed.n == text.n)
		return body;
	edit = json_edit_value(&doc, context, text_quote(squeezed, mem));
	json_splice(&out, body, &edit, 1);
	body = arena_str(mem, buf_as_str(&out));
	buf_free(&out);
	return body;
}
