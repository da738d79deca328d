/* Checks the library while it is compiled. */
#include "squash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed;

static void expect(int holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "check: %s\n", what);
  failed = 1;
}

static void round_trip(const unsigned char *bytes, size_t length, size_t at_most) {
  unsigned char *packed = malloc(squash_bound(length)), *again = malloc(length + 1);
  if (packed == NULL || again == NULL) abort();
  size_t size = squash_pack(bytes, length, packed);
  expect(size <= squash_bound(length), "more than the bound");
  expect(size <= at_most, "it did not shrink");
  expect(squash_unpack(packed, size, again, length) == (ptrdiff_t)length, "the length changed");
  expect(memcmp(bytes, again, length) == 0, "the bytes changed");
  if (length > 0) {
    expect(squash_unpack(packed, size, again, length - 1) == -1, "more came out than there is room for");
    expect(squash_unpack(packed, size - 1, again, length) != (ptrdiff_t)length, "a missing byte passed");
  }
  free(packed);
  free(again);
}

int main(void) {
  enum { LENGTH = 300000 };
  static unsigned char bytes[LENGTH];
  unsigned seed = 1;

  expect(squash_crc32c(0, "123456789", 9) == 0xe3069283u, "CRC-32C of 123456789");
  expect(squash_crc32c(squash_crc32c(0, "1234", 4), "56789", 5) == 0xe3069283u, "CRC-32C in two parts");
  expect(squash_fnv1a("", 0) == 0xcbf29ce484222325u, "FNV-1a of nothing");
  expect(squash_fnv1a("foobar", 6) == 0x85944171f73967e8u, "FNV-1a of foobar");

  round_trip(bytes, 0, 0);
  round_trip((const unsigned char *)"abc", 3, 4);
  round_trip(bytes, LENGTH, LENGTH / 30);
  for (size_t at = 0; at < LENGTH; at++) bytes[at] = "one two three "[(at + at / 1000) % 14];
  round_trip(bytes, LENGTH, LENGTH / 10);
  for (size_t at = 0; at < LENGTH; at++) bytes[at] = (unsigned char)((seed = seed * 1103515245u + 12345u) >> 16);
  round_trip(bytes, LENGTH, squash_bound(LENGTH));
  return failed;
}
