/* sqlite-query DATABASE SQL: runs the statements and prints rows as a|b|c; sqlite-query --version. */
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

static int print_row(void *unused, int count, char **values, char **names) {
    (void)unused;
    (void)names;
    for (int i = 0; i < count; i++) printf("%s%s", i == 0 ? "" : "|", values[i] == NULL ? "" : values[i]);
    putchar('\n');
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("sqlite %s (headers %s)\n", sqlite3_libversion(), SQLITE_VERSION);
        return 0;
    }
    if (argc != 3) {
        fprintf(stderr, "usage: sqlite-query DATABASE SQL | --version\n");
        return 1;
    }
    sqlite3 *db = NULL;
    int failed = sqlite3_open(argv[1], &db) != SQLITE_OK || sqlite3_exec(db, argv[2], print_row, NULL, NULL) != SQLITE_OK;
    if (failed) fprintf(stderr, "sqlite-query: %s\n", sqlite3_errmsg(db));
    sqlite3_close(db);
    return failed;
}
