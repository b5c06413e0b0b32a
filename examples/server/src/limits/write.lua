-- Sets or deletes a limit, if a condition holds, and says by which write.
--
-- KEYS[1]  a hash: `revision` is the last write, `writes` how many there were, and each other field
--          a limit, as `<version> <limits in JSON>`. No limit's name is without a slash.
-- ARGV[1]  the limit's name
-- ARGV[2]  the limits, or nothing to delete them
-- ARGV[3]  the condition: none, absent, present, or version
-- ARGV[4]  the version that it must have
-- ARGV[5]  what tells this write from all others, even if the hash is lost and begins anew
--
-- Returns `written` and the version, or `conflict` or `missing` and nothing.

local current = redis.call('HGET', KEYS[1], ARGV[1])
local version = current and string.match(current, '^%S+')
local condition = ARGV[3]

if (condition == 'absent' and current)
    or (condition == 'present' and not current)
    or (condition == 'version' and version ~= ARGV[4]) then
  return {'conflict', ''}
end
if ARGV[2] == '' and not current then
  return {'missing', ''}
end

local count = redis.call('HINCRBY', KEYS[1], 'writes', 1)
local revision = string.format('%.0f-%s', count, ARGV[5])
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], revision .. ' ' .. ARGV[2])
end
redis.call('HSET', KEYS[1], 'revision', revision)
return {'written', revision}
