/* The packed form is a sequence of items. A control byte below 128 is followed by that many literal bytes plus one. A control byte of
 * 128 or more stands for a match of (control - 128 + MATCH_MIN) bytes, and is followed by its distance, two bytes, low byte first. */
#include "squash.h"

#include <string.h>

enum {
  LITERALS_MAX = 128,
  MATCH_MIN = 4,
  MATCH_MAX = 127 + MATCH_MIN,
  DISTANCE_MAX = 65535,
  TABLE_BITS = 14,
};

const char *squash_version(void) { return SQUASH_VERSION; }

uint32_t squash_crc32c(uint32_t seed, const void *bytes, size_t length) {
  const uint8_t *at = bytes;
  uint32_t crc = ~seed;
  while (length-- > 0) {
    crc ^= *at++;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1)));
  }
  return ~crc;
}

uint64_t squash_fnv1a(const void *bytes, size_t length) {
  const uint8_t *at = bytes;
  uint64_t hash = 0xcbf29ce484222325u;
  while (length-- > 0) hash = (hash ^ *at++) * 0x100000001b3u;
  return hash;
}

size_t squash_bound(size_t length) { return length + length / LITERALS_MAX + 1; }

static uint32_t slot(const uint8_t *at) {
  uint32_t word;
  memcpy(&word, at, sizeof word);
  return (word * 2654435761u) >> (32 - TABLE_BITS);
}

/* Writes the literals between two places. */
static uint8_t *put_literals(uint8_t *out, const uint8_t *from, const uint8_t *to) {
  while (from < to) {
    size_t count = (size_t)(to - from);
    if (count > LITERALS_MAX) count = LITERALS_MAX;
    *out++ = (uint8_t)(count - 1);
    memcpy(out, from, count);
    out += count;
    from += count;
  }
  return out;
}

size_t squash_pack(const void *bytes, size_t length, void *packed) {
  const uint8_t *begin = bytes, *end = begin + length, *at = begin, *literals = begin;
  uint8_t *out = packed;
  /* One more than the offset of the last four bytes with this hash, or 0. */
  size_t table[1 << TABLE_BITS] = {0};

  while ((size_t)(end - at) >= MATCH_MIN) {
    size_t *known = &table[slot(at)];
    const uint8_t *match = *known == 0 ? NULL : begin + *known - 1;
    *known = (size_t)(at - begin) + 1;
    if (match == NULL || at - match > DISTANCE_MAX || memcmp(match, at, MATCH_MIN) != 0) {
      at++;
      continue;
    }
    size_t count = MATCH_MIN, most = (size_t)(end - at);
    if (most > MATCH_MAX) most = MATCH_MAX;
    while (count < most && match[count] == at[count]) count++;
    out = put_literals(out, literals, at);
    *out++ = (uint8_t)(128 + count - MATCH_MIN);
    *out++ = (uint8_t)((at - match) & 255);
    *out++ = (uint8_t)((at - match) >> 8);
    at += count;
    literals = at;
  }
  return (size_t)(put_literals(out, literals, end) - (uint8_t *)packed);
}

ptrdiff_t squash_unpack(const void *packed, size_t length, void *bytes, size_t capacity) {
  const uint8_t *at = packed, *end = at + length;
  uint8_t *begin = bytes, *out = begin;
  while (at < end) {
    size_t control = *at++, count;
    if (control < 128) {
      count = control + 1;
      if ((size_t)(end - at) < count || capacity - (size_t)(out - begin) < count) return -1;
      memcpy(out, at, count);
      at += count;
      out += count;
      continue;
    }
    if (end - at < 2) return -1;
    size_t distance = at[0] | (size_t)at[1] << 8;
    at += 2;
    count = control - 128 + MATCH_MIN;
    if (distance == 0 || distance > (size_t)(out - begin) || capacity - (size_t)(out - begin) < count) return -1;
    /* Byte by byte: a match may overlap what it produces. */
    for (; count > 0; count--, out++) *out = *(out - distance);
  }
  return out - begin;
}
