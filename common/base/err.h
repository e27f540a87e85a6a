/* err.h - why something did not work: a code for machines, a sentence for people, the field it is about.
 *
 * Codes are stable: they are the error_code of native answers, labels of metrics, and columns of the ledger.
 * A function that fails returns the code and writes the sentence once, where the cause is known. */
#ifndef CORRAL_BASE_ERR_H
#define CORRAL_BASE_ERR_H
#include <stdbool.h>

/*        code                 HTTP  meaning, as printed by --dump=errors */
#define ERR_MAP(X) \
	X(OK,                   200, "No error.") \
	X(MALFORMED,            400, "The request is not well-formed: bad JSON, bad framing, wrong type, conflicting fields.") \
	X(UNSUPPORTED_FIELD,    400, "A field that would change the answer cannot be carried to the chosen backend.") \
	X(CONTEXT_TOO_LONG,     400, "No model that fits the request has a context that long.") \
	X(NO_MODEL_FITS,        400, "No available model has what the request needs.") \
	X(UNAUTHENTICATED,      401, "The key is missing or wrong.") \
	X(BUDGET_SPENT,         402, "A budget that covers this request is spent.") \
	X(FORBIDDEN,            403, "The key may not do this.") \
	X(NOT_FOUND,            404, "No such route, request or object.") \
	X(MODEL_NOT_FOUND,      404, "No backend has this model.") \
	X(METHOD_NOT_ALLOWED,   405, "The path exists, the method does not.") \
	X(REQUEST_TIMEOUT,      408, "The client sent its request too slowly.") \
	X(CONFLICT,             409, "The object is in a state that forbids this.") \
	X(TOO_LARGE,            413, "The body is larger than the route allows.") \
	X(BAD_MEDIA_TYPE,       415, "The body has an encoding or type that is not understood.") \
	X(INVALID,              422, "A value is of the right type but not allowed.") \
	X(RATE_LIMITED,         429, "Too many requests of this caller; see Retry-After.") \
	X(QUEUE_FULL,           429, "The queue for this model is full; see Retry-After.") \
	X(HEADERS_TOO_LARGE,    431, "The request head is larger than allowed.") \
	X(CLIENT_GONE,          499, "The client left before the answer was complete.") \
	X(INTERNAL,             500, "A fault of ours; the log has the request id.") \
	X(NOT_IMPLEMENTED,      501, "The protocol has this, this server does not.") \
	X(BACKEND_FAILED,       502, "The backend broke, or answered something that is not its protocol.") \
	X(BACKEND_REFUSED,      502, "The backend refused the request with an error of its own.") \
	X(UNAVAILABLE,          503, "Nothing can serve this now: backends down, breakers open, or shutting down.") \
	X(STORE_FAILED,         503, "The local spool or database cannot be written; no new work is admitted.") \
	X(DEADLINE,             504, "The time allowed for the request ran out.") \
	X(URI_TOO_LONG,         414, "The first line of the request is longer than allowed.") \
	X(EXPECTATION_FAILED,   417, "What Expect asks for is not done here.")

enum err {
#define X(name, status, text) ERR_##name,
	ERR_MAP(X)
#undef X
	ERR_COUNT
};

struct why {
	enum err code;
	char field[96];           /* JSON path, option or column it is about; "" = none */
	char text[400];           /* a sentence without a trailing stop: what happened, to what, what to do */
};

const char *err_name(enum err);          /* "MODEL_NOT_FOUND" */
int err_status(enum err);                /* HTTP status */
const char *err_help(enum err);          /* the sentence of the table */
bool err_from_name(const char *name, enum err *ret);

/* Fills *why (which may be NULL) and returns the code, so that a failure is one line. 'cold': the compiler lays what leads to a failure apart from
 * what is done for every request. */
enum err err_set(struct why *why, enum err code, const char *fmt, ...) __attribute__((cold, format(printf, 3, 4)));
enum err err_field(struct why *why, enum err code, const char *field, const char *fmt, ...) __attribute__((cold, format(printf, 4, 5)));

/* Nothing is wrong; without writing all of its 500 bytes. */
static inline void why_clear(struct why *why)
{
	why->code = ERR_OK;
	why->field[0] = why->text[0] = '\0';
}
#endif
