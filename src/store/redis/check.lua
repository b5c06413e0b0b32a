-- Decides checks against quotas, for the Rust crate `tollgate`.
--
-- One call decides any number of entries, in order. An entry is an operation on the counts of one
-- identity: a check charges all of its policies or, if any of them denies, none. Every count is a
-- key of its own, with a time to live. All keys are read before any is written. The only clock is
-- this server's.
--
-- KEYS    the counts.
-- ARGV    when the caller sent this, as it reckons by this server's clock (microseconds since the
--         Unix epoch);
--         how many quotas, and each as its numbers:
--           'bucket' burst num token_whole token_part full_whole full_part
--           'sliding' or 'fixed', limit period
--         for each key, which of the quotas it is counted by;
--         then the entries, each as
--           operation cost times good_for policies,
--           and for each policy: which key, and what to join to it
--         The operations:
--           check   charge `cost`, as many `times` as fit in a row
--           refund  give back `cost`
--           reset   forget the counts, whatever the keys hold
--         An entry is good for so many microseconds from when it was sent: later, nobody waits for
--         it any more, and it is not done. What to join is a count kept elsewhere, relative to now,
--         or ''.
--
-- Returns integers: now, and for each entry how many times it was charged, or why it was not
-- decided (the codes below), and then, for each policy, the count's numbers as they were. If a
-- read or write was refused, the last element is the server's reason.
--
-- A count's numbers, which are also its value, with ':' between them:
--   bucket   until [rest]: when it is full again, in microseconds since the epoch, and the fraction
--            of a microsecond (rest / num) on top
--   windows  until previous current: when this means nothing any more, and the counts of the
--            last window and of this one
-- All numbers are whole and below 2^53, so Lua's doubles are exact. The functions are those of
-- src/quota/token_bucket.rs and src/quota/window.rs, by the same names. Where those have a state,
-- these have its numbers; the third of a bucket's is always 0.

local WRONG_TYPE, UNREADABLE, REFUSED, TOO_LATE = -1, -2, -3, -4
-- What is greater by 1 is the same double, so this is not exact any more.
local INEXACT = 9007199254740992

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local floor, max, min = math.floor, math.max, math.min
local find, format, match = string.find, string.format, string.match

-- The token bucket -------------------------------------------------------------------------------

-- The deficit (whole, part), and the state. More than a full bucket means that the clock has
-- stepped back since the state was written: the debt is then a full bucket from now on.
local function debt(quota, full_at, rest)
  local whole, full_whole = full_at - now, quota.full_whole
  if whole < 0 then
    return 0, 0, full_at, rest
  end
  if whole > full_whole or (whole == full_whole and rest > quota.full_part) then
    return full_whole, quota.full_part, now + full_whole, quota.full_part
  end
  return whole, rest, full_at, rest
end

-- What `cost` tokens take; `cost` is at most the burst, so both products are exact.
local function price(quota, cost)
  local parts, num = cost * quota.token_part, quota.num
  local part = parts % num
  return cost * quota.token_whole + (parts - part) / num, part
end

-- The state after charging `cost`, or nil if it does not fit.
local function bucket_step(quota, cost, full_at, rest)
  local whole, part, full_at, rest = debt(quota, full_at, rest)
  if cost == 0 then
    return full_at, rest, 0
  end
  if cost > quota.burst then
    return nil
  end
  local price_whole, price_part = price(quota, cost)
  whole, part = whole + price_whole, part + price_part
  if part >= quota.num then
    whole, part = whole + 1, part - quota.num
  end
  local full_whole = quota.full_whole
  if whole > full_whole or (whole == full_whole and part > quota.full_part) then
    return nil
  end
  return now + whole, part, 0
end

local function bucket_refund(quota, cost, full_at, rest)
  local whole, part, full_at, rest = debt(quota, full_at, rest)
  if whole == 0 and part == 0 then
    return full_at, rest, 0
  end
  local price_whole, price_part = price(quota, min(cost, quota.burst))
  if whole < price_whole or (whole == price_whole and part <= price_part) then
    return 0, 0, 0
  end
  whole, part = whole - price_whole, part - price_part
  if part < 0 then
    whole, part = whole - 1, part + quota.num
  end
  return now + whole, part, 0
end

-- The more indebted of two states.
local function bucket_join(quota, one, one_rest, _, other, other_rest)
  local one_whole, one_part, one, one_rest = debt(quota, one, one_rest)
  local other_whole, other_part, other, other_rest = debt(quota, other, other_rest)
  if other_whole > one_whole or (other_whole == one_whole and other_part > one_part) then
    return other, other_rest, 0
  end
  return one, one_rest, 0
end

-- A state that is relative to now: the debt.
local function bucket_rebase(_, whole, part)
  return now + whole, part, 0
end

