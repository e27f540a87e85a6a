/* views_sql.h - views for analysts, described in docs/sql-views.md; the same text for every database, so no functions of one alone.
 * A migration that is out is never changed: a view that has to be different gets another name, or is dropped and made by a later migration. */
#ifndef CORRAL_USAGE_VIEWS_SQL_H
#define CORRAL_USAGE_VIEWS_SQL_H

#define VIEW_DIMS "d.tenant, d.key_id, d.model, d.backend, d.provider, d.dialect, d.task_type"
#define VIEW_SUM(column) "CAST(SUM(" column ") AS BIGINT)"

#define LEDGER_VIEWS \
	"CREATE VIEW v_attempts AS SELECT a.request_id, a.attempt, " VIEW_DIMS ", d.status, a.started_us, a.ended_us," \
	" (CASE WHEN a.started_us > 0 THEN a.started_us ELSE a.ended_us END) / 86400000000 AS day, a.prompt_tokens, a.completion_tokens," \
	" a.cost_microusd, a.latency_us, a.gpu_us, a.energy_mj, a.cached FROM attempts a JOIN dims d ON d.id = a.dim;" \
	"CREATE VIEW v_requests AS SELECT a.request_id, MIN(d.tenant) AS tenant, MIN(d.key_id) AS key_id, COUNT(*) AS rows_of_it," \
	" MAX(CASE WHEN d.status = 'ok' THEN 1 ELSE 0 END) AS answered, MAX(a.cached) AS cached, MAX(a.ended_us) AS ended_us," \
	" " VIEW_SUM("a.prompt_tokens") " AS prompt_tokens, " VIEW_SUM("a.completion_tokens") " AS completion_tokens," \
	" " VIEW_SUM("a.cost_microusd") " AS cost_microusd FROM attempts a JOIN dims d ON d.id = a.dim GROUP BY a.request_id;" \
	"CREATE VIEW v_usage_daily AS SELECT s.hour / 24 AS day, " VIEW_DIMS ", d.status, " VIEW_SUM("s.requests") " AS requests," \
	" " VIEW_SUM("s.attempts") " AS attempts, " VIEW_SUM("s.finished") " AS finished, " VIEW_SUM("s.ok") " AS ok, " VIEW_SUM("s.errors") " AS errors," \
	" " VIEW_SUM("s.cached") " AS cached_requests, " VIEW_SUM("s.prompt_tokens") " AS prompt_tokens," \
	" " VIEW_SUM("s.completion_tokens") " AS completion_tokens, " VIEW_SUM("s.cost_microusd") " AS cost_microusd, " VIEW_SUM("s.gpu_us") " AS gpu_us," \
	" " VIEW_SUM("s.energy_mj") " AS energy_mj FROM sums s JOIN dims d ON d.id = s.dim GROUP BY s.hour / 24, " VIEW_DIMS ", d.status;" \
	"CREATE VIEW v_prices AS SELECT id, provider, backend, model, machine, valid_from_us, LEAD(valid_from_us) OVER (PARTITION BY provider, backend," \
	" model, machine ORDER BY valid_from_us) AS valid_until_us, input_microusd, cached_input_microusd, output_microusd, gpu_hour_microusd," \
	" kwh_microusd, currency, set_by, set_at_us FROM prices;"

#define QUALITY_VIEWS \
	"CREATE VIEW v_quality AS SELECT day, tenant, model, task_type, language, answers, ok, errors, aborted, regenerated, asked_again, tokens," \
	" generate_us, latency_us, ttft_us, n_ttft FROM quality_sums;" \
	"CREATE VIEW v_feedback AS SELECT request_id, author, tenant, at_us, at_us / 86400000000 AS day, rating, thumbs, success, tests_passed, tests_total" \
	" FROM feedback;"
#endif
