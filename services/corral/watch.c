/* watch.c - see watch.h. */
#include "services/corral/watch.h"

#include <time.h>

#include "common/base/clock.h"

enum { POLL_MS = 300, PLAIN_EVERY_MS = 10000, BAR = 24 };

const char *bytes_text(struct arena *a, int64_t bytes)
{
	static const char *const units[] = { "B", "kB", "MB", "GB", "TB" };
	double v = (double)bytes;
	unsigned u = 0;

	while (v >= 1000 && u < 4)
		v /= 1000, u++;
	return u == 0 ? arena_printf(a, "%lld B", (long long)bytes) : arena_printf(a, v < 10 ? "%.1f %s" : "%.0f %s", v, units[u]);
}

const char *seconds_text(struct arena *a, int64_t s)
{
	if (s < 60)
		return arena_printf(a, "%lld s", (long long)s);
	if (s < 3600)
		return arena_printf(a, "%lld min %lld s", (long long)s / 60, (long long)s % 60);
	return arena_printf(a, "%lld h %lld min", (long long)s / 3600, (long long)s / 60 % 60);
}

static bool known(const struct json *j, uint32_t job, const char *key)
{
	uint32_t v = json_get(j, job, key);

	return v && json_kind(j, v) == JSON_NUMBER;
}

const char *job_line(struct cli *c, const struct json *j, uint32_t job)
{
	int64_t total = get_int(j, job, "bytes_total"), rate = get_int(j, job, "rate");
	struct buf b = { 0 };
	const char *line;

	buf_addz(&b, get_z(c, j, job, "phase"));
	if (known(j, job, "percent"))
		buf_printf(&b, " %.0f %%", get_double(j, job, "percent"));
	if (total)
		buf_printf(&b, ", %s of %s", bytes_text(c->mem, get_int(j, job, "bytes")), bytes_text(c->mem, total));
	if (rate)
		buf_printf(&b, ", %s/s", bytes_text(c->mem, rate));
	if (known(j, job, "eta_s"))
		buf_printf(&b, ", %s left", seconds_text(c->mem, get_int(j, job, "eta_s")));
	line = arena_str(c->mem, buf_as_str(&b)).p;
	buf_free(&b);
	return line;
}

static void draw_bar(struct cli *c, const struct json *j)
{
	double percent = known(j, 0, "percent") ? get_double(j, 0, "percent") : -1;
	struct buf b = { 0 }, shown = { 0 };

	buf_addz(&b, job_line(c, j, 0));
	add_shown(&shown, buf_as_str(&b), false);
	fputs("\r\033[K", c->out);
	if (percent >= 0) {
		unsigned full = (unsigned)(percent * BAR / 100);

		fputc('[', c->out);
		for (unsigned i = 0; i < BAR; i++)
			fputc(i < full ? '#' : '-', c->out);
		fputs("] ", c->out);
	}
	/* what does not fit would wrap, and the next would not cover it */
	if (c->width > BAR + 4 && shown.n > c->width - BAR - 4)
		shown.n = c->width - BAR - 4;
	fwrite(shown.p, 1, shown.n, c->out);
	fflush(c->out);
	buf_free(&b);
	buf_free(&shown);
}

struct seen { char phase[64]; int64_t at_ms; };

/* A line when the phase changes, and now and then. */
static void plain_line(struct cli *c, const struct json *j, struct seen *s)
{
	struct str phase = get_str(c, j, 0, "phase");
	int64_t now = mono_ms();

	if (str_eqz(phase, s->phase) && now - s->at_ms < PLAIN_EVERY_MS)
		return;
	(void)str_copy(s->phase, sizeof(s->phase), phase);
	s->at_ms = now;
	fprintf(c->out, "%s\n", job_line(c, j, 0));
	fflush(c->out);
}

static int ended(struct cli *c, const struct answer *a)
{
	struct str state = get_str(c, &a->doc, 0, "state");

	if (c->json) {
		cli_print_raw(c, a);
		return str_eqz(state, "done") ? EXIT_OK : EXIT_FAILED;
	}
	if (c->out_tty)
		fputs("\r\033[K", c->out);
	if (str_eqz(state, "done")) {
		fprintf(c->out, "%s of %s is done.\n", get_z(c, &a->doc, 0, "kind"), get_z(c, &a->doc, 0, "model"));
		return EXIT_OK;
	}
	if (str_eqz(state, "cancelled"))
		return cli_fail(c, EXIT_FAILED, "the %s of %s was cancelled", get_z(c, &a->doc, 0, "kind"), get_z(c, &a->doc, 0, "model"));
	return cli_fail(c, EXIT_FAILED, "%s", get_z(c, &a->doc, 0, "error"));
}

int watch_job(struct cli *c, const char *id)
{
	struct buf path = { 0 };
	struct seen seen = { 0 };
	struct answer a;
	int status;

	buf_addz(&path, "/jobs/");
	add_percent(&path, str_of(id));
	for (;;) {
		struct str state;

		status = cli_ask(c, "GET", buf_z(&path), STR(""), &a);
		if (status)
			break;
		state = get_str(c, &a.doc, 0, "state");
		if (!str_eqz(state, "waiting") && !str_eqz(state, "running")) {
			status = ended(c, &a);
			break;
		}
		if (c->out_tty && !c->json)
			draw_bar(c, &a.doc);
		else if (!c->json)
			plain_line(c, &a.doc, &seen);
		nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000L }, NULL);
	}
	buf_free(&path);
	return status;
}