local function bucket_read(quota, text)
  local whole, part = match(text, '^(%d+):?(%d*)$')
  if not whole or (part == '' and #whole < #text) then
    return nil
  end
  whole, part = tonumber(whole), tonumber(part) or 0
  if whole >= INEXACT or part >= INEXACT then
    return nil
  end
  return whole, min(part, quota.num - 1), 0
end

local function bucket_write(full_at, rest)
  if rest == 0 then
    return format('%.0f', full_at)
  end
  return format('%.0f:%.0f', full_at, rest)
end

-- When a state means nothing any more, in microseconds.
local function bucket_expires_at(full_at, rest)
  return rest > 0 and full_at + 1 or full_at
end

local bucket = {
  numbers = 2, step = bucket_step, refund = bucket_refund, join = bucket_join, rebase = bucket_rebase,
  read = bucket_read, write = bucket_write, expires_at = bucket_expires_at,
}

-- The windows ------------------------------------------------------------------------------------

local now_ms = (now - now % 1000) / 1000

local function start_of(quota, ends_at)
  return max((ends_at - ends_at % 1000) / 1000 - quota.life, 0)
end

local function state(quota, start, previous, current)
  if previous == 0 and current == 0 then
    return 0, 0, 0
  end
  return (start + quota.life) * 1000, previous, current
end

-- Start and counts as of the window at `to`, if that is a later one.
local function roll(quota, to, start, previous, current)
  if start >= to then
    return start, previous, current
  end
  if quota.sliding and to - start == quota.period then
    return to, current, 0
  end
  return to, 0, 0
end

-- Start and counts of the state as it counts now. Where it is from the next window, the clock
-- stands at that window's start. From further ahead, the clock has stepped back: both counts are
-- taken to be this window's, so that nothing is minted.
local function view(quota, ends_at, previous, current)
  local this = now_ms - now_ms % quota.period
  local start = start_of(quota, ends_at)
  if not quota.sliding then
    previous = 0
  end
  if start > this + quota.period then
    return this, 0, min(current + previous, quota.limit)
  end
  return roll(quota, this, start, previous, current)
end

local function window_step(quota, cost, ends_at, last, this)
  local start, previous, current = view(quota, ends_at, last, this)
  if cost == 0 then
    if start < start_of(quota, ends_at) then
      return state(quota, start, previous, current)
    end
    return ends_at, last, this
  end
  local left = quota.limit - cost - current
  local in_view = quota.period - max(now_ms - start, 0)
  if left < 0 or previous * in_view > left * quota.period then
    return nil
  end
  return state(quota, start, previous, current + cost)
end

local function window_refund(quota, cost, ends_at, last, this)
  local start, previous, current = view(quota, ends_at, last, this)
  return state(quota, start, previous, max(current - cost, 0))
end

-- The larger count of each window.
local function window_join(quota, one, one_last, one_this, other, other_last, other_this)
  one, one_last, one_this = view(quota, one, one_last, one_this)
  other, other_last, other_this = view(quota, other, other_last, other_this)
  local start = max(one, other)
  one, one_last, one_this = roll(quota, start, one, one_last, one_this)
  other, other_last, other_this = roll(quota, start, other, other_last, other_this)
  return state(quota, start, max(one_last, other_last), max(one_this, other_this))
end

-- A state that is relative to now: its window's start from the start of this one.
local function window_rebase(quota, offset, previous, current)
  return state(quota, max(now_ms - now_ms % quota.period + offset, 0), previous, current)
end

local function window_read(quota, text)
  local first, previous, current = match(text, '^(%-?%d+):(%d+):(%d+)$')
  if not first then
    return nil
  end
  first, previous, current = tonumber(first), tonumber(previous), tonumber(current)
  if first >= INEXACT or previous >= INEXACT or current >= INEXACT then
    return nil
  end
  return first, min(previous, quota.limit), min(current, quota.limit)
end

local function window_write(ends_at, previous, current)
  return format('%.0f:%.0f:%.0f', ends_at, previous, current)
end

local function window_expires_at(ends_at)
  return ends_at
end

local window = {
  numbers = 3, step = window_step, refund = window_refund, join = window_join, rebase = window_rebase,
  read = window_read, write = window_write, expires_at = window_expires_at,
}

-- Reading ----------------------------------------------------------------------------------------

local sent = tonumber(ARGV[1])
local position = 1

local function argument()
  position = position + 1
  return ARGV[position]
end

local function number()
  position = position + 1
  return tonumber(ARGV[position])
end

-- A table that is made with room for its first element need not grow for it: hence `{ 0 }`.
local quotas = { 0 }
for index = 1, number() do
  local kind = argument()
  if kind == 'bucket' then
    quotas[index] = {
      algorithm = bucket,
      burst = number(), num = number(),
      token_whole = number(), token_part = number(),
      full_whole = number(), full_part = number(),
    }
  else
    local sliding, limit, period = kind == 'sliding', number(), number()
    quotas[index] = {
      algorithm = window,
      limit = limit, period = period, sliding = sliding,
      life = sliding and 2 * period or period,
    }
  end
end

-- For each key: its quota, its count's numbers, or why they cannot be told. And why the server
-- refuses to read or write, if it does.
local quota_of, first, second, third, flaws = { 0 }, { 0 }, { 0 }, { 0 }, {}
local refusal
for key, name in ipairs(KEYS) do
  local quota = quotas[number()]
  quota_of[key] = quota
  local value = redis.pcall('GET', name)
  if not value then
    first[key], second[key], third[key] = 0, 0, 0
  elseif type(value) == 'string' then
    first[key], second[key], third[key] = quota.algorithm.read(quota, value)
    if not first[key] or first[key] < 0 then
      flaws[key] = UNREADABLE
    end
  elseif find(value.err, 'WRONGTYPE', 1, true) then
    first[key], flaws[key] = nil, WRONG_TYPE
  else
    first[key], flaws[key], refusal = nil, REFUSED, value.err
  end
end

-- Deciding ---------------------------------------------------------------------------------------

-- Of the entry at hand: for each policy its key, its count's numbers, and those to come.
local keys = { 0 }
local before_first, before_second, before_third = { 0 }, { 0 }, { 0 }
local after_first, after_second, after_third = { 0 }, { 0 }, { 0 }

-- Sets what is to come after charging `cost` under every policy, unless it does not fit under one.
local function step(policies, cost)
  for policy = 1, policies do
    local quota = quota_of[keys[policy]]
    local one, two, three = quota.algorithm.step(
      quota, cost, before_first[policy], before_second[policy], before_third[policy])
    if not one then
      return false
    end
    after_first[policy], after_second[policy], after_third[policy] = one, two, three
  end
  return true
end

-- Sets what is to come after charging `cost` as often as it fits in a row, at most `times`, and
-- says how often that is. To charge it k times is to charge k * cost, so this looks for the largest
-- k. If none fits, it only looks.
local function check(policies, cost, times)
  if step(policies, cost * times) then
    return times
  end
  local fits, too_many = 0, times
  while too_many - fits > 1 do
    local between = floor((fits + too_many) / 2)
    if step(policies, cost * between) then
      fits = between
    else
      too_many = between
    end
  end
  step(policies, cost * fits)
  return fits
end

-- Writes a count, or deletes it if it means nothing any more. Returns the server's reason if it
-- refuses. One that is full, or has become a replica, refuses the first write of a call, so that
-- no policy of an entry is charged without the others.
local function write(key, one, two, three)
  local algorithm = quota_of[key].algorithm
  local expires_at = algorithm.expires_at(one, two) + 999
  local answer
  if expires_at - 999 <= now then
    answer = redis.pcall('DEL', KEYS[key])
  else
    local milliseconds = format('%.0f', (expires_at - expires_at % 1000) / 1000)
    answer = redis.pcall('SET', KEYS[key], algorithm.write(one, two, three), 'PXAT', milliseconds)
  end
  return type(answer) == 'table' and answer.err
end

local reply, length = { now }, 1
while position < #ARGV do
  local operation, cost, times, good_for = argument(), number(), number(), number()
  local policies, charged = number(), 0
  local flaw = now > sent + good_for and TOO_LATE or nil
  for policy = 1, policies do
    local key, joined = number(), argument()
    keys[policy] = key
    if operation ~= 'reset' then
      flaw = flaw or flaws[key]
    end
    local one, two, three = first[key] or 0, second[key] or 0, third[key] or 0
    if joined ~= '' and not flaw then
      local quota = quota_of[key]
      local algorithm = quota.algorithm
      one, two, three = algorithm.join(quota, one, two, three,
        algorithm.rebase(quota, algorithm.read(quota, joined)))
    end
    before_first[policy], before_second[policy], before_third[policy] = one, two, three
  end

  if not flaw then
    if operation == 'check' then
      charged = check(policies, cost, times)
    else
      for policy = 1, policies do
        local one, two, three = 0, 0, 0
        if operation == 'refund' then
          local quota = quota_of[keys[policy]]
          one, two, three = quota.algorithm.refund(
            quota, cost, before_first[policy], before_second[policy], before_third[policy])
        end
        after_first[policy], after_second[policy], after_third[policy] = one, two, three
      end
    end
    for policy = 1, policies do
      local key = keys[policy]
      local one, two, three = after_first[policy], after_second[policy], after_third[policy]
      if one ~= first[key] or two ~= second[key] or three ~= third[key] then
        refusal = refusal or write(key, one, two, three) or nil
        if refusal then
          flaw = REFUSED
          break
        end
        first[key], second[key], third[key], flaws[key] = one, two, three, nil
      end
    end
  end

  length = length + 1
  reply[length] = flaw or charged
  if not flaw then
    for policy = 1, policies do
      reply[length + 1], reply[length + 2] = before_first[policy], before_second[policy]
      length = length + 2
      if quota_of[keys[policy]].algorithm.numbers == 3 then
        length = length + 1
        reply[length] = before_third[policy]
      end
    end
  end
end

reply[length + 1] = refusal
return reply
