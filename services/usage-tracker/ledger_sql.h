/* ledger_sql.h - every statement and migration of the ledger. */
#ifndef CORRAL_USAGE_LEDGER_SQL_H
#define CORRAL_USAGE_LEDGER_SQL_H
#include "common/store/db.h"
#include "common/store/intake.h"
#include "services/usage-tracker/budgets_sql.h"

enum ledger_statement {
	L_CURSOR_GET, L_CURSOR_NEW, L_CURSOR_MOVE,
	L_ROW_ADD, L_ROW_SET, L_ROW_FINISH, L_ROW_GET, L_ROWS_OF_REQUEST, L_ROWS_BETWEEN, L_ROWS_NEWEST,
	L_CORRECTION_ADD, L_CORRECTIONS_WAITING, L_CORRECTION_APPLIED, L_CORRECTIONS_COUNT,
	L_DIM_FIND, L_DIM_ADD, L_DIM_GET,
	L_SUMS_GET, L_SUMS_SET, L_SUMS_BETWEEN,
	L_DEAD_ADD,
	L_FEEDBACK_OF, L_FEEDBACK_KNOWN, L_FEEDBACK_PUT,
	BUDGET_STATEMENTS
	L_PRICES_ALL, L_PRICE_ADD,
	L_QUALITY_ADD, L_QUALITY_BETWEEN, L_FEEDBACK_BETWEEN,
	L_RUN_ADD, L_RUNS_MISSING, L_HOUR_SUMS, L_HOUR_BEFORE, L_ROWS_TALLY,
	L_INTAKE, L_INTAKE_LAST = L_INTAKE + INTAKE_N_STATEMENTS - 1,
	L_STATEMENTS
};

extern const char *const ledger_sql[L_STATEMENTS];
extern const struct db_migration ledger_migrations[];
#endif
