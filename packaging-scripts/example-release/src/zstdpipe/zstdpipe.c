/* zstdpipe: standard input to standard output as one zstd frame; zstdpipe -d: decompresses; zstdpipe --version. */
#include <stdio.h>
#include <string.h>
#include <zstd.h>

static char in_buffer[1 << 17], out_buffer[1 << 17];

static int fail(const char *what) {
    fprintf(stderr, "zstdpipe: %s\n", what);
    return 1;
}

static int write_out(const ZSTD_outBuffer *out) {
    return fwrite(out->dst, 1, out->pos, stdout) == out->pos;
}

static int compress_input(void) {
    ZSTD_CCtx *context = ZSTD_createCCtx();
    if (context == NULL) return fail("out of memory");
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    int last;
    do {
        size_t got = fread(in_buffer, 1, sizeof in_buffer, stdin);
        if (ferror(stdin)) return fail("cannot read");
        last = feof(stdin) != 0;
        ZSTD_inBuffer in = {in_buffer, got, 0};
        int done;
        do {
            ZSTD_outBuffer out = {out_buffer, sizeof out_buffer, 0};
            size_t left = ZSTD_compressStream2(context, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
            if (ZSTD_isError(left)) return fail(ZSTD_getErrorName(left));
            if (!write_out(&out)) return fail("cannot write");
            done = last ? left == 0 : in.pos == in.size;
        } while (!done);
    } while (!last);
    ZSTD_freeCCtx(context);
    return fflush(stdout) == 0 ? 0 : fail("cannot write");
}

static int decompress_input(void) {
    ZSTD_DCtx *context = ZSTD_createDCtx();
    if (context == NULL) return fail("out of memory");
    size_t got, left = 1;
    while ((got = fread(in_buffer, 1, sizeof in_buffer, stdin)) > 0) {
        ZSTD_inBuffer in = {in_buffer, got, 0};
        ZSTD_outBuffer out;
        /* A full output buffer may leave data inside the decoder even when the input is used up. */
        do {
            out = (ZSTD_outBuffer){out_buffer, sizeof out_buffer, 0};
            left = ZSTD_decompressStream(context, &out, &in);
            if (ZSTD_isError(left)) return fail(ZSTD_getErrorName(left));
            if (!write_out(&out)) return fail("cannot write");
        } while (in.pos < in.size || (left != 0 && out.pos == out.size));
    }
    if (ferror(stdin)) return fail("cannot read");
    if (left != 0) return fail("the input ends too early");
    ZSTD_freeDCtx(context);
    return fflush(stdout) == 0 ? 0 : fail("cannot write");
}

int main(int argc, char **argv) {
    if (argc == 1) return compress_input();
    if (argc == 2 && strcmp(argv[1], "-d") == 0) return decompress_input();
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("zstd %s (headers %s)\n", ZSTD_versionString(), ZSTD_VERSION_STRING);
        return 0;
    }
    return fail("usage: zstdpipe [-d | --version] <INPUT >OUTPUT");
}
