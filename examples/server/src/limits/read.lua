-- Reads one page of changed overrides, in the order of the last write to each.
--
-- KEYS[1..3]  as in write.lua
-- ARGV[1]  the revision that the caller knows, to read the changes since then, or empty to read
--          everything
-- ARGV[2]  the cursor that the previous page returned, or empty for the first page
-- ARGV[3]  the size of a page
--
-- Returns the current revision (empty before the first write); 1 if this is the first page of
-- everything; the cursor of the next page (empty on the last page); the subjects; and for each
-- subject its value in the hash, or nil if its override is deleted.
--
-- If the history does not contain the known revision, that revision is too old or its write was lost,
-- so the changes since then are unknown. Then the script ignores the cursor and returns the first page
-- of everything. The caller drops all overrides that these pages do not contain.

local limits, changes, history = KEYS[1], KEYS[2], KEYS[3]
local known, after = ARGV[1], ARGV[2]

local revision = redis.call('HGET', limits, 'revision')
if not revision then
  -- The limits were deleted, or never written. `changes` and `history` may describe deleted limits.
  return {'', 1, '', {}, {}}
end
local number, random = string.match(known, '^(%d+)-(%S+)$')
local entry = number and redis.call('HGET', history, number)
local is_in_history = entry and string.match(entry, '^%S+') == random
-- The second test is for a deleted history: without it, each page would start from the beginning.
local continues = known ~= '' and (is_in_history or known == revision)
if not continues then
  after = '0'
elseif after == '' then
  after = number or '0'
end

local page = redis.call(
  'ZRANGE', changes, '(' .. after, '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[3], 'WITHSCORES')
local subjects = {}
for index = 1, #page, 2 do
  subjects[#subjects + 1] = page[index]
end
local values = {}
if #subjects > 0 then
  values = redis.call('HMGET', limits, unpack(subjects))
end
local is_full = #subjects == tonumber(ARGV[3])
return {revision, continues and 0 or 1, is_full and page[#page] or '', subjects, values}
