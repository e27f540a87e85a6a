/* narrow.h - is a key that somebody makes no stronger than the one who makes it? Pure.
 *
 * What the maker has and the new key does not say is inherited (lists, limits, the end); what it says must lie within. */
#ifndef CORRAL_ACCESS_NARROW_H
#define CORRAL_ACCESS_NARROW_H
#include "common/policy/authz.h"

/* Changes 'key' by what it inherits; new lists point into the maker's. ERR_FORBIDDEN names what goes too far. */
enum err narrow(const struct subject *maker, Corral__Key *key, struct why *);
/* The same question without inheriting, for keys that are there already: may 'maker' replace or end it? */
enum err narrow_holds(const struct subject *maker, const Corral__Key *key, struct why *);
/* Everything that 'inner' matches is matched by 'outer'; false when that is not certain. '*' stands for any characters. */
bool pattern_within(struct str inner, struct str outer);
#endif
