-- Decides checks against quotas, for the Rust crate `tollgate`.
--
-- One call decides any number of entries, in order. An entry is an operation on the counts of one
-- identity: a check charges all of its policies or, if any of them denies, none. Every count is a
-- key of its own. All keys are read before any is written, and each is written at most once, with
-- a time to live. The only clock is this server's.
--
-- KEYS    the counts.
-- ARGV    valid until (microseconds since the Unix epoch): later than that nothing is done;
--         how many quotas, and each as its numbers:
--           'bucket' burst num token_whole token_part full_whole full_part
--           'sliding' or 'fixed', limit period
--         for each key, which of the quotas it is counted by;
--         then the entries, each as
--           operation cost times policies, and for each policy: which key, and what to join to it
--         The operations:
--           check   charge `cost`, as many `times` as fit in a row
--           refund  give back `cost`
--           reset   forget the counts
--         What to join is a count kept elsewhere, relative to now, or ''.
--
-- Returns integers: now, and for each entry how many times it was charged, or why it was not
-- decided (the codes below), and then, for each policy, the count's numbers as they were. If a
-- read or write was refused, the last element is the server's reason. Only `now`: it was too late, and
-- nothing was done.
--
-- A count's numbers, which are also its value, with ':' between them:
--   bucket   until [rest]: when it is full again, in microseconds since the epoch, and the fraction
--            of a microsecond (rest / num) on top
--   windows  until previous current: when this means nothing any more, and the counts of the
--            last window and of this one
-- All numbers are whole and below 2^53, so Lua's doubles are exact. The functions are those of
-- src/quota/token_bucket.rs and src/quota/window.rs, by the same names.

local WRONG_TYPE, UNREADABLE, REFUSED = -1, -2, -3
local EXACT = 9007199254740992

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now > tonumber(ARGV[1]) then
  return { now }
end

local function quotient(dividend, divisor)
  return (dividend - dividend % divisor) / divisor
end

-- The number that an argument or a value says, if a double holds it exactly. EXACT is not one:
-- what is greater by 1 would be read as it.
local function integer(text)
  local number = string.find(text, '^%-?%d+$') and tonumber(text)
  return number and number < EXACT and number > -EXACT and number or nil
end

local token_bucket = { default = { 0, 0 } }

-- The bucket's deficit (whole, part), and the state. More than a full bucket means that the clock
-- has stepped back since the state was written: the debt is then a full bucket from now on.
function token_bucket.debt(quota, state)
  local whole, part = state[1] - now, state[2]
  if whole < 0 then
    return 0, 0, state
  end
  if whole > quota.full_whole or (whole == quota.full_whole and part > quota.full_part) then
    return quota.full_whole, quota.full_part, { now + quota.full_whole, quota.full_part }
  end
  return whole, part, state
end

-- What `cost` tokens take; `cost` is at most the burst, so both products are exact.
function token_bucket.price(quota, cost)
  local parts = cost * quota.token_part
  return cost * quota.token_whole + quotient(parts, quota.num), parts % quota.num
end

-- The state after charging `cost`, or nil if it does not fit.
function token_bucket.step(quota, state, cost)
  local whole, part, state = token_bucket.debt(quota, state)
  if cost == 0 then
    return state
  end
  if cost > quota.burst then
    return nil
  end
  local price_whole, price_part = token_bucket.price(quota, cost)
  whole, part = whole + price_whole, part + price_part
  if part >= quota.num then
    whole, part = whole + 1, part - quota.num
  end
  if whole > quota.full_whole or (whole == quota.full_whole and part > quota.full_part) then
    return nil
  end
  return { now + whole, part }
end

function token_bucket.refund(quota, state, cost)
  local whole, part, state = token_bucket.debt(quota, state)
  if whole == 0 and part == 0 then
    return state
  end
  local price_whole, price_part = token_bucket.price(quota, math.min(cost, quota.burst))
  if whole < price_whole or (whole == price_whole and part <= price_part) then
    return token_bucket.default
  end
  whole, part = whole - price_whole, part - price_part
  if part < 0 then
    whole, part = whole - 1, part + quota.num
  end
  return { now + whole, part }
