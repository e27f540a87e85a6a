/* redaction.c - what must not leave: the rules of cloud_redact, applied to every request before anything of it is sent. See cloud.h, llm/redact.h. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/data/log.h"
#include "common/llm/redact.h"
#include "services/cloud-fallback/cloud.h"

enum { RULES_MOST = 256 << 10 };

static enum err read_rules(const char *path, struct arena *mem, struct str *ret, struct why *why)
{
	char *to = arena_alloc(mem, RULES_MOST + 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = 0, got = 1;

	while (fd >= 0 && got > 0 && n <= RULES_MOST) {
		got = read(fd, to + n, (size_t)(RULES_MOST + 1 - n));
		n += got > 0 ? got : 0;
	}
	if (fd >= 0)
		close(fd);
	if (fd < 0 || got < 0)
		return err_field(why, ERR_INVALID, "cloud_redact", "cloud_redact: '%s' cannot be read", path);
	if (n > RULES_MOST)
		return err_field(why, ERR_INVALID, "cloud_redact", "cloud_redact: '%s' is longer than %d bytes", path, RULES_MOST);
	*ret = str_n(to, (size_t)n);
	return ERR_OK;
}

enum err redaction_open(const struct cloud_config *cfg, struct arena *mem, const struct redact **ret, struct why *why)
{
	struct str rules;

	*ret = NULL;
	if (!cfg->cloud_redact || !cfg->cloud_redact[0])
		return ERR_OK;
	if (read_rules(cfg->cloud_redact, mem, &rules, why))
		return why->code;
	*ret = redact_new(mem, rules, why);
	return *ret ? ERR_OK : why->code;
}

/* Rules by name, never what they found. */
static void tell(struct cloud *c, const struct redacted *done, struct str request_id)
{
	for (unsigned i = 0; i < redact_n_rules(c->redact); i++)
		if (done->count[i])
			series_add(metrics_series(svc_metrics(c->svc), M_REDACTED, redact_name(c->redact, i), "redacted"), done->count[i]);
	if (done->refused_by >= 0)
		series_inc(metrics_series(svc_metrics(c->svc), M_REDACTED, redact_name(c->redact, (unsigned)done->refused_by), "refused"));
	if (done->total || done->refused_by >= 0)
		LOG_INFO(done->refused_by >= 0 ? "a request was refused for what it holds" : "parts of a request were taken out before it was sent",
			 LOG_S("rule", done->refused_by >= 0 ? redact_name(c->redact, (unsigned)done->refused_by) : ""), LOG_I("places", done->total),
			 LOG_STR("request_id", request_id));
}

enum err redaction_apply(struct cloud *c, struct str body, struct str request_id, struct arena *mem, struct str *ret, struct why *why)
{
	struct redacted done;
	enum err err;

	*ret = body;
	if (!c->redact)
		return ERR_OK;
	err = redact_apply(c->redact, body, mem, &done, why);
	tell(c, &done, request_id);
	if (err == ERR_OK)
		*ret = done.json;
	return err;
}
