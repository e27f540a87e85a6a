/* budgets_sql.h - every statement of the budgets, for ledger_sql.c: they share the ledger's database, so that a fact and what it costs are booked
 * in one transaction. */
#ifndef CORRAL_USAGE_BUDGETS_SQL_H
#define CORRAL_USAGE_BUDGETS_SQL_H

#define BUDGET_STATEMENTS \
	B_ALL, B_ADD, B_SET, B_REMOVE, B_OVERDRAWN, \
	B_PERIOD_ADD, B_PERIOD_GET, B_PERIOD_USE, B_PERIOD_MOVE, B_PERIOD_GRANT, B_PERIOD_LOCK, \
	B_SLICE_ADD, B_SLICES_BEFORE, B_SLICES_DROP, B_SLICE_OLDEST, \
	B_LEASE_ADD, B_LEASE_GET, B_LEASE_SET, B_LEASES_OF, B_LEASES_LAPSED, B_LEASES_ENDED, B_LEASE_DROP, B_HOLDERS, \
	B_ENTRY_ADD, B_ENTRY_SUMS,

#define BUDGET_COLUMNS "id, scope, tenant, period, shadow, limit_tokens, limit_microusd, removed, created_us, changed_us, overdrawn, unlimited"
#define PERIOD_COLUMNS "used_tokens, held_tokens, in_doubt_tokens, used_microusd, held_microusd, in_doubt_microusd"
#define LEASE_COLUMNS \
	"budget, period_us, holder, granted_tokens, settled_tokens, written_tokens, granted_microusd, settled_microusd, written_microusd, in_doubt, since_us"

/* Budgets are taken in the order of their ids, and the period's row first: so that two that do it at once in PostgreSQL do not wait for each other. */
#define BUDGET_SQL \
	[B_ALL] = "SELECT " BUDGET_COLUMNS " FROM budgets ORDER BY id", \
	[B_ADD] = "INSERT INTO budgets (scope, tenant, period, shadow, limit_tokens, limit_microusd, removed, created_us, changed_us, overdrawn, unlimited) " \
		  "VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?7, 0, ?8) ON CONFLICT (scope, tenant, period) DO NOTHING", \
	[B_SET] = "UPDATE budgets SET shadow = ?4, limit_tokens = ?5, limit_microusd = ?6, changed_us = ?7, removed = 0, unlimited = ?8 WHERE scope = ?1 AND tenant = ?2 AND period = ?3", \
	[B_REMOVE] = "UPDATE budgets SET removed = 1, changed_us = ?4 WHERE scope = ?1 AND tenant = ?2 AND period = ?3 AND removed = 0", \
	[B_OVERDRAWN] = "UPDATE budgets SET overdrawn = overdrawn + 1 WHERE id = ?1", \
	[B_PERIOD_ADD] = "INSERT INTO budget_periods (budget, period_us, ends_us, " PERIOD_COLUMNS ") VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, 0) " \
			 "ON CONFLICT (budget, period_us) DO NOTHING", \
	[B_PERIOD_GET] = "SELECT " PERIOD_COLUMNS " FROM budget_periods WHERE budget = ?1 AND period_us = ?2", \
	[B_PERIOD_USE] = "INSERT INTO budget_periods (budget, period_us, ends_us, " PERIOD_COLUMNS ") VALUES (?1, ?2, ?3, ?4, 0, 0, ?5, 0, 0) " \
			 "ON CONFLICT (budget, period_us) DO UPDATE SET used_tokens = budget_periods.used_tokens + excluded.used_tokens, " \
			 "used_microusd = budget_periods.used_microusd + excluded.used_microusd", \
	[B_PERIOD_MOVE] = "UPDATE budget_periods SET used_tokens = used_tokens + ?3, held_tokens = held_tokens + ?4, in_doubt_tokens = in_doubt_tokens + ?5, " \
			  "used_microusd = used_microusd + ?6, held_microusd = held_microusd + ?7, in_doubt_microusd = in_doubt_microusd + ?8 " \
			  "WHERE budget = ?1 AND period_us = ?2", \
	[B_PERIOD_LOCK] = "UPDATE budget_periods SET ends_us = ends_us WHERE budget = ?1 AND period_us = ?2", \
	/* The one place where something is lent: what is there is looked at and taken in one statement. */ \
	[B_PERIOD_GRANT] = "UPDATE budget_periods SET held_tokens = held_tokens + ?3, held_microusd = held_microusd + ?4 WHERE budget = ?1 AND period_us = ?2 " \
			   "AND (CAST(?3 AS BIGINT) = 0 OR used_tokens + held_tokens + in_doubt_tokens + CAST(?3 AS BIGINT) <= (SELECT COALESCE(limit_tokens, 4611686018427387904) FROM budgets WHERE id = ?1)) " \
			   "AND (CAST(?4 AS BIGINT) = 0 OR used_microusd + held_microusd + in_doubt_microusd + CAST(?4 AS BIGINT) <= " \
			   "(SELECT COALESCE(limit_microusd, 4611686018427387904) FROM budgets WHERE id = ?1))", \
	[B_SLICE_ADD] = "INSERT INTO budget_slices (budget, slice_us, tokens, microusd) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (budget, slice_us) " \
			"DO UPDATE SET tokens = budget_slices.tokens + excluded.tokens, microusd = budget_slices.microusd + excluded.microusd", \
	[B_SLICES_BEFORE] = "SELECT COUNT(*), CAST(COALESCE(SUM(tokens), 0) AS BIGINT), CAST(COALESCE(SUM(microusd), 0) AS BIGINT) FROM budget_slices WHERE budget = ?1 AND slice_us < ?2", \
	[B_SLICES_DROP] = "DELETE FROM budget_slices WHERE budget = ?1 AND slice_us < ?2", \
	[B_SLICE_OLDEST] = "SELECT COALESCE(MIN(slice_us), 0) FROM budget_slices WHERE budget = ?1", \
	[B_LEASE_ADD] = "INSERT INTO budget_leases (" LEASE_COLUMNS ") VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, 0, 0, ?4) ON CONFLICT (budget, period_us, holder) DO NOTHING", \
	[B_LEASE_GET] = "SELECT " LEASE_COLUMNS " FROM budget_leases WHERE budget = ?1 AND period_us = ?2 AND holder = ?3", \
	[B_LEASE_SET] = "UPDATE budget_leases SET granted_tokens = ?4, settled_tokens = ?5, written_tokens = ?6, granted_microusd = ?7, settled_microusd = ?8, " \
			"written_microusd = ?9, in_doubt = ?10, since_us = ?11 WHERE budget = ?1 AND period_us = ?2 AND holder = ?3", \
	[B_LEASES_OF] = "SELECT " LEASE_COLUMNS " FROM budget_leases WHERE holder = ?1 ORDER BY budget, period_us", \
	[B_LEASES_LAPSED] = "SELECT " LEASE_COLUMNS " FROM budget_leases WHERE in_doubt = 1 AND since_us < ?1 ORDER BY budget, period_us, holder LIMIT 1000", \
	[B_LEASES_ENDED] = "SELECT l.budget, l.period_us, l.holder, l.granted_tokens, l.settled_tokens, l.written_tokens, l.granted_microusd, l.settled_microusd, " \
			   "l.written_microusd, l.in_doubt, l.since_us FROM budget_leases l JOIN budget_periods p ON p.budget = l.budget AND p.period_us = l.period_us " \
			   "WHERE p.ends_us < ?1 ORDER BY l.budget, l.period_us, l.holder LIMIT 1000", \
	[B_LEASE_DROP] = "DELETE FROM budget_leases WHERE budget = ?1 AND period_us = ?2 AND holder = ?3", \
	[B_HOLDERS] = "SELECT DISTINCT holder FROM budget_leases", \
	[B_ENTRY_ADD] = "INSERT INTO budget_entries (at_us, kind, budget, period_us, holder, debit, credit, tokens, microusd) " \
			"VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)", \
	[B_ENTRY_SUMS] = "SELECT account, CAST(COALESCE(SUM(tokens), 0) AS BIGINT), CAST(COALESCE(SUM(microusd), 0) AS BIGINT) FROM (" \
			 "SELECT credit AS account, tokens, microusd FROM budget_entries WHERE budget = ?1 AND period_us = ?2 UNION ALL " \
			 "SELECT debit AS account, -tokens AS tokens, -microusd AS microusd FROM budget_entries WHERE budget = ?1 AND period_us = ?2) AS sides " \
			 "GROUP BY account ORDER BY account",