end

-- The more indebted of two states.
function token_bucket.join(quota, one, other)
  local one_whole, one_part, one = token_bucket.debt(quota, one)
  local other_whole, other_part, other = token_bucket.debt(quota, other)
  if other_whole > one_whole or (other_whole == one_whole and other_part > one_part) then
    return other
  end
  return one
end

-- A state that is relative to now: the debt.
function token_bucket.rebase(_, debt)
  return { now + debt[1], debt[2] }
end

function token_bucket.read(quota, text)
  local whole, part = string.match(text, '^(%d+):(%d+)$')
  whole, part = integer(whole or text), integer(part or '0')
  if whole and part then
    return { whole, math.min(part, quota.num - 1) }
  end
end

function token_bucket.write(state)
  if state[2] == 0 then
    return string.format('%.0f', state[1])
  end
  return string.format('%.0f:%.0f', state[1], state[2])
end

-- When a state means nothing any more, in microseconds.
function token_bucket.expires_at(state)
  return state[2] > 0 and state[1] + 1 or state[1]
end

local window = { default = { 0, 0, 0 } }
local now_ms = quotient(now, 1000)

function window.start(quota, state)
  return math.max(quotient(state[1], 1000) - quota.life, 0)
end

function window.state(quota, start, previous, current)
  if previous == 0 and current == 0 then
    return window.default
  end
  return { (start + quota.life) * 1000, previous, current }
end

-- Start and counts as of the window at `to`, if that is a later one.
function window.roll(quota, to, start, previous, current)
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
function window.view(quota, state)
  local this = now_ms - now_ms % quota.period
  local start = window.start(quota, state)
  local previous = quota.sliding and state[2] or 0
  if start > this + quota.period then
    return this, 0, math.min(state[3] + previous, quota.limit)
  end
  return window.roll(quota, this, start, previous, state[3])
end

function window.step(quota, state, cost)
  local start, previous, current = window.view(quota, state)
  if cost == 0 then
    if start < window.start(quota, state) then
      return window.state(quota, start, previous, current)
    end
    return state
  end
  local elapsed = math.max(now_ms - start, 0)
  local left = quota.limit - cost - current
  if left < 0 or previous * (quota.period - elapsed) > left * quota.period then
    return nil
  end
  return window.state(quota, start, previous, current + cost)
end

function window.refund(quota, state, cost)
  local start, previous, current = window.view(quota, state)
  return window.state(quota, start, previous, math.max(current - cost, 0))
end

function window.join(quota, one, other)
  local one_start, one_previous, one_current = window.view(quota, one)
  local other_start, other_previous, other_current = window.view(quota, other)
  local start = math.max(one_start, other_start)
  local _
  _, one_previous, one_current = window.roll(quota, start, one_start, one_previous, one_current)
  _, other_previous, other_current =
    window.roll(quota, start, other_start, other_previous, other_current)
  return window.state(quota, start, math.max(one_previous, other_previous),
    math.max(one_current, other_current))
end

-- A state that is relative to now: its window's start from the start of this one.
function window.rebase(quota, count)
  local start = math.max(now_ms - now_ms % quota.period + count[1], 0)
  return window.state(quota, start, count[2], count[3])
end

function window.read(quota, text)
  local first, previous, current = string.match(text, '^(%-?%d+):(%d+):(%d+)$')
  if first then
    first, previous, current = integer(first), integer(previous), integer(current)
    if first and previous and current then
      return { first, math.min(previous, quota.limit), math.min(current, quota.limit) }
    end
  end
end

function window.write(state)
  return string.format('%.0f:%.0f:%.0f', state[1], state[2], state[3])
end

function window.expires_at(state)
  return state[1]
end

-- Reading ---------------------------------------------------------------------------------------

local position = 1

local function argument()
  position = position + 1
  return ARGV[position]
end

local function number()
  return tonumber(argument())
end

