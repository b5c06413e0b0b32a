-- Sets or deletes one override if a condition holds. Takes O(log n) time for n overrides.
--
-- Each write has a revision, `<number>-<random>`. Numbers count up from 1. Two writes have the same
-- number if the first is lost by a failover to a replica that has not received it, by restoring a
-- backup, or by deleting the keys. The random part tells them apart.
--
-- KEYS[1]  limits, a hash: a subject (such as `tiers/pro`) to `<revision> <limits in JSON>`, and
--          `revision` to the last write's revision. Every subject contains a slash.
-- KEYS[2]  changes, a sorted set: each subject with the number of the last write to it. A deleted
--          subject stays while that write is in the history.
-- KEYS[3]  history, a hash: the number of each recent write to `<random> <subject>`
-- ARGV[1]  the subject
-- ARGV[2]  its new limits in JSON, or an empty string to delete the override
-- ARGV[3]  the condition: none, absent, present, or version
-- ARGV[4]  the revision that the override must have under the condition `version`
-- ARGV[5]  the random part of this write's revision
-- ARGV[6]  the number of writes in the history
--
-- Returns `written`, this write's revision and the revision before it (empty if there was none);
-- or `conflict` or `missing` and two empty strings.

local limits, changes, history = KEYS[1], KEYS[2], KEYS[3]
local subject, new, condition = ARGV[1], ARGV[2], ARGV[3]

local current = redis.call('HGET', limits, subject)
local version = current and string.match(current, '^%S+')
if (condition == 'absent' and current)
    or (condition == 'present' and not current)
    or (condition == 'version' and version ~= ARGV[4]) then
  return {'conflict', '', ''}
end
if new == '' and not current then
  return {'missing', '', ''}
end

local previous = redis.call('HGET', limits, 'revision')
local number = 1
if previous then
  local last = tonumber(string.match(previous, '^(%d+)-'))
  if not last then
    return redis.error_reply('ERR field `revision` of ' .. limits .. ' is not <number>-<random>')
  end
  number = last + 1
else
  -- The limits were deleted, or never written. `changes` and `history` may describe deleted limits.
  redis.call('DEL', changes, history)
end
local field = string.format('%.0f', number)
local revision = field .. '-' .. ARGV[5]

if new == '' then
  redis.call('HDEL', limits, subject)
else
  redis.call('HSET', limits, subject, revision .. ' ' .. new)
end
redis.call('HSET', limits, 'revision', revision)
redis.call('ZADD', changes, field, subject)
redis.call('HSET', history, field, ARGV[5] .. ' ' .. subject)

-- Drop the oldest write, and also its subject if the override is still deleted.
local oldest = string.format('%.0f', number - ARGV[6])
local entry = redis.call('HGET', history, oldest)
if entry then
  redis.call('HDEL', history, oldest)
  local dropped = string.match(entry, '^%S+ (.*)$')
  local last_write = redis.call('ZSCORE', changes, dropped)
  if last_write and tonumber(last_write) == tonumber(oldest)
      and not redis.call('HGET', limits, dropped) then
    redis.call('ZREM', changes, dropped)
  end
end
return {'written', revision, previous or ''}
