/* found.c - see found.h. */
#include "services/model-registry/found.h"

#include "common/base/buf.h"

static const struct found nothing = {
	.name = "", .remote_name = "", .family = "", .parameters = "", .quantization = "", .digest = "", .modified_at = "", .format = "",
	.template_text = "", .architecture = ""
};

struct listing *listing_new(void)
{
	struct arena *mem = arena_new(0);
	struct listing *listing = arena_new_of(mem, struct listing);

	listing->mem = mem;
	listing->version = "";
	return listing;
}

void listing_free(struct listing *listing)
{
	if (listing)
		arena_free(listing->mem);
}

static struct found *add(struct listing *listing)
{
	if (listing->n == listing->cap) {
		struct found *grown = arena_array(listing->mem, struct found, listing->cap ? listing->cap * 2 : 16);

		if (listing->n)
			memcpy(grown, listing->models, listing->n * sizeof *grown);
		listing->models = grown;
		listing->cap = listing->cap ? listing->cap * 2 : 16;
	}
	return &listing->models[listing->n++];
}

struct found *listing_add(struct listing *listing, struct str remote_name)
{
	struct found *found = add(listing);

	*found = nothing;
	found->remote_name = found->name = arena_str(listing->mem, remote_name).p;
	return found;
}

struct found *listing_find(const struct listing *listing, struct str remote_name)
{
	for (size_t i = 0; listing && i < listing->n; i++)
		if (str_eqz(remote_name, listing->models[i].remote_name))
			return &listing->models[i];
	return NULL;
}

size_t listing_present(const struct listing *listing)
{
	size_t n = 0;

	for (size_t i = 0; listing && i < listing->n; i++)
		n += listing->models[i].missed == 0;
	return n;
}

bool listing_wants(const struct listing *listing, struct str name)
{
	if (name.n == 0 || name.n > 255)
		return false;
	for (size_t i = 0; i < name.n; i++)
		if ((unsigned char)name.p[i] <= ' ' || name.p[i] == 0x7f)
			return false;
	return !listing_find(listing, name);
}

void listing_drop(struct listing *listing, struct found *found)
{
	size_t at = (size_t)(found - listing->models);

	memmove(found, found + 1, (listing->n - at - 1) * sizeof *found);
	listing->n--;
}

struct found *listing_copy(struct listing *listing, const struct found *from)
{
	struct found *to = add(listing);
	const char **strings[] = { &to->name, &to->remote_name, &to->family, &to->parameters, &to->quantization, &to->digest,
				   &to->modified_at, &to->format, &to->template_text, &to->architecture };

	*to = *from;
	for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
		*strings[i] = arena_str(listing->mem, str_of(*strings[i])).p;
	return to;
}

struct str model_key(struct str name)
{
	if (str_ends(name, STR(":latest")))
		name.n -= sizeof ":latest" - 1;
	return name;
}

bool model_same(struct str a, struct str b)
{
	return str_eq(model_key(a), model_key(b));
}

bool model_is_cloud(struct str name)
{
	return str_ends(name, STR(":cloud")) || str_ends(name, STR("-cloud"));
}

const char *parameters_text(struct arena *mem, uint64_t count)
{
	double n = (double)count;

	if (count == 0)
		return "";
	if (count >= 1000000000)
		return arena_printf(mem, "%.1fB", n / 1e9);
	if (count >= 1000000)
		return arena_printf(mem, count >= 100000000 ? "%.0fM" : "%.2fM", n / 1e6);
	return count >= 1000 ? arena_printf(mem, "%.0fK", n / 1e3) : arena_printf(mem, "%.0f", n);
}

uint64_t parameters_count(struct str text)
{
	double n, unit = 0;

	if (text.n < 2)
		return 0;
	switch (text.p[text.n - 1]) {
	case 'K': case 'k': unit = 1e3; break;
	case 'M': case 'm': unit = 1e6; break;
	case 'B': case 'b': unit = 1e9; break;
	case 'T': case 't': unit = 1e12; break;
	}
	if (unit == 0 || !str_double(str_n(text.p, text.n - 1), &n) || n < 0 || n > 1e6)
		return 0;
	return (uint64_t)(n * unit + 0.5);
}
