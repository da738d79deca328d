/* gz: compresses standard input to standard output; gz -d: decompresses; gz --version. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

static char buffer[1 << 16];

static int fail(const char *what) {
    fprintf(stderr, "gz: %s\n", what);
    return 1;
}

static int compress_input(void) {
    gzFile out = gzdopen(STDOUT_FILENO, "wb9");
    if (out == NULL) return fail("out of memory");
    size_t got;
    while ((got = fread(buffer, 1, sizeof buffer, stdin)) > 0)
        if (gzwrite(out, buffer, (unsigned)got) != (int)got) return fail("cannot write");
    if (ferror(stdin)) return fail("cannot read");
    return gzclose(out) == Z_OK ? 0 : fail("cannot write");
}

static int decompress_input(void) {
    gzFile in = gzdopen(STDIN_FILENO, "rb");
    if (in == NULL) return fail("out of memory");
    /* zlib would hand plain input through unchanged, which would hide a mistake of the caller. */
    if (gzdirect(in)) return fail("the input is not gzip");
    int got, error;
    while ((got = gzread(in, buffer, sizeof buffer)) > 0) {
        if (fwrite(buffer, 1, (size_t)got, stdout) != (size_t)got) return fail("cannot write");
        /* A truncated input still returns its data; the next read would lose the error. */
        gzerror(in, &error);
        if (error != Z_OK) return fail("the input is damaged");
    }
    if (got < 0 || gzclose(in) != Z_OK) return fail("the input is damaged");
    return fflush(stdout) == 0 ? 0 : fail("cannot write");
}

int main(int argc, char **argv) {
    if (argc == 1) return compress_input();
    if (argc == 2 && strcmp(argv[1], "-d") == 0) return decompress_input();
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("zlib %s (headers %s)\n", zlibVersion(), ZLIB_VERSION);
        return 0;
    }
    return fail("usage: gz [-d | --version] <INPUT >OUTPUT");
}
