/* ledger_sql.c - see ledger_sql.h. */
#include "services/usage-tracker/ledger_sql.h"

#include "services/usage-tracker/views_sql.h"

#define ROW_COLUMNS \
	"request_id, attempt, dim, state, started_us, ended_us, prompt_tokens, completion_tokens, cost_microusd, latency_us, gpu_us, energy_mj, " \
	"cached, final_seq, event"
#define ROW_SET \
	"dim = ?3, state = ?4, started_us = ?5, ended_us = ?6, prompt_tokens = ?7, completion_tokens = ?8, cost_microusd = ?9, latency_us = ?10, " \
	"gpu_us = ?11, energy_mj = ?12, cached = ?13, final_seq = ?14, event = ?15 WHERE request_id = ?1 AND attempt = ?2"
#define SUMS_COLUMNS "attempts, requests, finished, ok, errors, cached, prompt_tokens, completion_tokens, cost_microusd, gpu_us, energy_mj, latency"
#define PRICE_COLUMNS \
	"id, valid_from_us, provider, backend, model, machine, input_microusd, cached_input_microusd, output_microusd, gpu_hour_microusd, kwh_microusd, " \
	"currency, set_by, set_at_us"
#define QUALITY_COLUMNS "answers, ok, errors, aborted, regenerated, asked_again, tokens, generate_us, latency_us, ttft_us, n_ttft"
#define QUALITY_PLUS(column) column " = quality_sums." column " + excluded." column
/* One word for each author on whether it was good: tests, else success, else thumbs; null = none. */
#define SAID_GOOD "CASE WHEN f.tests_total > 0 THEN CASE WHEN f.tests_passed = f.tests_total THEN 1 ELSE 0 END WHEN f.success IS NOT NULL THEN f.success ELSE f.thumbs END"
#define SAID_OF "FROM feedback f WHERE f.request_id = e.request_id AND (f.tenant = e.tenant OR f.tenant = '')"
/* By all its attempts, and by itself when it is a shadow. */
#define TAKEN(what) \
	"(SELECT CAST(COALESCE(SUM(" what "), 0) AS BIGINT) FROM attempts a WHERE a.request_id = e.request_id) + " \
	"(SELECT CAST(COALESCE(SUM(" what "), 0) AS BIGINT) FROM shadows s WHERE s.request_id = e.request_id)"
#define DIM_COLUMNS "tenant, key_id, model, backend, provider, dialect, task_type, status"

