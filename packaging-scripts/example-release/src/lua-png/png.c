/* Lua module: png.write(path, width, height, rgb); width, height, rgb = png.read(path); png.version. */
#include <lauxlib.h>
#include <lua.h>
#include <png.h>
#include <string.h>

static void prepare(png_image *image) {
    memset(image, 0, sizeof *image);
    image->version = PNG_IMAGE_VERSION;
}

static int write_image(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    lua_Integer width = luaL_checkinteger(L, 2), height = luaL_checkinteger(L, 3);
    size_t length;
    const char *rgb = luaL_checklstring(L, 4, &length);
    luaL_argcheck(L, width > 0 && width <= 0xffff, 2, "out of range");
    luaL_argcheck(L, height > 0 && height <= 0xffff, 3, "out of range");
    luaL_argcheck(L, length == (size_t)width * (size_t)height * 3, 4, "must be three bytes per pixel");

    png_image image;
    prepare(&image);
    image.width = (png_uint_32)width;
    image.height = (png_uint_32)height;
    image.format = PNG_FORMAT_RGB;
    if (!png_image_write_to_file(&image, path, 0, rgb, 0, NULL)) return luaL_error(L, "%s: %s", path, image.message);
    return 0;
}

static int read_image(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    png_image image;
    prepare(&image);
    if (!png_image_begin_read_from_file(&image, path)) return luaL_error(L, "%s: %s", path, image.message);
    image.format = PNG_FORMAT_RGB;
    luaL_Buffer pixels;
    char *memory = luaL_buffinitsize(L, &pixels, PNG_IMAGE_SIZE(image));
    if (!png_image_finish_read(&image, NULL, memory, 0, NULL)) return luaL_error(L, "%s: %s", path, image.message);
    luaL_pushresultsize(&pixels, PNG_IMAGE_SIZE(image));
    lua_pushinteger(L, image.width);
    lua_pushinteger(L, image.height);
    lua_rotate(L, -3, 2);
    return 3;
}

int luaopen_png(lua_State *L) {
    static const luaL_Reg functions[] = {{"write", write_image}, {"read", read_image}, {NULL, NULL}};
    luaL_newlib(L, functions);
    lua_pushstring(L, png_get_libpng_ver(NULL));
    lua_setfield(L, -2, "version");
    return 1;
}
