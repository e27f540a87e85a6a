/* price.c - see price.h. */
#include "common/policy/price.h"

#include <string.h>

#include "common/policy/authz.h"

#define MILLION 1000000
#define HOUR_US INT64_C(3600000000)

__extension__ typedef unsigned __int128 wide;

static wide product(int64_t a, int64_t b) { return a > 0 && b > 0 ? (wide)a * (wide)b : 0; }

int64_t price_cost(const struct price *tokens, const struct price *machine, const struct price_use *u)
{
	wide n = 0;

	if (tokens) {
		int64_t cached = u->cached_prompt_tokens < u->prompt_tokens ? u->cached_prompt_tokens : u->prompt_tokens;

		n = product(u->prompt_tokens - (cached > 0 ? cached : 0), tokens->input) + product(cached, tokens->cached_input) +
		    product(u->completion_tokens, tokens->output);
		if (n > (wide)INT64_MAX * MILLION)
			return INT64_MAX;
		n *= HOUR_US / MILLION;       /* one denominator for both, so that there is one rounding */
	}
	if (machine)
		n += product(u->gpu_us, machine->gpu_hour) + product(u->energy_mj, machine->kwh);
	n = (n + HOUR_US / 2) / HOUR_US;
	return n > INT64_MAX ? INT64_MAX : (int64_t)n;
}

/* --- which price --- */

static bool fits(struct str pattern, struct str word)
{
	char z[256], *list = z;

	if (!pattern.n || str_eqz(pattern, "*"))
		return true;
	return str_copy(z, sizeof(z), pattern) && models_allow(&list, 1, word);
}

/* A name is worth more than any pattern, a long pattern more than a short one. */
static unsigned specific(struct str pattern)
{
	unsigned stars = 0;

	for (size_t i = 0; i < pattern.n; i++)
		stars += pattern.p[i] == '*';
	return pattern.n && !stars ? 1000 : (unsigned)pattern.n - stars;
}

static int more_specific(const struct price *a, const struct price *b)
{
	const struct str x[] = { a->model, a->backend, a->provider }, y[] = { b->model, b->backend, b->provider };
	int d = 0;

	for (int i = 0; i < 3 && d == 0; i++)
		d = (int)specific(x[i]) - (int)specific(y[i]);
	return d;
}

static bool better(const struct price *p, const struct price *than)
{
	int d = than ? more_specific(p, than) : 1;

	if (d != 0)
		return d > 0;
	return p->valid_from_us != than->valid_from_us ? p->valid_from_us > than->valid_from_us : p->id > than->id;
}

const struct price *price_find(const struct price *list, size_t n, enum price_kind kind, struct str provider, struct str backend, struct str model,
			       int64_t at_us)
{
	const struct price *best = NULL;

	for (size_t i = 0; i < n; i++) {
		const struct price *p = &list[i];

		if (p->kind == kind && p->valid_from_us <= at_us && better(p, best) && fits(p->provider, provider) && fits(p->backend, backend) &&
		    fits(p->model, model))
			best = p;
	}
	return best;
}

void price_span(const struct price *list, size_t n, int64_t at_us, int64_t *ret_from, int64_t *ret_until)
{
	*ret_from = INT64_MIN;
	*ret_until = INT64_MAX;
	for (size_t i = 0; i < n; i++) {
		int64_t t = list[i].valid_from_us;

		if (t <= at_us && t > *ret_from)
			*ret_from = t;
		if (t > at_us && t < *ret_until)
			*ret_until = t;
	}
}

bool provider_is_local(struct str provider)
{
	static const char *const kinds[] = { "", "ollama", "llamacpp", "vllm", "openai", "local-openai" };

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (str_eqz(provider, kinds[i]))
			return true;
	return false;
}

bool price_same_scope(const struct price *a, const struct price *b)
{
	return a->kind == b->kind && str_eq(a->provider, b->provider) && str_eq(a->backend, b->backend) && str_eq(a->model, b->model);
}

bool price_same_numbers(const struct price *a, const struct price *b)
{
	return a->input == b->input && a->cached_input == b->cached_input && a->output == b->output && a->gpu_hour == b->gpu_hour && a->kwh == b->kwh;
}

/* --- what is one --- */

static bool sound_words(const struct price *p, struct why *why)
{
	const struct { const char *name; struct str word; } words[] = { { "provider", p->provider }, { "backend", p->backend }, { "model", p->model } };

	for (size_t i = 0; i < 3; i++)
		if (words[i].word.n > 200 || (words[i].word.n && memchr(words[i].word.p, '\0', words[i].word.n)))
			return err_field(why, ERR_INVALID, words[i].name, "%s is a name or a pattern of at most 200 characters", words[i].name) == ERR_OK;
	return true;
}

bool price_check(const struct price *p, struct why *why)
{
	const struct { const char *name; int64_t v; } numbers[] = {
		{ "input_microusd", p->input }, { "cached_input_microusd", p->cached_input }, { "output_microusd", p->output },
		{ "gpu_hour_microusd", p->gpu_hour }, { "kwh_microusd", p->kwh },
	};

	for (size_t i = 0; i < 5; i++)
		if (numbers[i].v < 0 || numbers[i].v > PRICE_MOST)
			return err_field(why, ERR_INVALID, numbers[i].name, "%s is 0 to %lld micro-dollars, not %lld", numbers[i].name, (long long)PRICE_MOST,
					 (long long)numbers[i].v) == ERR_OK;
	return sound_words(p, why);
}
