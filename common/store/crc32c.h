/* crc32c.h - CRC-32C (Castagnoli), the checksum of what lies in a spool: by the processor's instruction where it has one. */
#ifndef CORRAL_STORE_CRC32C_H
#define CORRAL_STORE_CRC32C_H
#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(const void *p, size_t n);
uint32_t crc32c_table(const void *p, size_t n);   /* the same without the instruction; for tests and other processors */
#endif
