#!/bin/bash
# Runs every tool of the example release, with all compiled packages in /var/vcap/packages, and checks its behavior. Needs only bash,
# coreutils and the packages. Prints one line per check and stops at the first failure.
source "$(dirname "${BASH_SOURCE[0]}")/../smoke.bash"

unpacked bzip2 leveldb libpng lua lua-png lua-sqlite report snappy sqlite zlib zstd

# Repetitive enough to shrink, long enough for several blocks.
for ((i = 0; i < 20000; i++)); do echo "line ${i} of a text that repeats itself"; done >text
size=$(stat -c %s text)

# round_trip WHAT COMPRESS DECOMPRESS: compressing shrinks the text, decompressing restores it, and a truncated file is an error.
round_trip() {
  local what=$1 compress=$2 decompress=$3 small
  # Unquoted on purpose: a command and its option.
  ${compress} <text >small
  ${decompress} <small >again || fail "${what}: does not decompress its own output"
  [[ $(sha256sum <text) == "$(sha256sum <again)" ]] || fail "${what}: the text came back changed"
  small=$(stat -c %s small)
  ((small * 2 < size)) || fail "${what}: ${size} bytes became ${small}"
  head -c "$((small / 2))" small >half
  if ${decompress} <half >/dev/null 2>&1; then fail "${what}: a truncated file is accepted"; fi
  ok "${what} round trip: ${size} -> ${small} bytes, damage detected"
}

round_trip zlib "${packages}/zlib/bin/gz" "${packages}/zlib/bin/gz -d"
round_trip bzip2 "${packages}/bzip2/bin/bzip2 -9" "${packages}/bzip2/bin/bunzip2"
round_trip zstd "${packages}/zstd/bin/zstdpipe" "${packages}/zstd/bin/zstdpipe -d"
round_trip snappy "${packages}/snappy/bin/snappypipe" "${packages}/snappy/bin/snappypipe -d"

# "NAME VERSION (headers VERSION)": the versions at compile time and at run time must be equal.
for tool in zlib/bin/gz zstd/bin/zstdpipe sqlite/bin/sqlite-query; do
  line=$("${packages}/${tool}" --version)
  [[ ${line} =~ ^([a-z]+)\ ([0-9.]+)\ \(headers\ ([0-9.]+)\)$ && ${BASH_REMATCH[2]} == "${BASH_REMATCH[3]}" ]] ||
    fail "${tool} --version: ${line}"
  ok "${tool##*/} is built and linked with ${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
  if [[ ${tool} == zlib/* ]]; then zlib=${BASH_REMATCH[2]}; fi
done

[[ -L ${packages}/zstd/lib/libzstd.so.1 ]] || fail "zstd: libzstd.so.1 is not a link any more"
ok "zstd's library is a chain of links to $(basename "$(readlink -f "${packages}/zstd/lib/libzstd.so")")"

# The dependencies: the linked library is the package of this release, not a library of the machine.
line=$("${packages}/libpng/bin/pnginfo" --version)
equal "libpng is linked with the zlib package" "${zlib}" "${line##*with zlib }"
line=$("${packages}/leveldb/bin/leveldb-kv" --version)
equal "leveldb is linked with the snappy package" "$("${packages}/snappy/bin/snappypipe" --version)" "${line##*with }"

sql='CREATE TABLE t (n INTEGER, s TEXT); INSERT INTO t VALUES (1, "one"), (2, "two"), (40, NULL); SELECT sum(n), group_concat(s, "+") FROM t;'
equal "sqlite counts" "43|one+two" "$("${packages}/sqlite/bin/sqlite-query" test.db "${sql//\"/\'}")"
equal "sqlite keeps" "3" "$("${packages}/sqlite/bin/sqlite-query" test.db 'SELECT count(*) FROM t')"
equal "sqlite searches text" "2" "$("${packages}/sqlite/bin/sqlite-query" :memory: "CREATE VIRTUAL TABLE f USING fts5(x);
  INSERT INTO f VALUES ('a stone'), ('a river stone'), ('a river'); SELECT count(*) FROM f WHERE f MATCH 'stone'")"

kv=${packages}/leveldb/bin/leveldb-kv
"${kv}" store put b 2 && "${kv}" store put a 1 && "${kv}" store put c 3 && "${kv}" store delete b
equal "leveldb lists in order" $'a=1\nc=3' "$("${kv}" store list)"
"${kv}" filled fill 2000
value=$("${kv}" filled get key1999)
equal "leveldb finds one of 2000 values" "value 1999 value 1999" "${value:0:21}"
raw=$(("$("${kv}" filled list | wc -c)"))
stored=$(cat filled/*.ldb | wc -c)
((stored * 4 < raw)) || fail "leveldb: ${raw} bytes take ${stored} on disk: snappy was not used"
ok "leveldb compresses with snappy: ${raw} -> ${stored} bytes on disk"

lua=${packages}/lua/bin/lua
equal "lua computes" "832040 6765 120.0" "$("${lua}" -e 'local a, b = 0, 1 for i = 1, 30 do a, b = b, a + b end
  print(a .. " " .. (select(2, ("x"):rep(6765):gsub("x", ""))) .. " " .. 2 ^ 3 * 15)')"
echo 'print(#arg, arg[1], ...)' >arguments.lua
equal "lua passes arguments" $'2\tx\tx\ty z' "$("${lua}" arguments.lua x 'y z')"
if "${lua}" -e 'error("wanted")' 2>error; then fail "lua: an error passes"; fi
[[ $(<error) == *wanted* ]] || fail "lua: the error was not printed"
ok "lua reports errors"

export LUA_CPATH="${packages}/lua-png/lib/lua/?.so;${packages}/lua-sqlite/lib/lua/?.so"
equal "lua-sqlite binds and reads" "2 b 2.5" "$("${lua}" -e 'local db = require("sqlite").open(":memory:")
  local row = db:query("SELECT ? + 1, ?, ?", 1, "b", 2.5)[1] print(row[1] .. " " .. row[2] .. " " .. row[3])')"
equal "lua-png writes and reads" "true" "$("${lua}" -e 'local png, dot = require("png"), "\1\2\3\250\251\252"
  png.write("dots.png", 2, 3, dot:rep(3)) local w, h, rgb = png.read("dots.png") print(w == 2 and h == 3 and rgb == dot:rep(3))')"
unset LUA_CPATH

# 66 lines with known counts.
for ((i = 0; i < 66; i++)); do echo "a b a b, A c"; done >words
equal "report counts" $'396 words, 3 different\n  198  a\n  132  b\n   66  c' "$("${packages}/report/bin/report" words chart.png words.db)"
[[ $("${packages}/libpng/bin/pnginfo" chart.png) == "320x66 pixels, crc32 "* ]] || fail "report: not the chart it should be"
ok "report draws: $("${packages}/libpng/bin/pnginfo" chart.png)"
equal "report stores" "c|66" "$("${packages}/sqlite/bin/sqlite-query" words.db 'SELECT * FROM words WHERE count < 100')"
"${packages}/report/bin/report" "${packages}/report/share/sample.txt" sample.png >sample.out
[[ $(sha256sum <sample.png) == "$(sha256sum <"${packages}/report/share/sample.png")" ]] || fail "report: the sample chart differs"
[[ $(<sample.out) == "$(<"${packages}/report/share/sample.out")" ]] || fail "report: the sample output differs"
ok "report makes the same sample as when it was compiled"
