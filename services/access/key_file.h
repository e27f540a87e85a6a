/* key_file.h - a file with the text of one key, and blanks or a newline around it. */
#ifndef CORRAL_ACCESS_KEY_FILE_H
#define CORRAL_ACCESS_KEY_FILE_H
#include "common/base/arena.h"
#include "common/base/err.h"

/* Both point into the arena; the text is wiped with it. ERR_INVALID says how to make a key. */
enum err key_file_read(const char *path, struct arena *, struct str *ret_text, struct str *ret_id, struct why *);
#endif