const char *const ledger_sql[L_STATEMENTS] = {
	[L_CURSOR_GET] = "SELECT position, epoch FROM cursors WHERE topic = ?1 AND source = ?2",
	[L_CURSOR_NEW] = "INSERT INTO cursors (topic, source, position, epoch) VALUES (?1, ?2, ?3, ?4)",
	[L_CURSOR_MOVE] = "UPDATE cursors SET position = ?3, epoch = ?4 WHERE topic = ?1 AND source = ?2 AND position = ?5 AND epoch <= ?4",

	[L_ROW_ADD] = "INSERT INTO attempts (" ROW_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) "
		      "ON CONFLICT (request_id, attempt) DO NOTHING",
	[L_ROW_SET] = "UPDATE attempts SET " ROW_SET,
	[L_ROW_FINISH] = "UPDATE attempts SET " ROW_SET " AND state = 1",
	[L_ROW_GET] = "SELECT " ROW_COLUMNS " FROM attempts WHERE request_id = ?1 AND attempt = ?2",
	[L_ROWS_OF_REQUEST] = "SELECT " ROW_COLUMNS " FROM attempts WHERE request_id = ?1 ORDER BY attempt",
	[L_ROWS_BETWEEN] = "SELECT " ROW_COLUMNS " FROM attempts WHERE request_id >= ?1 AND request_id < ?2 ORDER BY request_id, attempt",
	[L_ROWS_NEWEST] = "SELECT * FROM (SELECT " ROW_COLUMNS " FROM attempts WHERE request_id >= ?1 ORDER BY request_id DESC LIMIT ?2) AS newest "
			  "ORDER BY request_id, attempt",

	[L_CORRECTION_ADD] = "INSERT INTO corrections (request_id, attempt, seq, applied, prompt_tokens, completion_tokens, cost_microusd, gpu_us, energy_mj, event) "
			     "VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (request_id, attempt, seq) DO NOTHING",
	[L_CORRECTIONS_WAITING] = "SELECT seq, prompt_tokens, completion_tokens, cost_microusd, gpu_us, energy_mj, event FROM corrections "
				  "WHERE request_id = ?1 AND attempt = ?2 AND applied = 0",
	[L_CORRECTION_APPLIED] = "UPDATE corrections SET applied = 1 WHERE request_id = ?1 AND attempt = ?2 AND applied = 0",
	[L_CORRECTIONS_COUNT] = "SELECT count(*) FROM corrections WHERE applied = 0",

	[L_DIM_FIND] = "SELECT id FROM dims WHERE tenant = ?1 AND key_id = ?2 AND model = ?3 AND backend = ?4 AND provider = ?5 AND dialect = ?6 "
		       "AND task_type = ?7 AND status = ?8",
	[L_DIM_ADD] = "INSERT INTO dims (" DIM_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id",
	[L_DIM_GET] = "SELECT " DIM_COLUMNS " FROM dims WHERE id = ?1",

	[L_SUMS_GET] = "SELECT hour, dim, " SUMS_COLUMNS " FROM sums WHERE hour = ?1 AND dim = ?2",
	[L_SUMS_SET] = "INSERT INTO sums (hour, dim, " SUMS_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) "
		       "ON CONFLICT (hour, dim) DO UPDATE SET attempts = ?3, requests = ?4, finished = ?5, ok = ?6, errors = ?7, cached = ?8, prompt_tokens = ?9, "
		       "completion_tokens = ?10, cost_microusd = ?11, gpu_us = ?12, energy_mj = ?13, latency = ?14",
	[L_SUMS_BETWEEN] = "SELECT hour, dim, " SUMS_COLUMNS " FROM sums WHERE hour >= ?1 AND hour < ?2 ORDER BY hour, dim",

	[L_DEAD_ADD] = "INSERT INTO dead_letters (at_us, topic, source, position, reason, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",

	[L_FEEDBACK_OF] = "SELECT d.tenant FROM attempts a JOIN dims d ON d.id = a.dim WHERE a.request_id = ?1 ORDER BY a.attempt LIMIT 1",
	[L_FEEDBACK_KNOWN] = "SELECT 1 FROM feedback WHERE request_id = ?1 AND author = ?2",
	[L_FEEDBACK_PUT] = "INSERT INTO feedback (request_id, author, tenant, at_us, rating, thumbs, success, tests_passed, tests_total, corrected_output, comment) "
			   "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (request_id, author) DO UPDATE SET at_us = ?4, rating = ?5, "
			   "thumbs = ?6, success = ?7, tests_passed = ?8, tests_total = ?9, corrected_output = ?10, comment = ?11 WHERE excluded.at_us >= feedback.at_us",
	BUDGET_SQL

	[L_PRICES_ALL] = "SELECT " PRICE_COLUMNS " FROM prices ORDER BY id",
	[L_PRICE_ADD] = "INSERT INTO prices (" PRICE_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",

	[L_QUALITY_ADD] = "INSERT INTO quality_sums (day, tenant, model, task_type, language, " QUALITY_COLUMNS ") "
			  "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) "
			  "ON CONFLICT (day, tenant, model, task_type, language) DO UPDATE SET " QUALITY_PLUS("answers") ", " QUALITY_PLUS("ok") ", "
			  QUALITY_PLUS("errors") ", " QUALITY_PLUS("aborted") ", " QUALITY_PLUS("regenerated") ", " QUALITY_PLUS("asked_again") ", "
			  QUALITY_PLUS("tokens") ", " QUALITY_PLUS("generate_us") ", " QUALITY_PLUS("latency_us") ", " QUALITY_PLUS("ttft_us") ", "
			  QUALITY_PLUS("n_ttft"),
	[L_QUALITY_BETWEEN] = "SELECT tenant, model, task_type, language, " QUALITY_COLUMNS " FROM quality_sums WHERE day >= ?1 AND day < ?2",
	[L_FEEDBACK_BETWEEN] = "SELECT request_id, tenant, rating, thumbs, success, tests_passed, tests_total FROM feedback WHERE at_us >= ?1 AND at_us < ?2 "
			       "ORDER BY at_us DESC LIMIT 20000",
	[L_RUN_ADD] = "INSERT INTO spool_runs (run, last_us, finals_said, tokens_said, finals_had, tokens_had) VALUES (?1, ?2, ?3, ?4, ?5, ?6) "
		      "ON CONFLICT (run) DO UPDATE SET "
		      "last_us = CASE WHEN excluded.finals_said > spool_runs.finals_said THEN excluded.last_us ELSE spool_runs.last_us END, "
		      "tokens_said = CASE WHEN excluded.finals_said > spool_runs.finals_said THEN excluded.tokens_said ELSE spool_runs.tokens_said END, "
		      "finals_said = CASE WHEN excluded.finals_said > spool_runs.finals_said THEN excluded.finals_said ELSE spool_runs.finals_said END, "
		      "finals_had = spool_runs.finals_had + excluded.finals_had, tokens_had = spool_runs.tokens_had + excluded.tokens_had",
	[L_RUNS_MISSING] = "SELECT CAST(COALESCE(SUM(ABS(finals_said - finals_had)), 0) AS BIGINT), "
			   "CAST(COALESCE(SUM(ABS(tokens_said - tokens_had)), 0) AS BIGINT) FROM spool_runs",
	[L_HOUR_SUMS] = "SELECT CAST(COALESCE(SUM(attempts), 0) AS BIGINT), CAST(COALESCE(SUM(requests), 0) AS BIGINT), "
			"CAST(COALESCE(SUM(prompt_tokens), 0) AS BIGINT), CAST(COALESCE(SUM(completion_tokens), 0) AS BIGINT), "
			"CAST(COALESCE(SUM(cost_microusd), 0) AS BIGINT) FROM sums WHERE hour = ?1",
	[L_HOUR_BEFORE] = "SELECT COALESCE(MAX(hour), -1) FROM sums WHERE hour < ?1",
	[L_ROWS_TALLY] = "SELECT CAST(COALESCE(SUM(CASE WHEN attempt >= 1 THEN 1 ELSE 0 END), 0) AS BIGINT), "
			 "CAST(COALESCE(SUM(CASE WHEN attempt <= 1 THEN 1 ELSE 0 END), 0) AS BIGINT), CAST(COALESCE(SUM(prompt_tokens), 0) AS BIGINT), "
			 "CAST(COALESCE(SUM(completion_tokens), 0) AS BIGINT), CAST(COALESCE(SUM(cost_microusd), 0) AS BIGINT) "
			 "FROM attempts WHERE request_id >= ?1 AND request_id < ?2",
	[L_OUTCOME_PUT] = "INSERT INTO experiment_requests (request_id, seq, experiment_id, arm, unit, tenant, status, cached, request_us, ended_us) "
			  "VALUES (?1, (SELECT COALESCE(MAX(seq), 0) + 1 FROM experiment_requests), ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) "
			  "ON CONFLICT (request_id) DO UPDATE SET seq = excluded.seq, status = excluded.status, cached = excluded.cached, "
			  "request_us = excluded.request_us, ended_us = excluded.ended_us",
	[L_OUTCOME_TOUCH] = "UPDATE experiment_requests SET seq = (SELECT MAX(seq) + 1 FROM experiment_requests) WHERE request_id = ?1",
	[L_OUTCOMES_AFTER] = "SELECT e.seq, e.request_id, e.experiment_id, e.arm, e.unit, e.status, e.cached, e.request_us, e.ended_us, "
			     TAKEN("prompt_tokens + completion_tokens") ", " TAKEN("cost_microusd") ", "
			     "(SELECT CAST(COALESCE(SUM(" SAID_GOOD "), 0) AS BIGINT) " SAID_OF "), (SELECT COUNT(" SAID_GOOD ") " SAID_OF "), "
			     "(SELECT CAST(COALESCE(SUM(f.rating), 0) AS BIGINT) " SAID_OF "), (SELECT COUNT(f.rating) " SAID_OF ") "
			     "FROM experiment_requests e WHERE e.seq > ?1 ORDER BY e.seq LIMIT ?2",
	[L_SHADOW_ADD] = "INSERT INTO shadows (request_id, of_request, experiment_id, arm, tenant, ended_us, prompt_tokens, completion_tokens, cost_microusd, event) "
			 "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (request_id) DO NOTHING",
	[L_SHADOWS_OF] = "SELECT event FROM shadows WHERE request_id = ?1 OR of_request = ?1 ORDER BY request_id",
	INTAKE_STATEMENTS(L_INTAKE),
};

