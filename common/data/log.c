/* log.c - see log.h. A line is built on the stack and written by one write(2), so that lines of threads never mix;
 * at most 4096 bytes, which is what a pipe takes whole. What does not fit is left out, and the line says "cut". */
#include "common/data/log.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/base/clock.h"

enum {
	LINE_MAX_BYTES = 4096,
	TAIL_BYTES = 16,              /* room kept for ,"cut":true}\n */
	VALUE_MAX_BYTES = 1500
};

struct line {
	char p[LINE_MAX_BYTES];
	size_t n;
	bool full;                    /* something did not fit */
};

_Atomic(enum log_level) log_threshold = LOG_LEVEL_INFO;
static enum log_format format = LOG_FORMAT_AUTO;
static bool is_file;                      /* stderr never makes a writer wait */
static _Atomic uint64_t dropped, written[LOG_LEVEL_ERROR + 1];
static _Thread_local const char *service;

static const char *const level_names[] = { "debug", "info", "warn", "error" };

void log_init(enum log_level level, enum log_format f)
{
	struct stat st;

	log_threshold = level;
	format = f;
	is_file = fstat(STDERR_FILENO, &st) == 0 && S_ISREG(st.st_mode);
	if (f == LOG_FORMAT_AUTO)
		format = isatty(STDERR_FILENO) ? LOG_FORMAT_TEXT : LOG_FORMAT_JSON;
}

bool log_level_parse(const char *name, enum log_level *ret)
{
	for (int i = 0; i <= LOG_LEVEL_ERROR; i++)
		if (strcasecmp(name, level_names[i]) == 0) {
			*ret = (enum log_level)i;
			return true;
		}
	return false;
}

const char *log_level_name(enum log_level level) { return level_names[level]; }
void log_thread_service(const char *name) { service = name; }
uint64_t log_dropped(void) { return atomic_load_explicit(&dropped, memory_order_relaxed); }
uint64_t log_written(enum log_level level) { return atomic_load_explicit(&written[level], memory_order_relaxed); }

static void add(struct line *l, const char *p, size_t n)
{
	if (l->full || n > LINE_MAX_BYTES - TAIL_BYTES - l->n) {
		l->full = true;
		return;
	}
	memcpy(l->p + l->n, p, n);
	l->n += n;
}

static void addz(struct line *l, const char *z) { add(l, z, strlen(z)); }

/* Length of the UTF-8 character at s, 0 when it is not one. */
static size_t utf8_len(struct str s)
{
	unsigned char c = (unsigned char)s.p[0];
	size_t n = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;

	return n <= s.n && str_utf8_valid(str_n(s.p, n)) ? n : 0;
}

/* How many of the next bytes need no look of their own. */
static size_t plain_run(const char *p, size_t n)
{
	size_t i = 0;

	while (i < n && p[i] >= 0x20 && p[i] < 0x7f && p[i] != '"' && p[i] != '\\')
		i++;
	return i;
}

/* JSON's escapes, and more: DEL and the C1 controls, which steer terminals, too. */
static void add_escaped(struct line *l, struct str s)
{
	size_t at = 0, end = s.n > VALUE_MAX_BYTES ? VALUE_MAX_BYTES : s.n;

	while (at < end) {
		size_t n = plain_run(s.p + at, end - at);
		unsigned char c;
		char esc[8];

		if (n > 0) {
			add(l, s.p + at, n);
			at += n;
			continue;
		}
		c = (unsigned char)s.p[at];
		n = utf8_len(str_n(s.p + at, s.n - at));
		if (n == 0) {
			addz(l, "\xef\xbf\xbd");
			at++;
			continue;
		}
		if (c == '"' || c == '\\') {
			snprintf(esc, sizeof(esc), "\\%c", c);
			addz(l, esc);
		} else if (c == '\n' || c == '\t' || c == '\r') {
			addz(l, c == '\n' ? "\\n" : c == '\t' ? "\\t" : "\\r");
		} else if (c < 0x20 || c == 0x7f || (n == 2 && c == 0xc2 && (unsigned char)s.p[at + 1] < 0xa0)) {
			snprintf(esc, sizeof(esc), "\\u%04x", n == 2 ? (unsigned char)s.p[at + 1] : c);
			addz(l, esc);
		} else {
			add(l, s.p + at, n);
		}
		at += n;
	}
	if (end < s.n)
		addz(l, "\xe2\x80\xa6");
}

static void add_quoted(struct line *l, struct str s)
{
	addz(l, "\"");
	add_escaped(l, s);
	addz(l, "\"");
}

static bool plain_word(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] <= ' ' || s.p[i] >= 0x7f || s.p[i] == '"' || s.p[i] == '\\' || s.p[i] == '=')
			return false;
	return s.n > 0;
}

