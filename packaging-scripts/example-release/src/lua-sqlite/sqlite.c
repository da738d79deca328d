/* Lua module: db = sqlite.open(path); rows = db:query(sql, ...); db:close(); sqlite.version. */
#include <lauxlib.h>
#include <lua.h>
#include <sqlite3.h>

#define TYPE "example.sqlite"

static sqlite3 *database(lua_State *L) {
    sqlite3 **box = luaL_checkudata(L, 1, TYPE);
    if (*box == NULL) luaL_error(L, "the database is closed");
    return *box;
}

static int close_database(lua_State *L) {
    sqlite3 **box = luaL_checkudata(L, 1, TYPE);
    sqlite3_close_v2(*box);
    *box = NULL;
    return 0;
}

static int open_database(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    sqlite3 **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    luaL_setmetatable(L, TYPE);
    if (sqlite3_open(path, box) != SQLITE_OK) return luaL_error(L, "%s: %s", path, sqlite3_errmsg(*box));
    return 1;
}

static void bind(lua_State *L, sqlite3_stmt *statement, int parameter, int index) {
    switch (lua_type(L, index)) {
    case LUA_TNIL:
        sqlite3_bind_null(statement, parameter);
        break;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index))
            sqlite3_bind_int64(statement, parameter, lua_tointeger(L, index));
        else
            sqlite3_bind_double(statement, parameter, lua_tonumber(L, index));
        break;
    default: {
        size_t length;
        const char *text = lua_tolstring(L, index, &length);
        sqlite3_bind_text(statement, parameter, text, (int)length, SQLITE_TRANSIENT);
    }
    }
}

static void push_column(lua_State *L, sqlite3_stmt *statement, int column) {
    switch (sqlite3_column_type(statement, column)) {
    case SQLITE_INTEGER:
        lua_pushinteger(L, sqlite3_column_int64(statement, column));
        break;
    case SQLITE_FLOAT:
        lua_pushnumber(L, sqlite3_column_double(statement, column));
        break;
    case SQLITE_NULL:
        lua_pushboolean(L, 0);
        break;
    default:
        lua_pushlstring(L, sqlite3_column_blob(statement, column), (size_t)sqlite3_column_bytes(statement, column));
    }
}

static int query(lua_State *L) {
    sqlite3 *db = database(L);
    const char *sql = luaL_checkstring(L, 2);
    int arguments = lua_gettop(L) - 2;
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) return luaL_error(L, "%s", sqlite3_errmsg(db));
    for (int i = 1; i <= arguments; i++) bind(L, statement, i, i + 2);

    lua_newtable(L);
    int step;
    for (int row = 1; (step = sqlite3_step(statement)) == SQLITE_ROW; row++) {
        int columns = sqlite3_column_count(statement);
        lua_createtable(L, columns, 0);
        for (int column = 0; column < columns; column++) {
            push_column(L, statement, column);
            lua_rawseti(L, -2, column + 1);
        }
        lua_rawseti(L, -2, row);
    }
    sqlite3_finalize(statement);
    if (step != SQLITE_DONE) return luaL_error(L, "%s", sqlite3_errmsg(db));
    return 1;
}

int luaopen_sqlite(lua_State *L) {
    static const luaL_Reg methods[] = {{"query", query}, {"close", close_database}, {"__gc", close_database}, {NULL, NULL}};
    luaL_newmetatable(L, TYPE);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");

    static const luaL_Reg functions[] = {{"open", open_database}, {NULL, NULL}};
    luaL_newlib(L, functions);
    lua_pushstring(L, sqlite3_libversion());
    lua_setfield(L, -2, "version");
    return 1;
}
