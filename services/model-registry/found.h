/* found.h - what one visit to a backend finds there: its models with their traits, as the backend tells them. */
#ifndef REGISTRY_FOUND_H
#define REGISTRY_FOUND_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/str.h"

/* One model on one backend. Strings are never NULL; "" and 0 mean that the backend did not say. */
struct found {
	const char *name;             /* as listed to clients */
	const char *remote_name;      /* as this backend calls it */
	const char *family, *parameters, *quantization, *digest, *modified_at, *format, *template_text, *architecture;
	uint64_t parameter_count, size_bytes;
	uint32_t context_length;      /* the model's own */
	uint32_t context_in_force;
	uint32_t embedding_length;
	uint32_t caps;                /* LLM_CAP_* */
	uint32_t slots;
	bool detailed;                /* nothing more is to be asked about this digest */
	bool loaded;
	uint64_t size_loaded_bytes;   /* in memory, that of the GPU included; 0 = unknown */
	uint64_t size_vram_bytes;
	int64_t expires_at_us;
	int64_t seen_us;              /* wall clock of the last listing that had it */
	uint8_t missed;               /* good listings in a row without it */
};

struct listing {
	struct arena *mem;            /* holds everything here */
	struct found *models;
	size_t n, cap;
	const char *version;          /* of the server */
	bool exclusive;               /* the server answers every name with what it has: nothing else may stay listed */
	uint32_t slots;               /* shared by all models of the backend; 0 = each replica has its own */
	bool router;                  /* a llama-server with several models, which it loads and unloads when told */
};

struct listing *listing_new(void);
void listing_free(struct listing *);      /* NULL is fine */
/* A new entry with that remote name; 'name' is remote_name until changed. Valid until the next listing_add(). */
struct found *listing_add(struct listing *, struct str remote_name);
struct found *listing_find(const struct listing *, struct str remote_name);       /* NULL when absent */
size_t listing_present(const struct listing *);           /* how many were there when last looked; NULL is fine */
/* False for one that is there, and for what is no name: empty, above 255 bytes, with blanks or control characters
 * (names go into headers, paths and logs). */
bool listing_wants(const struct listing *, struct str remote_name);
/* Takes an entry of it out; what lay behind it moves. */
void listing_drop(struct listing *, struct found *);
/* A copy, strings included. */
struct found *listing_copy(struct listing *, const struct found *);

/* What both names mean: "x" is "x:latest". Case counts here. */
struct str model_key(struct str name);
bool model_same(struct str a, struct str b);
/* Served by the vendor's cloud and not by the machine that lists it. */
bool model_is_cloud(struct str name);
/* 8030261248 -> "8.0B", as model servers write it; "" for 0. In the arena. */
const char *parameters_text(struct arena *, uint64_t count);
/* "8.0B" -> 8000000000; 0 when it is not that. */
uint64_t parameters_count(struct str text);
#endif