static void add_int(struct line *l, int64_t v)
{
	char digits[24], *p = digits + sizeof(digits);
	uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;

	do
		*--p = (char)('0' + u % 10);
	while (u /= 10);
	if (v < 0)
		*--p = '-';
	add(l, p, (size_t)(digits + sizeof(digits) - p));
}

static void add_value(struct line *l, const struct log_field *f, bool json)
{
	char num[40];

	switch (f->type) {
	case LOG_T_STR:
		if (!json && plain_word(f->s))
			add_escaped(l, f->s);
		else
			add_quoted(l, f->s);
		return;
	case LOG_T_INT:
		add_int(l, f->i);
		return;
	case LOG_T_DOUBLE:
		snprintf(num, sizeof(num), isfinite(f->d) ? "%.9g" : "\"%f\"", f->d);
		break;
	case LOG_T_BOOL:
		snprintf(num, sizeof(num), "%s", f->i ? "true" : "false");
		break;
	}
	addz(l, num);
}

/* A field that does not fit is taken back whole; later, smaller ones may still fit. */
static bool add_field(struct line *l, const struct log_field *f, bool json)
{
	size_t before = l->n;

	if (json) {
		addz(l, ",\"");
		add_escaped(l, str_of(f->key));
		addz(l, "\":");
	} else {
		addz(l, " ");
		add_escaped(l, str_of(f->key));
		addz(l, "=");
	}
	add_value(l, f, json);
	if (!l->full)
		return true;
	l->n = before;
	l->full = false;
	return false;
}

/* "2026-11-21T09:00:00.123Z"; what changes once a second is made once a second. */
static void add_time(struct line *l)
{
	static _Thread_local char text[32];
	static _Thread_local int64_t second = -1;
	int64_t now_ms = wall_ms();
	int ms = (int)(now_ms % 1000);

	if (now_ms / 1000 != second) {
		second = now_ms / 1000;
		clock_rfc3339(now_ms * 1000, 3, text, sizeof(text));
	}
	text[20] = (char)('0' + ms / 100);
	text[21] = (char)('0' + ms / 10 % 10);
	text[22] = (char)('0' + ms % 10);
	add(l, text, 24);
}

static void head_json(struct line *l, enum log_level level, const char *msg)
{
	addz(l, "{\"ts\":\"");
	add_time(l);
	addz(l, "\",\"level\":\"");
	addz(l, level_names[level]);
	addz(l, "\",\"service\":");
	add_quoted(l, str_of(service ? service : ""));
	addz(l, ",\"msg\":");
	add_quoted(l, str_of(msg));
}

static void head_text(struct line *l, enum log_level level, const char *msg)
{
	static const char *const marks[] = { "debug", "info ", "WARN ", "ERROR" };
	int64_t now_ms = wall_ms();
	time_t s = (time_t)(now_ms / 1000);
	struct tm tm;
	char ts[32];

	localtime_r(&s, &tm);
	snprintf(ts, sizeof(ts), "%02d:%02d:%02d.%03d ", tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(now_ms % 1000));
	addz(l, ts);
	addz(l, marks[level]);
	addz(l, " ");
	if (service) {
		addz(l, service);
		addz(l, ": ");
	}
	add_escaped(l, str_of(msg));
}

/* One write, never waiting: a reader that is stuck costs lines, not answers. */
static bool put(const char *p, size_t n)
{
	struct pollfd fd = { .fd = STDERR_FILENO, .events = POLLOUT };
	ssize_t put_n;

	while (n > 0) {
		if (!is_file && (poll(&fd, 1, 0) <= 0 || !(fd.revents & POLLOUT)))
			return false;
		put_n = write(STDERR_FILENO, p, n);
		if (put_n < 0 && errno == EINTR)
			continue;
		if (put_n <= 0)
			return false;
		p += put_n;
		n -= (size_t)put_n;
	}
	return true;
}

void log_write(enum log_level level, const char *msg, const struct log_field *fields)
{
	bool json = format != LOG_FORMAT_TEXT, cut = false;
	struct line l;

	l.n = 0;
	l.full = false;
	(json ? head_json : head_text)(&l, level, msg);
	for (const struct log_field *f = fields; f->key; f++)
		cut |= !add_field(&l, f, json);
	if (cut) {
		const char *tail = json ? ",\"cut\":true" : " cut=true";

		memcpy(l.p + l.n, tail, strlen(tail));
		l.n += strlen(tail);
	}
	if (json)
		l.p[l.n++] = '}';
	l.p[l.n++] = '\n';
	atomic_fetch_add_explicit(&written[level], 1, memory_order_relaxed);
	if (!put(l.p, l.n))
		atomic_fetch_add_explicit(&dropped, 1, memory_order_relaxed);
}
