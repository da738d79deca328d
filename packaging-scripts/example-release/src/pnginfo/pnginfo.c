/* pnginfo FILE: decodes a whole image and prints what it is; pnginfo --version. */
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: pnginfo FILE | --version\n");
        return 1;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("libpng %s with zlib %s\n", png_get_libpng_ver(NULL), zlibVersion());
        return 0;
    }

    png_image image;
    memset(&image, 0, sizeof image);
    image.version = PNG_IMAGE_VERSION;
    if (!png_image_begin_read_from_file(&image, argv[1])) {
        fprintf(stderr, "pnginfo: %s: %s\n", argv[1], image.message);
        return 1;
    }
    image.format = PNG_FORMAT_RGB;
    unsigned char *pixels = malloc(PNG_IMAGE_SIZE(image));
    if (pixels == NULL || !png_image_finish_read(&image, NULL, pixels, 0, NULL)) {
        fprintf(stderr, "pnginfo: %s: %s\n", argv[1], pixels == NULL ? "out of memory" : image.message);
        return 1;
    }
    unsigned long crc = crc32(0, pixels, (unsigned)PNG_IMAGE_SIZE(image));
    printf("%ux%u pixels, crc32 %08lx\n", image.width, image.height, crc);
    free(pixels);
    return 0;
}
