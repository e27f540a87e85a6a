/* prune.c - outcomes and units of experiments that ended long ago are removed; their sums, and so their analysis, stay.
 *
 * What an outcome counted for is needed when something more is learnt of its request. So an experiment is closed first (Experiment.closed_at_us):
 * from then on what comes late of it changes nothing. Then its rows go, some at a time. */
#include "common/data/log.h"
#include "services/ab-testing/ab.h"
#include "services/ab-testing/sql.h"

enum { ROWS_AT_ONCE = 2000 };

static bool is_old(const struct trial *t, int64_t before_us)
{
	return trial_is_over(t->e) && t->e->ended_at_us && t->e->ended_at_us <= before_us;
}

static bool remove_some(struct ab *ab, const struct trial *t, enum ab_statement what, int64_t *add_to, struct why *why)
{
	int64_t changed = 0;

	if (!db_run(ab->db, what, (struct db_value[]){ DB_Z(t->e->id), DB_I(ROWS_AT_ONCE) }, 2, NULL, NULL, &changed, why))
		return false;
	*add_to += changed;
	return true;
}

/* 'pruned' is set when nothing was left, so that a restart looks once more and no tick after that. */
static bool prune_one(struct ab *ab, struct trial *t, int64_t now_us, int64_t *add_to, struct why *why)
{
	int64_t removed = 0;

	if (!t->e->closed_at_us && !trial_close(ab, t, now_us, why))
		return false;
	if (!remove_some(ab, t, X_OUTCOMES_PRUNE, &removed, why) || !remove_some(ab, t, X_UNITS_PRUNE, &removed, why))
		return false;
	t->pruned = !removed;
	*add_to += removed;
	return true;
}

bool prune(struct ab *ab, int64_t keep_us, int64_t now_us, int64_t *ret_removed, struct why *why)
{
	*ret_removed = 0;
	list_each(it, &ab->trials) {
		struct trial *t = list_entry(it, struct trial, node);

		if (!t->pruned && is_old(t, now_us - keep_us))
			return prune_one(ab, t, now_us, ret_removed, why);
	}
	return true;
}
