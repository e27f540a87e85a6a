/* databases.c - where the services' databases are, by the option 'db' and their own, and the command that brings their schemas up to date. */
#include <stdio.h>

#include "common/base/buf.h"
#include "common/store/db.h"
#include "common/store/db_writer.h"
#include "common/svc/runtime.h"

/* By the service's name, which another database of its has a word more than. */
static const char *schema_of(struct arena *a, const struct svc_def *def, const struct svc_db *d)
{
	const char *dot = strchr(d->file, '.');
	char *name = d == def->databases ? arena_printf(a, "%s", def->name)
					 : arena_printf(a, "%s_%.*s", def->name, (int)(dot ? dot - d->file : (long)strlen(d->file)), d->file);

	for (char *p = name; *p; p++)
		if (*p == '-')
			*p = '_';
	return name;
}

static const char *with_schema(struct arena *a, const char *url, const char *schema)
{
	const char *query = strchr(url, '?');

	if (query && (str_find(str_of(query), STR("?schema=")) || str_find(str_of(query), STR("&schema="))))
		return url;
	return arena_printf(a, "%s%sschema=%s", url, query ? "&" : "?", schema);
}

static const struct opt *option_of(const struct opt_set *set, const char *name)
{
	const struct opt *o = set->table;

	while (o && o->name && strcmp(o->name, name) != 0)
		o++;
	return o && o->name ? o : NULL;
}

static void place_one(struct runtime *rt, unsigned i, const struct svc_db *d)
{
	const struct opt *o = option_of(&rt->sets[i], d->option);
	const char **url = o ? (const char **)(void *)((char *)rt->svcs[i].config + o->offset) : NULL;

	if (!url)
		return;
	if (!**url && (db_writer_has(rt->config.db) || (rt->config.db[0] && d->of_db))) {
		*url = rt->config.db;
		rt->sets[i].sources[o - rt->sets[i].table] = "option db";
	}
	if (db_writer_has(*url))
		*url = with_schema(rt->mem, *url, schema_of(rt->mem, rt->svcs[i].def, d));
}

enum err databases_place(struct runtime *rt, struct why *why)
{
	if (rt->config.db[0] && !db_writer_has(rt->config.db) && !str_starts(str_of(rt->config.db), STR("sqlite:")))
		return err_field(why, ERR_INVALID, "db", "db: this is no URL of a database; write postgresql://USER:PASSWORD@HOST:PORT/NAME");
	for (unsigned i = 0; i < rt->n; i++)
		for (const struct svc_db *d = rt->svcs[i].def->databases; d && d->file; d++)
			place_one(rt, i, d);
	return ERR_OK;
}

/* --- PROGRAM migrate --- */

const char *databases_url(const struct runtime *rt, unsigned i, const struct svc_db *d)
{
	const struct opt *o = option_of(&rt->sets[i], d->option);

	return o ? *(const char **)(void *)((char *)rt->svcs[i].config + o->offset) : "";
}

/* 0 = done, or nothing to do. */
static int migrate_one(struct runtime *rt, unsigned i, const struct svc_db *d)
{
	const char *url = databases_url(rt, i, d), *service = rt->svcs[i].def->name;
	int64_t from, to;
	struct why why;

	if (!db_writer_has(url)) {
		printf("%s: %s is a file of SQLite, which is brought up to date whenever the service starts\n", service, d->file);
		return 0;
	}
	if (!db_migrate(url, d->schema, &from, &to, &why)) {
		fprintf(stderr, "%s: %s\n", service, why.text);
		return 1;
	}
	if (from == to)
		printf("%s: schema %s is at version %lld, as it should be\n", service, schema_of(rt->mem, rt->svcs[i].def, d), (long long)to);
	else
		printf("%s: schema %s brought from version %lld to %lld\n", service, schema_of(rt->mem, rt->svcs[i].def, d), (long long)from, (long long)to);
	return 0;
}

int databases_migrate(struct runtime *rt)
{
	unsigned n = 0;
	int failed = 0;

	for (unsigned i = 0; i < rt->n; i++)
		for (const struct svc_db *d = rt->svcs[i].def->databases; d && d->file; d++, n++)
			failed |= migrate_one(rt, i, d);
	if (n == 0)
		printf("%s has no database\n", rt->name);
	return fflush(stdout) == 0 ? failed : 1;
}
