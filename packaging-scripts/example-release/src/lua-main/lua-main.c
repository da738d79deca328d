/* The lua command: lua SCRIPT [ARGUMENT...] | lua -e CODE | lua -v. Upstream's own is not part of the sources we get. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

/* Runs while the stack of the failed call still exists, so that the message can show it. */
static int add_traceback(lua_State *L) {
    luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
    return 1;
}

static int run(lua_State *L, int argc, char **argv) {
    int code = strcmp(argv[1], "-e") == 0;
    if (code && argc < 3) return luaL_error(L, "-e needs code");
    int script = code ? 2 : 1;

    lua_createtable(L, argc, 0);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - script);
    }
    lua_setglobal(L, "arg");

    if ((code ? luaL_loadstring(L, argv[2]) : luaL_loadfile(L, argv[1])) != LUA_OK) return lua_error(L);
    for (int i = script + 1; i < argc; i++) lua_pushstring(L, argv[i]);
    lua_call(L, argc - script - 1, 0);
    return 0;
}

static int protected_run(lua_State *L) {
    return run(L, (int)lua_tointeger(L, 1), lua_touserdata(L, 2));
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: lua SCRIPT [ARGUMENT...] | -e CODE | -v\n");
        return 1;
    }
    if (strcmp(argv[1], "-v") == 0) {
        puts(LUA_RELEASE);
        return 0;
    }
    lua_State *L = luaL_newstate();
    if (L == NULL) {
        fprintf(stderr, "lua: out of memory\n");
        return 1;
    }
    luaL_openlibs(L);
    lua_pushcfunction(L, add_traceback);
    lua_pushcfunction(L, protected_run);
    lua_pushinteger(L, argc);
    lua_pushlightuserdata(L, argv);
    int failed = lua_pcall(L, 2, 0, 1) != LUA_OK;
    if (failed) fprintf(stderr, "lua: %s\n", lua_tostring(L, -1));
    lua_close(L);
    return failed;
}
