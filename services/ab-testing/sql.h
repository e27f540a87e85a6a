/* sql.h - every statement and migration of ab-testing. */
#ifndef CORRAL_AB_TESTING_SQL_H
#define CORRAL_AB_TESTING_SQL_H
#include "common/store/db.h"

enum ab_statement {
	X_EXPERIMENT_PUT, X_EXPERIMENTS,
	X_CHAMPION_ADD, X_CHAMPION_END, X_CHAMPION_BACK, X_CHAMPIONS, X_CHAMPION_OF, X_CHAMPION_BEFORE,
	X_CURSOR, X_CURSOR_MOVE,
	X_OUTCOME, X_OUTCOME_PUT, X_UNIT, X_UNIT_PUT, X_TALLY_PUT, X_TALLIES, X_OUTCOMES_PRUNE, X_UNITS_PRUNE,
	X_POINT_PUT, X_POINTS,
	X_NOTE_PUT, X_NOTE_LAST, X_NOTES,
	X_EVENT_PUT, X_EVENT_LAST, X_EVENTS, X_EVENTS_SENT,
	X_KNOWN, X_KNOWN_PUT, X_LOOK, X_LOOK_PUT,
	X_STATEMENTS
};

extern const char *const ab_sql[X_STATEMENTS];
extern const struct db_migration ab_migrations[];
#endif
