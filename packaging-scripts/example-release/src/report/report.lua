#!/var/vcap/packages/lua/bin/lua
-- report TEXT CHART [DATABASE]: counts the words of a text in SQL, prints the most frequent ones and draws them as bars.

package.cpath = "/var/vcap/packages/lua-png/lib/lua/?.so;/var/vcap/packages/lua-sqlite/lib/lua/?.so"
local png = require("png")
local sqlite = require("sqlite")

local ROWS, BAR, GAP, WIDTH, MARGIN = 8, 14, 6, 320, 10
local BACKGROUND, COLORS = "\255\255\255", { "\31\119\180", "\255\127\14", "\44\160\44", "\214\39\40" }

local function count_words(path, database)
  local db = sqlite.open(database)
  db:query("CREATE TABLE IF NOT EXISTS words (word TEXT PRIMARY KEY, count INTEGER NOT NULL)")
  db:query("DELETE FROM words")
  db:query("BEGIN")
  for line in io.lines(path) do
    for word in line:lower():gmatch("%a+") do
      db:query("INSERT INTO words VALUES (?, 1) ON CONFLICT (word) DO UPDATE SET count = count + 1", word)
    end
  end
  db:query("COMMIT")
  local total = db:query("SELECT coalesce(sum(count), 0), count(*) FROM words")[1]
  local top = db:query("SELECT word, count FROM words ORDER BY count DESC, word LIMIT ?", ROWS)
  db:close()
  return top, total[1], total[2]
end

local function draw(top, path)
  local blank = BACKGROUND:rep(WIDTH)
  local lines = { blank:rep(GAP) }
  for i, row in ipairs(top) do
    local length = (WIDTH - 2 * MARGIN) * row[2] // top[1][2]
    local color = COLORS[(i - 1) % #COLORS + 1]
    local line = BACKGROUND:rep(MARGIN) .. color:rep(length) .. BACKGROUND:rep(WIDTH - MARGIN - length)
    lines[#lines + 1] = line:rep(BAR) .. blank:rep(GAP)
  end
  local pixels, height = table.concat(lines), GAP + #top * (BAR + GAP)
  png.write(path, WIDTH, height, pixels)
  local width_again, height_again, pixels_again = png.read(path)
  assert(width_again == WIDTH and height_again == height and pixels_again == pixels, "the chart does not read back as it was drawn")
end

if #arg < 2 or #arg > 3 then
  io.stderr:write("usage: report TEXT CHART [DATABASE]\n")
  os.exit(1)
end
local top, total, different = count_words(arg[1], arg[3] or ":memory:")
assert(#top > 0, "the text has no words")
draw(top, arg[2])
print(("%d words, %d different"):format(total, different))
for _, row in ipairs(top) do
  print(("%5d  %s"):format(row[2], row[1]))
end
