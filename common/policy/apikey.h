/* apikey.h - the text of an API key: what a client shows, what is public of it, and whether it can be one at all.
 *
 *   corral_sk_<id: 16>_<secret: 43><checksum: 6>        [A-Za-z0-9]; 256 random bits and more in the secret
 *
 * The id is public: it is in logs, listings and the ledger. The checksum (CRC-32C of all before it, base62) lets scanners and our own
 * door tell a key from a typing error without a look-up. Only SHA-256 of the whole text is stored. */
#ifndef CORRAL_POLICY_APIKEY_H
#define CORRAL_POLICY_APIKEY_H
#include <stdbool.h>

#include "common/base/str.h"
#include "common/data/secret.h"

enum { APIKEY_ID = 16, APIKEY_TEXT = 10 + APIKEY_ID + 1 + 43 + 6 };

void apikey_make(char ret_text[APIKEY_TEXT + 1], char ret_id[APIKEY_ID + 1], uint8_t ret_hash[SHA256_BYTES]);
/* False: it is no key of ours. *ret_id points into the text. */
bool apikey_parse(struct str text, struct str *ret_id);
#endif
