/* sql.c - see sql.h. */
#include "services/ab-testing/sql.h"

const char *const ab_sql[X_STATEMENTS] = {
	[X_EXPERIMENT_PUT] = "INSERT INTO experiments (id, created_us, body) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
	[X_EXPERIMENTS] = "SELECT body FROM experiments ORDER BY created_us, id",

	[X_CHAMPION_ADD] = "INSERT INTO champions (scope, experiment_id, since_us, ended_us, body) VALUES (?1, ?2, ?3, 0, ?4)",
	[X_CHAMPION_END] = "UPDATE champions SET ended_us = ?2 WHERE scope = ?1 AND ended_us = 0",
	[X_CHAMPION_BACK] = "UPDATE champions SET ended_us = 0 WHERE id = ?1",
	[X_CHAMPIONS] = "SELECT body FROM champions WHERE ended_us = 0 ORDER BY id",
	[X_CHAMPION_OF] = "SELECT scope, since_us FROM champions WHERE experiment_id = ?1 AND ended_us = 0",
	[X_CHAMPION_BEFORE] = "SELECT id FROM champions WHERE scope = ?1 AND ended_us = ?2 AND experiment_id <> ?3 ORDER BY id DESC LIMIT 1",

	[X_CURSOR] = "SELECT seq FROM cursor WHERE one = 1",
	[X_CURSOR_MOVE] = "UPDATE cursor SET seq = ?2 WHERE one = 1 AND seq = ?1",

	[X_OUTCOME] = "SELECT arm, body FROM outcomes WHERE request_id = ?1",
	[X_OUTCOME_PUT] = "INSERT INTO outcomes (request_id, experiment_id, arm, unit, body) VALUES (?1, ?2, ?3, ?4, ?5) "
			  "ON CONFLICT (request_id) DO UPDATE SET body = excluded.body",
	[X_UNIT] = "SELECT body FROM units WHERE experiment_id = ?1 AND unit = ?2 AND arm = ?3",
	[X_UNIT_PUT] = "INSERT INTO units (experiment_id, unit, arm, body) VALUES (?1, ?2, ?3, ?4) "
		       "ON CONFLICT (experiment_id, unit, arm) DO UPDATE SET body = excluded.body",
	[X_TALLY_PUT] = "INSERT INTO tallies (experiment_id, arm, body) VALUES (?1, ?2, ?3) ON CONFLICT (experiment_id, arm) DO UPDATE SET body = excluded.body",
	[X_TALLIES] = "SELECT arm, body FROM tallies WHERE experiment_id = ?1",

	[X_OUTCOMES_PRUNE] = "DELETE FROM outcomes WHERE request_id IN (SELECT request_id FROM outcomes WHERE experiment_id = ?1 LIMIT ?2)",
	[X_UNITS_PRUNE] = "DELETE FROM units WHERE experiment_id = ?1 AND unit IN (SELECT unit FROM units WHERE experiment_id = ?1 ORDER BY unit LIMIT ?2)",

	[X_POINT_PUT] = "INSERT INTO points (experiment_id, at_us, body) VALUES (?1, ?2, ?3) ON CONFLICT (experiment_id, at_us) DO NOTHING",
	[X_POINTS] = "SELECT body FROM (SELECT at_us, body FROM points WHERE experiment_id = ?1 ORDER BY at_us DESC LIMIT 500) AS newest ORDER BY at_us",

	[X_NOTE_PUT] = "INSERT INTO notes (number, body) VALUES (?1, ?2)",
	[X_NOTE_LAST] = "SELECT COALESCE(MAX(number), 0) FROM notes",
	[X_NOTES] = "SELECT number, body FROM notes WHERE number >= ?1 ORDER BY number LIMIT ?2",

	[X_EVENT_PUT] = "INSERT INTO events (number, body) VALUES (?1, ?2)",
	[X_EVENT_LAST] = "SELECT COALESCE(MAX(number), 0) FROM events",
	[X_EVENTS] = "SELECT number, body FROM events WHERE number > ?1 ORDER BY number LIMIT ?2",
	[X_EVENTS_SENT] = "DELETE FROM events WHERE number <= ?1",

	[X_KNOWN] = "SELECT digest FROM known_models WHERE name = ?1",
	[X_KNOWN_PUT] = "INSERT INTO known_models (name, digest, since_us) VALUES (?1, ?2, ?3) "
			"ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, since_us = excluded.since_us",
	[X_LOOK] = "SELECT at_us, first_us FROM looks WHERE one = 1",
	[X_LOOK_PUT] = "UPDATE looks SET at_us = ?1, first_us = CASE WHEN first_us = 0 THEN ?1 ELSE first_us END WHERE one = 1",
};

const struct db_migration ab_migrations[] = {
	/* bodies: packed messages of experiments.proto; of outcomes, units and tallies as results.c has them. scope: of what the champion is one.
	 * ended_us 0 = in force; a champion that is followed by another ends when that one begins. */
	{ 1, "CREATE TABLE experiments (id TEXT PRIMARY KEY, created_us BIGINT NOT NULL, body BLOB NOT NULL);"
	     "CREATE TABLE champions (id INTEGER PRIMARY KEY, scope TEXT NOT NULL, experiment_id TEXT NOT NULL, since_us BIGINT NOT NULL,"
	     " ended_us BIGINT NOT NULL, body BLOB NOT NULL);"
	     "CREATE INDEX champions_by_scope ON champions (scope, ended_us);"
	     "CREATE TABLE cursor (one INTEGER NOT NULL, seq BIGINT NOT NULL, PRIMARY KEY (one));"
	     "INSERT INTO cursor (one, seq) VALUES (1, 0);"
	     "CREATE TABLE outcomes (request_id BLOB PRIMARY KEY, experiment_id TEXT NOT NULL, arm TEXT NOT NULL, unit TEXT NOT NULL, body BLOB NOT NULL);"
	     "CREATE TABLE units (experiment_id TEXT NOT NULL, unit TEXT NOT NULL, arm TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (experiment_id, unit, arm));"
	     "CREATE TABLE tallies (experiment_id TEXT NOT NULL, arm TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (experiment_id, arm));"
	     "CREATE TABLE points (experiment_id TEXT NOT NULL, at_us BIGINT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (experiment_id, at_us));" },
	/* What was done by itself: packed messages of access.proto, for the audit log; number grows, about microseconds. */
	{ 2, "CREATE TABLE notes (number BIGINT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (number));" },
	/* Packed messages ExperimentEvent on their way to the bus (news.c). */
	{ 3, "CREATE TABLE events (number BIGINT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (number));" },
	/* Models as they were when they were tried, or at the first look (challengers.c). */
	{ 4, "CREATE TABLE known_models (name TEXT NOT NULL, digest TEXT NOT NULL, since_us BIGINT NOT NULL, PRIMARY KEY (name));"
	     "CREATE TABLE looks (one INTEGER NOT NULL, at_us BIGINT NOT NULL, first_us BIGINT NOT NULL, PRIMARY KEY (one));"
	     "INSERT INTO looks (one, at_us, first_us) VALUES (1, 0, 0);" },
	{ 5, "CREATE INDEX outcomes_by_experiment ON outcomes (experiment_id);" },
	{ 0 }
};
