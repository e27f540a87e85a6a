/* settings.h - what cloud-fallback is told: its options, and the providers as they were written.
 *
 * A provider is an item of the option 'providers' (name=kind+url;models=a|b;…), and what CORRAL_PROVIDER_<NAME>_… of the environment says
 * beside it. Amounts: -1 = not said, CAP_UNLIMITED = 'unlimited' was written. */
#ifndef CORRAL_CLOUD_FALLBACK_SETTINGS_H
#define CORRAL_CLOUD_FALLBACK_SETTINGS_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/data/opt.h"

enum provider_kind { KIND_OPENAI, KIND_ANTHROPIC, KIND_GEMINI, KIND_OPENROUTER, KIND_RUNPOD, KIND_COMPATIBLE, KINDS };
enum { CAP_NOT_SAID = -1, CAP_UNLIMITED = -2 };

struct cloud_config {
	struct opt_list providers;
	const char *cloud_listen, *cloud_endpoint, *cloud_token, *cloud_ca, *cloud_proxy, *cloud_catalogue, *cloud_db, *cloud_redact, *cloud_master_key, *master_key_file;
	int64_t cloud_slots, cloud_connect, cloud_first_byte, cloud_idle, cloud_time, cloud_recheck, cloud_cold_start;
	int64_t breaker_failures, breaker_open;
};

struct provider_setting {
	const char *name;
	enum provider_kind kind;
	const char *url;              /* base, without a slash at its end: "https://api.openai.com/v1" */
	const char **models;          /* the provider's own names */
	size_t n_models;
	const char *key_file, *key_env;       /* where its keys are; "" = none */
	bool queue;                   /* RunPod: its queue of jobs instead of its OpenAI form */
	bool enabled;
	int64_t monthly_tokens, monthly_microusd, per_minute, per_day;
	uint32_t slots;
	const uint8_t *seal_key;      /* what opens sealed keys; NULL = there is none. Whose it is says who made the list */
};

extern const struct opt cloud_options[];

const char *provider_kind_name(enum provider_kind);
/* All of them, sorted by name; in the arena. Reads the environment, but no key. */
enum err cloud_settings_providers(const struct cloud_config *, struct arena *, struct provider_setting **ret, size_t *ret_n, struct why *);
enum err cloud_settings_check(const void *config, struct why *);
/* The rules of cloud_redact; NULL = there are none (redaction.c). */
struct redact;
enum err redaction_open(const struct cloud_config *, struct arena *, const struct redact **ret, struct why *);
/* Only who is on this machine can come there. */
bool settings_is_near(const char *listen);
/* CORRAL_PROVIDER_<NAME>_<WORD> of the environment; NULL = not set, or empty. */
const char *settings_env(const char *provider, const char *word, struct arena *);
#endif
