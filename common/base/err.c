/* err.c - see err.h. */
#include "common/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name, *help;
	int status;
} table[ERR_COUNT] = {
#define X(name, status, text) [ERR_##name] = { #name, text, status },
	ERR_MAP(X)
#undef X
};

const char *err_name(enum err e) { return e < ERR_COUNT ? table[e].name : "INTERNAL"; }
int err_status(enum err e) { return e < ERR_COUNT ? table[e].status : 500; }
const char *err_help(enum err e) { return e < ERR_COUNT ? table[e].help : ""; }

bool err_from_name(const char *name, enum err *ret)
{
	for (int i = 0; i < ERR_COUNT; i++)
		if (strcmp(name, table[i].name) == 0) {
			*ret = (enum err)i;
			return true;
		}
	return false;
}

static enum err fill(struct why *why, enum err code, const char *field, const char *fmt, va_list ap)
{
	if (!why)
		return code;
	why->code = code;
	snprintf(why->field, sizeof(why->field), "%s", field ? field : "");
	vsnprintf(why->text, sizeof(why->text), fmt, ap);
	return code;
}

enum err err_set(struct why *why, enum err code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(why, code, NULL, fmt, ap);
	va_end(ap);
	return code;
}

enum err err_field(struct why *why, enum err code, const char *field, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(why, code, field, fmt, ap);
	va_end(ap);
	return code;
}
