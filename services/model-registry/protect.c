/* protect.c - what is a model's name, from where models may come, and which of them nobody may delete through us. */
#include <ctype.h>
#include <unistd.h>

#include "services/model-registry/acts.h"

bool name_same(struct str a, struct str b) { return str_ieq(model_key(a), model_key(b)); }

struct str name_bare(struct str name)
{
	if (str_starts(name, STR("http://")))
		return str_from(name, 7);
	return str_starts(name, STR("https://")) ? str_from(name, 8) : name;
}

/* A part becomes a folder's name on the backend's disk. */
static const char *part_fault(struct str part)
{
	if (part.n == 0)
		return "a part of it is empty";
	if (part.n > 80)
		return "a part of it is longer than 80 characters";
	if (part.p[0] == '.' || part.p[0] == '-')
		return "a part of it begins with '.' or '-'";
	for (size_t i = 0; i < part.n; i++)
		if (!isalnum((unsigned char)part.p[i]) && !strchr("._-", part.p[i]))
			return "it has characters other than letters, digits, '.', '_', '-'";
	return NULL;
}

/* [host[:port]/][namespace/…]model[:tag] */
const char *model_name_fault(struct str name)
{
	struct str rest = name, part, piece;
	const char *fault = NULL;
	unsigned n = 0;

	if (name.n == 0 || name.n > 255)
		return "it is empty or longer than 255 characters";
	while (!fault && str_split(&rest, '/', &part)) {
		unsigned colons = 0;

		if (++n > 4)
			return "it has more than three slashes";
		while (!fault && str_split(&part, ':', &piece)) {
			fault = part_fault(piece);
			colons++;
		}
		if (!fault && colons > 2)
			fault = "it has several colons in one part";
	}
	return fault;
}

/* "hf.co/org/model:q4" -> "hf.co"; "" for a name of Ollama's own registry. */
static struct str host_of(struct str name)
{
	struct str rest = name, first;
	unsigned slashes = 0;

	for (size_t i = 0; i < name.n; i++)
		slashes += name.p[i] == '/';
	if (slashes < 1)
		return STR("");
	(void)str_split(&rest, '/', &first);
	/* "namespace/model" has no host; "host/namespace/model" has, and so has what looks like an address */
	return slashes >= 2 || memchr(first.p, '.', first.n) || memchr(first.p, ':', first.n) ? first : STR("");
}

enum err registry_allowed(const struct registry_config *config, struct str name, bool *ret_insecure, struct why *why)
{
	struct str host = host_of(name_bare(name));

	*ret_insecure = false;
	if (!host.n)
		host = STR("registry.ollama.ai");
	for (size_t i = 0; i < config->pull_from.n; i++) {
		struct str allowed = str_trim(str_of(config->pull_from.items[i]));

		if (!str_ieq(name_bare(allowed), host))
			continue;
		*ret_insecure = str_starts(allowed, STR("http://"));
		return ERR_OK;
	}
	return err_set(why, ERR_FORBIDDEN, "nothing may be pulled from '" STR_FMT "'; the option pull_from lists the registries that are trusted", STR_ARG(host));
}

/* --- protected --- */

/* Ollama's store: manifests/HOST/NAMESPACE/MODEL/TAG. */
static const char *manifest_path(struct arena *mem, const char *dir, struct str name)
{
	struct str bare = name_bare(name), host = host_of(bare), tag = STR("latest"), rest;

	rest = host.n ? str_from(bare, host.n + 1) : bare;
	for (size_t i = rest.n; i > 0 && rest.p[i - 1] != '/'; i--)
		if (rest.p[i - 1] == ':') {
			tag = str_from(rest, i);
			rest.n = i - 1;
			break;
		}
	return arena_printf(mem, "%s/manifests/" STR_FMT "/%s" STR_FMT "/" STR_FMT, dir, STR_ARG(host.n ? host : STR("registry.ollama.ai")),
			    memchr(rest.p, '/', rest.n) ? "" : "library/", STR_ARG(rest), STR_ARG(tag));
}

static bool in_directory(const char *dir, struct str model, const char **why_text)
{
	struct arena *mem = arena_new(1024);
	bool yes = false;

	/* What cannot be seen is not deleted either. */
	if (access(arena_printf(mem, "%s/manifests", dir), R_OK | X_OK) != 0) {
		*why_text = "a protected directory cannot be read from here, so every model counts as being in it";
		yes = true;
	} else if (!model_name_fault(model) && access(manifest_path(mem, dir, model), F_OK) == 0) {
		*why_text = "it lies in a protected directory";
		yes = true;
	}
	arena_free(mem);
	return yes;
}

bool jobs_protected_by_name(const struct registry *registry, struct str model, const char **why_text)
{
	const struct registry_config *config = registry->config;
	const char *unused;

	why_text = why_text ? why_text : &unused;
	*why_text = "the configuration protects it";
	for (size_t i = 0; i < config->protected.n; i++)
		if (name_same(str_trim(str_of(config->protected.items[i])), model))
			return true;
	*why_text = "it was protected; 'corral models unprotect' takes that back";
	for (const struct mark *m = registry->jobs ? registry->jobs->marks : NULL; m; m = m->next)
		if (m->is_protected && name_same(str_of(m->model), model))
			return true;
	return false;
}

bool jobs_protected(const struct registry *registry, struct str model, const char **why_text)
{
	const struct registry_config *config = registry->config;
	const char *unused;

	why_text = why_text ? why_text : &unused;
	if (jobs_protected_by_name(registry, model, why_text))
		return true;
	for (size_t i = 0; i < config->protected_dirs.n; i++)
		if (in_directory(config->protected_dirs.items[i], model, why_text))
			return true;
	return false;
}
