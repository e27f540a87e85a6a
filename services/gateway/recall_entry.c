/* recall_entry.c - see recall_entry.h. */
#include "services/gateway/recall_entry.h"

enum { VERSION = 1, HEAD = 2, COUNTED = 0x80 };

static void put_number(struct buf *out, size_t v)
{
	while (v >= 0x80) {
		buf_char(out, (char)(v | 0x80));
		v >>= 7;
	}
	buf_char(out, (char)v);
}

static bool get_number(struct str *in, size_t *ret)
{
	size_t v = 0;

	for (unsigned shift = 0; in->n && shift < 35; shift += 7) {
		uint8_t b = (uint8_t)in->p[0];

		*in = str_from(*in, 1);
		v |= (size_t)(b & 0x7f) << shift;
		if (b < 0x80) {
			*ret = v;
			return true;
		}
	}
	return false;
}

/* The next event with its end, or what is left. */
static struct str next_piece(struct str *rest, enum entry_form form)
{
	struct str end = form == ENTRY_EVENTS ? STR("\n\n") : STR("\n"), piece = *rest;
	const char *at = str_find(*rest, end);

	if (at)
		piece.n = (size_t)(at - rest->p) + end.n;
	*rest = str_from(*rest, piece.n);
	return piece;
}

static size_t same_begin(struct str a, struct str b)
{
	size_t most = a.n < b.n ? a.n : b.n, n = 0;

	while (n < most && a.p[n] == b.p[n])
		n++;
	return n;
}

static size_t same_end(struct str a, struct str b, size_t most)
{
	size_t n = 0;

	while (n < most && a.p[a.n - 1 - n] == b.p[b.n - 1 - n])
		n++;
	return n;
}

static void put_piece(struct str piece, struct str before, struct buf *out)
{
	size_t begin = same_begin(piece, before), room = (piece.n < before.n ? piece.n : before.n) - begin;
	size_t end = same_end(piece, before, room), between = piece.n - begin - end;

	put_number(out, begin);
	put_number(out, end);
	put_number(out, between);
	buf_add(out, piece.p + begin, between);
}

void entry_pack(const struct entry_head *h, struct str body, struct buf *out)
{
	struct str before = STR("");

	buf_char(out, VERSION);
	buf_char(out, (char)(h->form | (h->counted ? COUNTED : 0)));
	if (h->form == ENTRY_WHOLE) {
		buf_str(out, body);
		return;
	}
	while (body.n) {
		struct str piece = next_piece(&body, h->form);

		put_piece(piece, before, out);
		before = piece;
	}
}

static bool get_piece(struct str *in, size_t *before, size_t most, struct buf *out)
{
	size_t begin, end, between, at = *before, length = out->n - at;

	if (!get_number(in, &begin) || !get_number(in, &end) || !get_number(in, &between))
		return false;
	if (begin > length || end > length - begin || between > in->n || begin + end + between > most - out->n)
		return false;
	*before = out->n;
	buf_reserve(out, begin + between + end + 1);      /* before addresses within it are taken */
	buf_add(out, out->p + at, begin);
	buf_add(out, in->p, between);
	buf_add(out, out->p + at + length - end, end);
	*in = str_from(*in, between);
	return true;
}

bool entry_unpack(struct entry_head *h, struct str packed, size_t most, struct buf *out)
{
	size_t before = out->n;
	uint8_t form;

	if (packed.n < HEAD || packed.p[0] != VERSION)
		return false;
	form = (uint8_t)packed.p[1] & (uint8_t)~COUNTED;
	if (form > ENTRY_LINES)
		return false;
	h->form = (enum entry_form)form;
	h->counted = ((uint8_t)packed.p[1] & COUNTED) != 0;
	packed = str_from(packed, HEAD);
	if (h->form == ENTRY_WHOLE) {
		if (packed.n > most)
			return false;
		buf_str(out, packed);
		return true;
	}
	while (packed.n)
		if (!get_piece(&packed, &before, most, out))
			return false;
	return true;
}
