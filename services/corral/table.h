/* table.h - columns for people: as wide as their widest cell, numbers to the right, cut only where a terminal is too narrow. */
#ifndef CORRAL_CORRAL_TABLE_H
#define CORRAL_CORRAL_TABLE_H
#include "services/corral/cli.h"

enum { TABLE_COLUMNS = 20 };

struct table_cell { const char *text; enum tone tone; };

struct table {
	struct arena *mem;
	unsigned columns, rows, room;
	const char *names[TABLE_COLUMNS];
	bool right[TABLE_COLUMNS];    /* a column of numbers */
	bool cut[TABLE_COLUMNS];      /* may be shortened to fit the terminal */
	struct table_cell *cells;
	unsigned at;                  /* column of the next cell */
};

/* "BACKEND|>SLOTS|~URL": '>' numbers, '~' may be cut. */
void table_init(struct table *, struct arena *, const char *columns);
void table_cell(struct table *, enum tone, struct str);       /* the next cell; a row is full when all columns have one */
void table_fmt(struct table *, enum tone, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Header and rows, each with a newline and no blanks at its end. width 0 = no limit. */
void table_print(const struct table *, struct buf *, unsigned width, bool colour);

unsigned text_width(struct str);      /* characters, not bytes */
#endif
