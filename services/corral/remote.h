/* remote.h - questions to a running gateway (or another HTTP server) from a program that has nothing else to do meanwhile.
 *
 * One loop for the whole program (cli->loop); each call turns it until the answer is complete. */
#ifndef CORRAL_CORRAL_REMOTE_H
#define CORRAL_CORRAL_REMOTE_H
#include "common/base/err.h"
#include "common/data/json.h"
#include "common/io/http_client.h"
#include "services/corral/cli.h"

struct answer {
	int status;                   /* 0: there is none, 'error' says why */
	const char *error;            /* a sentence; NULL when status is below 400 */
	struct str body;
	bool is_json;                 /* doc is the body, an object */
	struct json doc;
};

/* The gateway of this command line; NULL with a sentence on err when the address makes no sense. */
struct remote *remote_gateway(struct cli *);
struct remote *remote_new(struct cli *, const char *url, struct why *);      /* no key is sent there */
void remote_free(struct remote *);                /* NULL is fine; before the loop */
const char *remote_url(const struct remote *);    /* "http://127.0.0.1:8100" */
const struct http_url *remote_parts(const struct remote *);

/* Asks and waits, at most timeout_ms. The answer lives in cli->mem. */
struct answer remote_ask(struct remote *, const char *method, const char *path, struct str body, int64_t timeout_ms);

/* Asks the gateway and expects JSON: EXIT_OK, or the exit status after having said on err what is wrong and what to do. */
int cli_ask(struct cli *, const char *method, const char *path, struct str body, struct answer *ret);
/* Says why an answer is of no use and gives the exit status; 3 when nobody answered. */
int cli_answer_failed(struct cli *, const struct answer *);
/* The body as it came, and a newline. */
int cli_print_raw(struct cli *, const struct answer *);

/* A percent-encoded parameter: "?name=value" or "&name=value"; nothing when the value is empty. */
void add_query(struct buf *path, const char *name, const char *value);
void add_percent(struct buf *, struct str);

/* The sentence in an error body of any dialect; NULL when there is none. */
const char *error_sentence(struct arena *, const struct json *);

/* --- for streams: what a question needs that is not small (turn.c) --- */
struct http_pool *remote_pool(struct remote *);
struct cli *remote_cli(struct remote *);
struct str remote_headers(struct remote *, struct str more);      /* complete lines, the key among them */

/* --- members of answers, for tables: "" or 0 when absent or of another kind --- */
struct str get_str(struct cli *, const struct json *, uint32_t object, const char *key);
const char *get_z(struct cli *, const struct json *, uint32_t object, const char *key);
int64_t get_int(const struct json *, uint32_t object, const char *key);
double get_double(const struct json *, uint32_t object, const char *key);
bool get_bool(const struct json *, uint32_t object, const char *key);
/* The strings of an array member, joined by a comma and a blank; "" when there are none. */
struct str get_list(struct cli *, const struct json *, uint32_t object, const char *key);
#endif
