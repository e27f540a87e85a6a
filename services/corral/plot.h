/* plot.h - bounds that close in on a value, drawn as text: what is known of a difference, by how much was seen. Pure. */
#ifndef CORRAL_CORRAL_PLOT_H
#define CORRAL_CORRAL_PLOT_H
#include <stddef.h>

#include "common/base/buf.h"

/* In the order of x. Bounds may be infinite; a point whose middle is no number is left out. */
struct plot_point { double x, low, middle, high; };

struct plot {
	const char *y_name, *x_name;  /* what the axes are in: "points of success", "outcomes" */
	unsigned width, height;       /* characters in all, and lines without the axis; at least 30 and 5 are used */
};

/* '*' the value, '|' what lies within its bounds, ':' where they go on beyond the picture, '-' the line of 0. The picture is as high as the bounds of
 * the later half need, so that wide early ones do not flatten the rest. Each line has a newline and no blanks at its end. */
void plot_bounds(struct buf *out, const struct plot *, const struct plot_point *, size_t n);
#endif