local quotas = {}
for index = 1, number() do
  local kind = argument()
  if kind == 'bucket' then
    quotas[index] = {
      algorithm = token_bucket,
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

-- For each key: its quota, its state, or why that cannot be told. And why the server refuses to
-- read or write, if it does.
local quota_of, states, flaws, stored = {}, {}, {}, {}
local refusal
for index, key in ipairs(KEYS) do
  local quota = quotas[number()]
  quota_of[index] = quota
  local value = redis.pcall('GET', key)
  if not value then
    states[index] = quota.algorithm.default
  elseif type(value) == 'string' then
    local state = quota.algorithm.read(quota, value)
    if state and state[1] >= 0 then
      states[index] = state
    else
      flaws[index] = UNREADABLE
    end
  elseif string.find(value.err, 'WRONGTYPE') then
    flaws[index] = WRONG_TYPE
  else
    flaws[index], refusal = REFUSED, value.err
  end
  stored[index] = states[index]
end

-- Deciding --------------------------------------------------------------------------------------

-- The states after charging `cost` under every policy, or nil if it does not fit under one.
local function step(keys, before, cost)
  local after = {}
  for policy, key in ipairs(keys) do
    local quota = quota_of[key]
    after[policy] = quota.algorithm.step(quota, before[policy], cost)
    if not after[policy] then
      return nil
    end
  end
  return after
end

-- How often `cost` fits in a row, at most `times`, and the states after that. To charge it k times
-- is to charge k * cost, so this looks for the largest k.
local function check(keys, before, cost, times)
  local after = step(keys, before, cost * times)
  if after then
    return times, after
  end
  local fits, too_many = 0, times
  while too_many - fits > 1 do
    local between = quotient(fits + too_many, 2)
    local states = step(keys, before, cost * between)
    if states then
      fits, after = between, states
    else
      too_many = between
    end
  end
  return fits, after or step(keys, before, 0)
end

local function differ(one, other)
  return one[1] ~= other[1] or one[2] ~= other[2] or one[3] ~= other[3]
end

local entries = {}
while position < #ARGV do
  local operation, cost, times, policies = argument(), number(), number(), number()
  local entry = { keys = {}, before = {}, charged = 0 }
  for policy = 1, policies do
    local key, joined = number(), argument()
    local quota, state = quota_of[key], states[key]
    entry.keys[policy] = key
    entry.flaw = entry.flaw or flaws[key]
    if state and joined ~= '' then
      local other = quota.algorithm.read(quota, joined)
      state = quota.algorithm.join(quota, state, quota.algorithm.rebase(quota, other))
    end
    entry.before[policy] = state
  end
  if not entry.flaw then
    local after = {}
    if operation == 'check' then
      entry.charged, after = check(entry.keys, entry.before, cost, times)
    end
    for policy, key in ipairs(entry.keys) do
      local quota = quota_of[key]
      if operation == 'refund' then
        after[policy] = quota.algorithm.refund(quota, entry.before[policy], cost)
      elseif operation == 'reset' then
        after[policy] = quota.algorithm.default
      end
      states[key] = after[policy]
    end
  end
  entries[#entries + 1] = entry
end

-- Writing ---------------------------------------------------------------------------------------

-- A server that is full, or has become a replica, refuses the first write, so that none is done.
local changed = {}
for index, key in ipairs(KEYS) do
  if states[index] and differ(states[index], stored[index]) then
    changed[index] = true
    if not refusal then
      local algorithm, state = quota_of[index].algorithm, states[index]
      local expires_at = algorithm.expires_at(state)
      local answer
      if expires_at <= now then
        answer = redis.pcall('DEL', key)
      else
        local milliseconds = string.format('%.0f', quotient(expires_at + 999, 1000))
        answer = redis.pcall('SET', key, algorithm.write(state), 'PXAT', milliseconds)
      end
      refusal = type(answer) == 'table' and answer.err or nil
    end
  end
end

local reply = { now }
for _, entry in ipairs(entries) do
  local flaw = entry.flaw
  for _, key in ipairs(entry.keys) do
    if refusal and changed[key] then
      flaw = flaw or REFUSED
    end
  end
  reply[#reply + 1] = flaw or entry.charged
  if not flaw then
    for policy = 1, #entry.keys do
      for _, number in ipairs(entry.before[policy]) do
        reply[#reply + 1] = number
      end
    end
  end
end
reply[#reply + 1] = refusal
return reply
