/* plot.c - see plot.h. */
#include "services/corral/plot.h"

#include <math.h>
#include <stdbool.h>

enum { LABEL = 9, WIDTH_LEAST = 30, HEIGHT_LEAST = 5, COLUMNS_MOST = 400, HEIGHT_MOST = 100 };

struct picture {
	unsigned columns, rows;
	double x_end, top, bottom;
	const struct plot_point *at[COLUMNS_MOST];       /* the last one of each column; NULL = none */
};

static bool is_drawn(const struct plot_point *p) { return isfinite(p->x) && isfinite(p->middle); }

static unsigned between(unsigned v, unsigned least, unsigned most) { return v < least ? least : v > most ? most : v; }

static void place(struct picture *pic, const struct plot_point *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (is_drawn(&p[i]))
			pic->x_end = fmax(pic->x_end, p[i].x);
	for (size_t i = 0; i < n; i++)
		if (is_drawn(&p[i]) && p[i].x >= 0)
			pic->at[pic->x_end > 0 ? (unsigned)(p[i].x / pic->x_end * (pic->columns - 1)) : 0] = &p[i];
}

static void widen(struct picture *pic, double y)
{
	if (!isfinite(y))
		return;
	pic->top = fmax(pic->top, y);
	pic->bottom = fmin(pic->bottom, y);
}

/* 0 and all values are in it, and the bounds of the later half. */
static void scale(struct picture *pic)
{
	for (unsigned c = 0; c < pic->columns; c++) {
		if (!pic->at[c])
			continue;
		widen(pic, pic->at[c]->middle);
		if (c >= pic->columns / 2) {
			widen(pic, pic->at[c]->low);
			widen(pic, pic->at[c]->high);
		}
	}
	if (pic->top - pic->bottom < 1e-9) {
		pic->top += 1;
		pic->bottom -= 1;
	}
}

/* Of the picture, or one beyond it: -1, or as many as it has. */
static int row_of(const struct picture *pic, double y)
{
	double row = round((pic->top - y) / (pic->top - pic->bottom) * (pic->rows - 1));

	return row < 0 ? -1 : row >= pic->rows ? (int)pic->rows : (int)row;
}

static char mark(const struct picture *pic, const struct plot_point *p, int row)
{
	int high, low;

	if (!p || !is_drawn(p))
		return ' ';
	if (row_of(pic, p->middle) == row)
		return '*';
	high = row_of(pic, isnan(p->high) ? p->middle : p->high);
	low = row_of(pic, isnan(p->low) ? p->middle : p->low);
	if (row < high || row > low)
		return ' ';
	return (row == 0 && high < 0) || (row == (int)pic->rows - 1 && low >= (int)pic->rows) ? ':' : '|';
}

static void end_line(struct buf *out, size_t from)
{
	while (out->n > from && out->p[out->n - 1] == ' ')
		out->n--;
	buf_char(out, '\n');
}

static void line(struct buf *out, const struct picture *pic, int row)
{
	bool zero = row == row_of(pic, 0);
	size_t from = out->n;

	if (zero)
		buf_printf(out, "%*s +", LABEL - 2, "0");
	else if (row == 0 || row == (int)pic->rows - 1)
		buf_printf(out, "%*.3g |", LABEL - 2, row ? pic->bottom : pic->top);
	else
		buf_printf(out, "%*s |", LABEL - 2, "");
	for (unsigned c = 0; c < pic->columns; c++) {
		char m = mark(pic, pic->at[c], row);

		buf_char(out, m == ' ' && zero ? '-' : m);
	}
	end_line(out, from);
}

void plot_bounds(struct buf *out, const struct plot *look, const struct plot_point *p, size_t n)
{
	struct picture pic = { .columns = between(look->width, WIDTH_LEAST, COLUMNS_MOST + LABEL) - LABEL, .rows = between(look->height, HEIGHT_LEAST, HEIGHT_MOST) };

	place(&pic, p, n);
	if (!(pic.x_end > 0)) {
		buf_addz(out, "nothing to plot yet\n");
		return;
	}
	scale(&pic);
	buf_printf(out, "%s\n", look->y_name);
	for (unsigned row = 0; row < pic.rows; row++)
		line(out, &pic, (int)row);
	buf_printf(out, "%*s0%*.0f %s\n", LABEL, "", (int)pic.columns - 2 - (int)strlen(look->x_name), pic.x_end, look->x_name);
}
