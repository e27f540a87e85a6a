/* clock.c - see clock.h. */
#include "common/base/clock.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t zero[2];
static const volatile int64_t *shift = zero;

void clock_init(void)
{
	const char *path = getenv("CORRAL_TEST_CLOCK");
	void *p;
	int fd;

	if (!path || !*path || shift != zero)
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	p = mmap(NULL, sizeof(zero), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (p != MAP_FAILED)
		shift = p;
}

bool clock_is_test(void) { return shift != zero; }

static int64_t read_us(clockid_t id, int64_t add)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000 + add;
}

int64_t mono_us(void) { return read_us(CLOCK_MONOTONIC, shift[0]); }
int64_t wall_us(void) { return read_us(CLOCK_REALTIME, shift[1]); }

size_t clock_rfc3339(int64_t us, int digits, char *out, size_t cap)
{
	time_t s = (time_t)(us / 1000000);
	int64_t frac = us % 1000000;
	struct tm tm;
	int n;

	if (frac < 0) {
		frac += 1000000;
		s--;
	}
	gmtime_r(&s, &tm);
	n = snprintf(out, cap, "%04d-%02d-%02dT%02d:%02d:%02d", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
		     tm.tm_min, tm.tm_sec);
	if (digits == 3)
		n += snprintf(out + n, cap - (size_t)n, ".%03d", (int)(frac / 1000));
	else if (digits == 6)
		n += snprintf(out + n, cap - (size_t)n, ".%06d", (int)frac);
	n += snprintf(out + n, cap - (size_t)n, "Z");
	return (size_t)n;
}

bool clock_parse_rfc3339(const char *s, int64_t *ret_us)
{
	struct tm tm = { 0 };
	int y, mo, d, h = 0, mi = 0, sec = 0, used = 0;
	int64_t us = 0, offset = 0;

	if (sscanf(s, "%4d-%2d-%2d%n", &y, &mo, &d, &used) != 3 || used != 10 || mo < 1 || mo > 12 || d < 1 || d > 31)
		return false;
	s += used;
	if (*s == 'T' || *s == ' ') {
		if (sscanf(s + 1, "%2d:%2d:%2d%n", &h, &mi, &sec, &used) != 3 || used != 8 || h > 23 || mi > 59 || sec > 60)
			return false;
		s += 1 + used;
		if (*s == '.') {
			int64_t unit = 100000;

			for (s++; *s >= '0' && *s <= '9'; s++, unit /= 10)
				us += (*s - '0') * unit;
		}
		if (*s == 'Z') {
			s++;
		} else if (*s == '+' || *s == '-') {
			int oh, om;

			if (sscanf(s + 1, "%2d:%2d%n", &oh, &om, &used) != 2 || used != 5)
				return false;
			offset = (oh * 3600 + om * 60) * (*s == '-' ? -1 : 1);
			s += 6;
		} else {
			return false;
		}
	}
	if (*s)
		return false;
	tm.tm_year = y - 1900;
	tm.tm_mon = mo - 1;
	tm.tm_mday = d;
	tm.tm_hour = h;
	tm.tm_min = mi;
	tm.tm_sec = sec;
	*ret_us = ((int64_t)timegm(&tm) - offset) * 1000000 + us;
	return true;
}