/* A budget that was removed keeps its row: its number and what was used under it are still spoken of. limit: null = none. */
#define BUDGET_SCHEMA \
	"CREATE TABLE budgets (id INTEGER PRIMARY KEY, scope TEXT NOT NULL, tenant TEXT NOT NULL, period TEXT NOT NULL, shadow INTEGER NOT NULL," \
	" limit_tokens BIGINT, limit_microusd BIGINT, removed INTEGER NOT NULL, created_us BIGINT NOT NULL, changed_us BIGINT NOT NULL," \
	" overdrawn BIGINT NOT NULL, UNIQUE (scope, tenant, period));" \
	"CREATE TABLE budget_periods (budget BIGINT NOT NULL, period_us BIGINT NOT NULL, ends_us BIGINT NOT NULL, used_tokens BIGINT NOT NULL," \
	" held_tokens BIGINT NOT NULL, in_doubt_tokens BIGINT NOT NULL, used_microusd BIGINT NOT NULL, held_microusd BIGINT NOT NULL," \
	" in_doubt_microusd BIGINT NOT NULL, PRIMARY KEY (budget, period_us));" \
	/* of rolling windows: what was used when */ \
	"CREATE TABLE budget_slices (budget BIGINT NOT NULL, slice_us BIGINT NOT NULL, tokens BIGINT NOT NULL, microusd BIGINT NOT NULL," \
	" PRIMARY KEY (budget, slice_us));" \
	/* what a holder was given and what of it is settled; written: settled without its facts, which are not to be charged again */ \
	"CREATE TABLE budget_leases (budget BIGINT NOT NULL, period_us BIGINT NOT NULL, holder TEXT NOT NULL, granted_tokens BIGINT NOT NULL," \
	" settled_tokens BIGINT NOT NULL, written_tokens BIGINT NOT NULL, granted_microusd BIGINT NOT NULL, settled_microusd BIGINT NOT NULL," \
	" written_microusd BIGINT NOT NULL, in_doubt INTEGER NOT NULL, since_us BIGINT NOT NULL, PRIMARY KEY (budget, period_us, holder));" \
	/* double entry, never changed: from the account 'debit' to the account 'credit'; accounts: free held in_doubt used */ \
	"CREATE TABLE budget_entries (id INTEGER PRIMARY KEY, at_us BIGINT NOT NULL, kind TEXT NOT NULL, budget BIGINT NOT NULL, period_us BIGINT NOT NULL," \
	" holder TEXT NOT NULL, debit TEXT NOT NULL, credit TEXT NOT NULL, tokens BIGINT NOT NULL, microusd BIGINT NOT NULL);" \
	"CREATE INDEX budget_entries_of ON budget_entries (budget, period_us)"
#define BUDGET_UNLIMITED_COLUMN "ALTER TABLE budgets ADD COLUMN unlimited INTEGER NOT NULL DEFAULT 0"
#endif
