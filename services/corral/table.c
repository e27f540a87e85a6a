/* table.c - see table.h. */
#include "services/corral/table.h"

enum { GAP = 2, LEAST = 8 };      /* blanks between columns; a cut column keeps so many characters */

unsigned text_width(struct str s)
{
	unsigned n = 0;

	for (size_t i = 0; i < s.n; i++)
		n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
	return n;
}

void table_init(struct table *t, struct arena *mem, const char *columns)
{
	struct str rest = str_of(columns), name;

	*t = (struct table){ .mem = mem };
	while (t->columns < TABLE_COLUMNS && str_split(&rest, '|', &name)) {
		t->right[t->columns] = str_starts(name, STR(">"));
		t->cut[t->columns] = str_starts(name, STR("~"));
		if (t->right[t->columns] || t->cut[t->columns])
			name = str_from(name, 1);
		t->names[t->columns++] = arena_str(mem, name).p;
	}
}

static void make_room(struct table *t)
{
	struct table_cell *more;

	if (t->rows < t->room)
		return;
	more = arena_array(t->mem, struct table_cell, (t->room * 2 + 16) * t->columns);
	if (t->cells)
		memcpy(more, t->cells, sizeof(*more) * t->rows * t->columns);
	t->cells = more;
	t->room = t->room * 2 + 16;
}

void table_cell(struct table *t, enum tone tone, struct str text)
{
	struct buf clean = { 0 };

	if (t->at == 0) {
		make_room(t);
		t->rows++;
	}
	add_shown(&clean, text, false);
	t->cells[(t->rows - 1) * t->columns + t->at] = (struct table_cell){ arena_str(t->mem, buf_as_str(&clean)).p, tone };
	t->at = (t->at + 1) % t->columns;
	buf_free(&clean);
}

void table_fmt(struct table *t, enum tone tone, const char *fmt, ...)
{
	struct buf text = { 0 };
	va_list ap;

	va_start(ap, fmt);
	buf_vprintf(&text, fmt, ap);
	va_end(ap);
	table_cell(t, tone, buf_as_str(&text));
	buf_free(&text);
}

static struct table_cell cell_at(const struct table *t, unsigned row, unsigned column)
{
	struct table_cell c = t->cells[row * t->columns + column];

	return c.text ? c : (struct table_cell){ "", TONE_PLAIN };
}

static unsigned measure(const struct table *t, unsigned *width)
{
	unsigned sum = GAP * (t->columns - 1);

	for (unsigned c = 0; c < t->columns; c++) {
		width[c] = text_width(str_of(t->names[c]));
		for (unsigned r = 0; r < t->rows; r++) {
			unsigned w = text_width(str_of(cell_at(t, r, c).text));

			width[c] = w > width[c] ? w : width[c];
		}
		sum += width[c];
	}
	return sum;
}

/* Takes from the widest column that may be cut, one character at a time, until the line fits or nothing is left to take. */
static void shrink(const struct table *t, unsigned *width, unsigned sum, unsigned limit)
{
	while (limit && sum > limit) {
		unsigned widest = t->columns;

		for (unsigned c = 0; c < t->columns; c++)
			if (t->cut[c] && width[c] > LEAST && (widest == t->columns || width[c] > width[widest]))
				widest = c;
		if (widest == t->columns)
			return;
		width[widest]--, sum--;
	}
}

/* The first n characters. */
static struct str text_head(struct str s, unsigned n)
{
	size_t i = 0;

	for (unsigned seen = 0; i < s.n; i++) {
		seen += ((unsigned char)s.p[i] & 0xc0) != 0x80;
		if (seen > n)
			break;
	}
	return str_n(s.p, i);
}

static void add_cell(struct buf *b, struct table_cell cell, unsigned width, bool right, bool colour)
{
	struct str text = str_of(cell.text);
	bool cut = text_width(text) > width;
	unsigned shown = cut ? width : text_width(text);

	if (right)
		buf_printf(b, "%*s", (int)(width - shown), "");
	buf_addz(b, tone_on(colour, cell.tone));
	buf_str(b, cut ? text_head(text, width - 1) : text);
	if (cut)
		buf_addz(b, "…");
	buf_addz(b, tone_off(colour, cell.tone));
	if (!right)
		buf_printf(b, "%*s", (int)(width - shown), "");
}

static void end_line(struct buf *b, size_t start)
{
	while (b->n > start && b->p[b->n - 1] == ' ')
		b->n--;
	buf_char(b, '\n');
}

void table_print(const struct table *t, struct buf *b, unsigned limit, bool colour)
{
	unsigned width[TABLE_COLUMNS];

	shrink(t, width, measure(t, width), limit);
	for (unsigned r = 0; r <= t->rows; r++) {
		size_t start = b->n;

		for (unsigned c = 0; c < t->columns; c++) {
			struct table_cell head = { t->names[c], TONE_STRONG };

			add_cell(b, r ? cell_at(t, r - 1, c) : head, width[c], t->right[c], colour);
			if (c + 1 < t->columns)
				buf_addz(b, "  ");
		}
		end_line(b, start);
	}
}
