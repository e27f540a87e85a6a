/* settings.h - the registry's options, and what they mean: which backends, which slots, which words about models. */
#ifndef REGISTRY_SETTINGS_H
#define REGISTRY_SETTINGS_H
#include "common/base/err.h"
#include "common/data/opt.h"
#include "common/io/http_client.h"
#include "common/store/bus.h"
#include "services/model-registry/visit.h"

struct registry_config {
	struct opt_list backends, aliases, slots, protected, strengths, capabilities, protected_dirs, pull_from, push_to;
	const char *backend_ca, *ollama_host, *default_model, *families, *jobs_db;
	int64_t sync_every, residency_every, list_timeout;     /* milliseconds */
	int64_t ollama_max_concurrent;
	int64_t delete_grace, jobs_keep, load_timeout, hand_over_after;           /* milliseconds */
	int64_t check_every, check_timeout, check_busy, restart_wait, restart_timeout;        /* milliseconds */
	int64_t check_failures, standby_after;
	struct opt_list restart, standby, hardware;
	int64_t power_every;
	int64_t preload_top, preload_window, preload_memory;     /* milliseconds, bytes */
	struct bus_config bus;
};

extern const struct opt registry_options[];

struct backend_setting {
	const char *name;
	const struct kind *kind;      /* kind_probe when the option did not say */
	struct http_url url;
	const char *url_text;         /* "http://host:port/base", or https */
};

/* Everything beyond types: the svc_def's check. */
enum err settings_check(const void *config, struct why *);
enum err settings_backends(const struct registry_config *, struct arena *, struct backend_setting **ret, size_t *ret_n, struct why *);
/* "host", ":port", "0.0.0.0", "http://host": as Ollama reads OLLAMA_HOST, for one that connects. */
enum err settings_ollama_url(struct str host, struct arena *, const char **ret_url, struct why *);
/* 0 = nothing is configured for it. */
uint32_t settings_slots(const struct registry_config *, const char *backend, const struct kind *, struct str model);
/* The words of a backend's command in 'restart' or 'standby', ended by NULL; NULL when there is none. */
const char *const *settings_command(const struct opt_list *, const char *backend, struct arena *);
/* The backend's address is of this machine. */
bool settings_is_here(const char *url_text);
/* Where the hardware-probe of a backend's machine is: "" = the peer. False: nobody knows. */
bool settings_probe(const struct registry_config *, const char *backend, const char *url_text, char *ret_url, size_t size);
/* "name=value"; false when it is not of that form. Both parts are trimmed and not empty. */
bool settings_pair(const char *item, struct str *ret_name, struct str *ret_value);
#endif
