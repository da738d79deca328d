/* squash: a checksum, a hash and a small compressor for lines of text. */
#ifndef SQUASH_H
#define SQUASH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SQUASH_VERSION "1.0"

/* The version that is linked. */
const char *squash_version(void);

/* CRC-32C (Castagnoli) of the bytes; pass the result of an earlier call as `seed` to continue it, or 0 to begin. */
uint32_t squash_crc32c(uint32_t seed, const void *bytes, size_t length);

/* FNV-1a, 64 bits. */
uint64_t squash_fnv1a(const void *bytes, size_t length);

/* The most bytes that packing `length` bytes can give. */
size_t squash_bound(size_t length);

/* Packs `length` bytes into `packed`, which has room for squash_bound(length). Returns the packed size. */
size_t squash_pack(const void *bytes, size_t length, void *packed);

/* Unpacks into `bytes`, which has room for `capacity` bytes. Returns the unpacked size, or -1 if the input is damaged or too large. */
ptrdiff_t squash_unpack(const void *packed, size_t length, void *bytes, size_t capacity);

#ifdef __cplusplus
}
#endif

#endif
