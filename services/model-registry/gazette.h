/* gazette.h - what changes in the catalogue, as events of the topic catalogue.v1: models, backends, what is loaded where. No sample of load is one.
 *
 *   new snapshot, compared with what was told ─▶ file "catalogue.told" ─▶ spool "catalogue-0" ─▶ Kafka, or whoever reads the spool (corral events tail)
 *
 * The file has what was told and the events that told it last, and is written before the spool: who is killed between tells these again, with the ids that they
 * had, unless the spool ends with them. While the spool cannot be written, or what was written last is not on the disk, nothing is compared; then what has
 * come of it in the end is told. */
#ifndef REGISTRY_GAZETTE_H
#define REGISTRY_GAZETTE_H
#include "common/io/snapshot.h"
#include "common/store/herald.h"
#include "models.pb-c.h"

struct gazette;

struct gazette *gazette_new(struct herald *, const char *state_dir);      /* the herald is the caller's */
/* After it was published. False: not all was told, and it wants to hear the same one, or a newer one, again. */
bool gazette_hear(struct gazette *, const Corral__ModelSnapshot *, struct snapshot_id);
void gazette_free(struct gazette *);      /* NULL is fine */
/* The key is the model, else the backend. */
void gazette_label(struct str payload, struct bus_label *);
#endif