const struct db_migration ledger_migrations[] = {
	{ 1,
	  "CREATE TABLE cursors (topic TEXT NOT NULL, source TEXT NOT NULL, position BIGINT NOT NULL, epoch BIGINT NOT NULL, PRIMARY KEY (topic, source));"
	  "CREATE TABLE dims (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, key_id TEXT NOT NULL, model TEXT NOT NULL, backend TEXT NOT NULL,"
	  " provider TEXT NOT NULL, dialect TEXT NOT NULL, task_type TEXT NOT NULL, status TEXT NOT NULL,"
	  " UNIQUE (tenant, key_id, model, backend, provider, dialect, task_type, status));"
	  /* state: 1 = START came, 2 = FINAL came; event: the packed UsageEvent of the FINAL, or of the START while the row is open */
	  "CREATE TABLE attempts (request_id BLOB NOT NULL, attempt INTEGER NOT NULL, dim INTEGER NOT NULL, state INTEGER NOT NULL,"
	  " started_us BIGINT NOT NULL, ended_us BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL,"
	  " cost_microusd BIGINT NOT NULL, latency_us BIGINT NOT NULL, gpu_us BIGINT NOT NULL, energy_mj BIGINT NOT NULL,"
	  " cached INTEGER NOT NULL, final_seq BIGINT NOT NULL, event BLOB NOT NULL, PRIMARY KEY (request_id, attempt)) WITHOUT ROWID;"
	  "CREATE TABLE corrections (request_id BLOB NOT NULL, attempt INTEGER NOT NULL, seq BIGINT NOT NULL, applied INTEGER NOT NULL,"
	  " prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL, cost_microusd BIGINT NOT NULL, gpu_us BIGINT NOT NULL,"
	  " energy_mj BIGINT NOT NULL, event BLOB NOT NULL, PRIMARY KEY (request_id, attempt, seq)) WITHOUT ROWID;"
	  "CREATE TABLE sums (hour BIGINT NOT NULL, dim INTEGER NOT NULL, attempts BIGINT NOT NULL, requests BIGINT NOT NULL, finished BIGINT NOT NULL,"
	  " ok BIGINT NOT NULL, errors BIGINT NOT NULL, cached BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL,"
	  " cost_microusd BIGINT NOT NULL, gpu_us BIGINT NOT NULL, energy_mj BIGINT NOT NULL, latency BLOB NOT NULL, PRIMARY KEY (hour, dim)) WITHOUT ROWID;"
	  "CREATE TABLE dead_letters (id INTEGER PRIMARY KEY, at_us BIGINT NOT NULL, topic TEXT NOT NULL, source TEXT NOT NULL, position BIGINT NOT NULL,"
	  " reason TEXT NOT NULL, bytes BLOB NOT NULL);"
	  "CREATE VIEW usage AS SELECT lower(hex(a.request_id)) AS request_id, a.attempt, d.tenant, d.key_id, d.model, d.backend, d.provider, d.dialect,"
	  " d.task_type, CASE WHEN a.state = 1 THEN 'open' ELSE d.status END AS status, a.started_us, a.ended_us, a.prompt_tokens, a.completion_tokens,"
	  " a.cost_microusd, a.latency_us, a.gpu_us, a.energy_mj, a.cached FROM attempts a JOIN dims d ON d.id = a.dim" },
	/* what was not given is null */
	{ 2, "CREATE TABLE feedback (request_id BLOB NOT NULL, author TEXT NOT NULL, tenant TEXT NOT NULL, at_us BIGINT NOT NULL, rating INTEGER,"
	     " thumbs INTEGER, success INTEGER, tests_passed BIGINT, tests_total BIGINT, corrected_output TEXT, comment TEXT,"
	     " PRIMARY KEY (request_id, author)) WITHOUT ROWID;" },
	{ 3, BUDGET_SCHEMA },
	/* input, cached input and output: micro-dollars per million tokens; gpu_hour and kwh: micro-dollars. Rows are added and never changed. */
	{ 4, "CREATE TABLE prices (id BIGINT PRIMARY KEY, valid_from_us BIGINT NOT NULL, provider TEXT NOT NULL, backend TEXT NOT NULL, model TEXT NOT NULL,"
	     " machine INTEGER NOT NULL, input_microusd BIGINT NOT NULL, cached_input_microusd BIGINT NOT NULL, output_microusd BIGINT NOT NULL,"
	     " gpu_hour_microusd BIGINT NOT NULL, kwh_microusd BIGINT NOT NULL, currency TEXT NOT NULL, set_by TEXT NOT NULL, set_at_us BIGINT NOT NULL,"
	     " UNIQUE (provider, backend, model, machine, valid_from_us));" },
	/* finals and tokens that each run of a spool said it had written, and those that came; see reconcile.h */
	{ 5, "CREATE TABLE spool_runs (run BIGINT PRIMARY KEY, last_us BIGINT NOT NULL, finals_said BIGINT NOT NULL, tokens_said BIGINT NOT NULL,"
	     " finals_had BIGINT NOT NULL, tokens_had BIGINT NOT NULL);" },
	{ 6, LEDGER_VIEWS },
	{ 7, INTAKE_SCHEMA },
	/* see quality.h */
	{ 8, "CREATE TABLE quality_sums (day BIGINT NOT NULL, tenant TEXT NOT NULL, model TEXT NOT NULL, task_type TEXT NOT NULL, language TEXT NOT NULL,"
	     " answers BIGINT NOT NULL, ok BIGINT NOT NULL, errors BIGINT NOT NULL, aborted BIGINT NOT NULL, regenerated BIGINT NOT NULL,"
	     " asked_again BIGINT NOT NULL, tokens BIGINT NOT NULL, generate_us BIGINT NOT NULL, latency_us BIGINT NOT NULL, ttft_us BIGINT NOT NULL,"
	     " n_ttft BIGINT NOT NULL, PRIMARY KEY (day, tenant, model, task_type, language));" QUALITY_VIEWS },
	{ 9, BUDGET_UNLIMITED_COLUMN },
	/* see experiments.h */
	{ 10, "CREATE TABLE experiment_requests (request_id BLOB PRIMARY KEY, seq BIGINT NOT NULL, experiment_id TEXT NOT NULL, arm TEXT NOT NULL,"
	      " unit TEXT NOT NULL, tenant TEXT NOT NULL, status TEXT NOT NULL, cached INTEGER NOT NULL, request_us BIGINT NOT NULL, ended_us BIGINT NOT NULL);"
	      "CREATE UNIQUE INDEX experiment_requests_by_seq ON experiment_requests (seq);" },
	/* see shadows.h */
	{ 11, "CREATE TABLE shadows (request_id BLOB PRIMARY KEY, of_request BLOB NOT NULL, experiment_id TEXT NOT NULL, arm TEXT NOT NULL, tenant TEXT NOT NULL,"
	      " ended_us BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL, cost_microusd BIGINT NOT NULL, event BLOB NOT NULL);"
	      "CREATE INDEX shadows_by_request ON shadows (of_request);" },
	{ 0 }
};
