/* log.h - structured log lines: one JSON object a line on stderr, or short text when stderr is a terminal.
 *
 *   LOG_INFO("backend is back", LOG_S("backend", name), LOG_I("after_ms", ms));
 *   {"ts":"2026-11-21T09:00:00.123Z","level":"info","service":"gateway","msg":"backend is back","backend":"gpu1","after_ms":1200}
 *
 * Any thread. Lines are built in a thread's buffer and written whole; a write that would block is dropped and counted.
 * Control characters are escaped, so that no value can forge a line. Values of secrets are never given to it. */
#ifndef CORRAL_DATA_LOG_H
#define CORRAL_DATA_LOG_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };
enum log_format { LOG_FORMAT_AUTO, LOG_FORMAT_JSON, LOG_FORMAT_TEXT };

struct log_field {
	const char *key;              /* NULL ends the list */
	enum { LOG_T_STR, LOG_T_INT, LOG_T_DOUBLE, LOG_T_BOOL } type;
	struct str s;
	int64_t i;
	double d;
};

#define LOG_S(k, v) ((struct log_field){ .key = (k), .type = LOG_T_STR, .s = str_of(v) })
#define LOG_STR(k, v) ((struct log_field){ .key = (k), .type = LOG_T_STR, .s = (v) })
#define LOG_I(k, v) ((struct log_field){ .key = (k), .type = LOG_T_INT, .i = (int64_t)(v) })
#define LOG_D(k, v) ((struct log_field){ .key = (k), .type = LOG_T_DOUBLE, .d = (v) })
#define LOG_B(k, v) ((struct log_field){ .key = (k), .type = LOG_T_BOOL, .i = (v) })

extern _Atomic(enum log_level) log_threshold;     /* set at start and by SIGHUP */

void log_init(enum log_level, enum log_format);
bool log_level_parse(const char *, enum log_level *);
const char *log_level_name(enum log_level);
void log_thread_service(const char *name);        /* what "service" says on this thread's lines; the string must stay */
void log_write(enum log_level, const char *msg, const struct log_field *fields) __attribute__((cold));
uint64_t log_dropped(void);
uint64_t log_written(enum log_level);             /* lines of that level so far, dropped ones included */

#define LOG_AT(level, msg, ...) \
	do { \
		if ((level) >= atomic_load_explicit(&log_threshold, memory_order_relaxed)) \
			log_write((level), (msg), (const struct log_field[]){ __VA_ARGS__ __VA_OPT__(,) { 0 } }); \
	} while (0)
#define LOG_DEBUG(...) LOG_AT(LOG_LEVEL_DEBUG, __VA_ARGS__)
#define LOG_INFO(...) LOG_AT(LOG_LEVEL_INFO, __VA_ARGS__)
#define LOG_WARN(...) LOG_AT(LOG_LEVEL_WARN, __VA_ARGS__)
#define LOG_ERROR(...) LOG_AT(LOG_LEVEL_ERROR, __VA_ARGS__)
#endif
