/* catalogue.c - the file of models to begin with: read strictly, so that a typing error does not silently drop a model. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "services/hardware-probe/fit.h"

__asm__(".pushsection .rodata\n"
	".global hardware_catalogue_begin\n.global hardware_catalogue_end\n"
	"hardware_catalogue_begin: .incbin \"services/hardware-probe/catalogue.tsv\"\n"
	"hardware_catalogue_end: .byte 0\n"
	".popsection\n");
extern const char hardware_catalogue_begin[] __attribute__((visibility("hidden")));
extern const char hardware_catalogue_end[] __attribute__((visibility("hidden")));

enum { MAX_BYTES = 1 << 20, COLUMNS = 11 };

static bool number(struct str s, double *ret) { return str_double(s, ret) && *ret >= 0; }

static bool count(struct str s, uint32_t *ret)
{
	uint64_t v;

	if (!str_u64(s, &v) || v > UINT32_MAX)
		return false;
	*ret = (uint32_t)v;
	return true;
}

static enum err read_tier(const struct str *c, size_t n, struct tier *t, struct why *why)
{
	if (n != 4 || !c[1].n)
		return err_set(why, ERR_INVALID, "a tier has a name, a memory size and a text");
	if (!number(c[2], &t->min_gb))
		return err_set(why, ERR_INVALID, "'" STR_FMT "' is no memory size in GB", STR_ARG(c[2]));
	t->name = c[1];
	t->text = c[3];
	return ERR_OK;
}

static enum err read_model(const struct str *c, size_t n, struct entry *e, struct why *why)
{
	if (n != COLUMNS)
		return err_set(why, ERR_INVALID, "a model has %d columns, this one has %zu", COLUMNS, n);
	e->name = c[1];
	e->roles = c[2];
	if (!e->name.n || !e->roles.n)
		return err_set(why, ERR_INVALID, "a model needs a name and a role");
	if (!number(c[3], &e->parameters_b) || !number(c[4], &e->active_b) || !str_i64(c[5], &e->download_bytes) || e->download_bytes <= 0)
		return err_set(why, ERR_INVALID, "the sizes of '" STR_FMT "' are no numbers", STR_ARG(e->name));
	if (!count(c[6], &e->layers) || !count(c[7], &e->kv_heads) || !count(c[8], &e->head_size) || !count(c[9], &e->context) || !count(c[10], &e->rank))
		return err_set(why, ERR_INVALID, "layers, heads, head size, context and rank of '" STR_FMT "' are whole numbers", STR_ARG(e->name));
	return ERR_OK;
}

static enum err read_line(struct str line, struct catalogue_file *f, struct why *why)
{
	struct str c[COLUMNS + 1];
	size_t n = 0;

	while (n <= COLUMNS && str_split(&line, '\t', &c[n]))
		n++;
	if (str_eqz(c[0], "tier"))
		return read_tier(c, n, &f->tiers[f->n_tiers++], why);
	if (str_eqz(c[0], "model"))
		return read_model(c, n, &f->entries[f->n_entries++], why);
	return err_set(why, ERR_INVALID, "a line begins with 'tier' or 'model', not '" STR_FMT "'", STR_ARG(c[0]));
}

/* From the largest down to nothing, so that every machine has one. */
static enum err check_tiers(const struct catalogue_file *f, struct why *why)
{
	for (size_t i = 1; i < f->n_tiers; i++)
		if (f->tiers[i].min_gb >= f->tiers[i - 1].min_gb)
			return err_set(why, ERR_INVALID, "the tiers do not go from the largest to the smallest");
	if (!f->n_tiers || f->tiers[f->n_tiers - 1].min_gb > 0)
		return err_set(why, ERR_INVALID, "the last tier has to begin at 0 GB");
	return f->n_entries ? ERR_OK : err_set(why, ERR_INVALID, "there is no model in it");
}

enum err catalogue_parse(struct arena *mem, struct str text, struct catalogue_file *ret, struct why *why)
{
	struct str rest = text, line;
	size_t lines = 1, at = 0;

	for (size_t i = 0; i < text.n; i++)
		lines += text.p[i] == '\n';
	*ret = (struct catalogue_file){ .tiers = arena_array(mem, struct tier, lines), .entries = arena_array(mem, struct entry, lines) };
	while (rest.n && str_split(&rest, '\n', &line)) {
		struct why inner;

		at++;
		if (!str_trim(line).n || line.p[0] == '#')
			continue;
		if (read_line(line, ret, &inner))
			return err_field(why, ERR_INVALID, "models_catalogue", "line %zu: %s", at, inner.text);
	}
	return check_tiers(ret, why);
}

static bool read_whole(const char *path, struct buf *b)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = -1;

	while (fd >= 0 && b->n <= MAX_BYTES) {
		buf_reserve(b, 65536);
		n = read(fd, b->p + b->n, 65536);
		if (n <= 0)
			break;
		b->n += (size_t)n;
	}
	if (fd >= 0)
		close(fd);
	return n == 0;
}

const struct catalogue_file *catalogue_load(struct arena *mem, const char *path, struct why *why)
{
	struct catalogue_file *f = arena_new_of(mem, struct catalogue_file);
	struct str text = str_n(hardware_catalogue_begin, (size_t)(hardware_catalogue_end - hardware_catalogue_begin));
	struct buf b = { 0 };

	if (*path && !read_whole(path, &b)) {
		err_field(why, ERR_INVALID, "models_catalogue", "'%s' cannot be read, or is larger than 1 MiB: %s", path, strerror(errno));
		buf_free(&b);
		return NULL;
	}
	if (*path)
		text = arena_str(mem, buf_as_str(&b));
	buf_free(&b);
	return catalogue_parse(mem, text, f, why) ? NULL : f;
}
