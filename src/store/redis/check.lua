-- Decides checks against quotas, for the Rust crate `tollgate`.
--
-- One call decides any number of entries, in order. An entry is an operation on the counts of one
-- identity: a check charges all of its policies or, if any of them denies, none. Every count is a
-- key of its own, with a time to live. All keys of an entry are read before any is written. The
-- only clock is this server's.
--
-- KEYS    the counts, none of them twice: those of the first entry, of the second, and so on.
-- ARGV    numbers, and texts to be joined. Numbers come and go as doubles of eight bytes, which
--         take no parsing. They tell of the entries, in groups that differ in their keys only:
--           operation cost times valid_until entries policies,
--           and for each policy: its quota, and which of ARGV to join to its counts, or 0
--         The operations:
--           1 check   charge `cost`, as many `times` as fit in a row
--           2 reset   forget the counts, whatever the keys hold
--         After `valid_until` (microseconds since the Unix epoch) nobody waits for the entries any
--         more, and they are not done.
--         The quotas:
--           1 burst num token_whole token_part, a token bucket
--           2 limit period 0 0, a sliding window
--           3 limit period 0 0, a fixed window
--         What is joined is a count kept elsewhere, relative to now.
--
-- Returns numbers: now, and for each entry how many times it was charged, or why it was not
-- decided (the codes below), and then, for each policy, the count's numbers as they were, or zeros.
-- If a read or write was refused, there is a second element, the server's reason.
--
-- A count's numbers, which are also its value, with ':' between them:
--   bucket   until [rest]: when it is full again, in microseconds since the epoch, and the fraction
--            of a microsecond (rest / num) on top
--   windows  until previous current: when this means nothing any more, and the counts of the
--            last window and of this one
-- A key ends at the next multiple of its quota's `slack`: mostly in the next millisecond. That of a
-- bucket whose tokens take whole microseconds may stay for longer, so that most checks need not move
-- its end.
-- All numbers are whole and below 2^53, so Lua's doubles are exact. The functions are those of
-- src/quota/token_bucket.rs and src/quota/window.rs, by the same names. Where those have a state,
-- these have its numbers; the third of a bucket's is always nil.
--
-- Functions are made anew in each call, and to make one takes longer than to run it. So what most
-- entries are is decided first, with two of them. The others are decided after that, which makes no
-- difference, since no key is in two entries.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local call, format = redis.pcall, string.format

local CHECK, RESET = 1, 2
local BUCKET, SLIDING = 1, 2

-- How a number is written: '%d' takes a third of the time, where it has 64 bits.
local whole_number = format('%d', 2 ^ 53) == '9007199254740992' and '%d' or '%.0f'

-- How much longer a bucket's key may stay than its count means something, in microseconds, by the
-- time in which it fills and that of a token: eight tokens' or an eighth of the whole, whichever is
-- less, but a second at least. A whole number of milliseconds. To change it is to change what keys
-- mean: all that charge one trust that whoever did before has set its end by this.
local function slack_of(full, token)
  local slack = token < full / 64 and 8 * token or full / 8
  return slack < 1000000 and 1000000 or slack - slack % 1000
end

-- The millisecond in which a key ends whose count means nothing from `instant`.
local function end_of(instant, slack)
  return format(whole_number, (instant - instant % slack + slack) / 1000)
end

-- What is to be returned.
local reply, length = { now }, 1
-- Of each entry that is not decided at once: where its group is, its first key, and what its part
-- of the reply comes after.
local others = {}

-- Checks of one token bucket that fit ------------------------------------------------------------

-- Where a token takes whole microseconds, such a check adds to the number that is there. A check
-- that must not is taken back, and is one of the others: so is what the server refuses to add to.

-- A key may have lost its end by another client's hand. To look costs a fifth of a check, so that in
-- calls with many keys its end is set again only when it would move (bench: peers, 100,000 identities).
local is_busy = #KEYS >= 8

local numbers, position, key = ARGV[1], 1, 1
while position < #numbers do
  local operation, cost, times, valid_until, entries, policies,
    kind, burst, num, token_whole, _, joined = struct.unpack('<dddddddddddd', numbers, position)
  local total, width = cost * times, 3
  local plain = operation == CHECK and policies == 1 and kind == BUCKET and num == 1
    and joined == 0 and 0 < total and total <= burst and now <= valid_until
  local price, latest, added, slack
  if plain then
    local full = burst * token_whole
    price, latest, slack = total * token_whole, now + full, slack_of(full, token_whole)
    added = format(whole_number, price)
  else
    width = 1
    for policy = 1, policies do
      local kind = struct.unpack('<d', numbers, position + 48 * policy)
      width = width + (kind == BUCKET and 2 or 3)
    end
  end

  for first = key, key + (entries - 1) * policies, policies do
    local done = false
    if plain then
      local count = KEYS[first]
      local full_at = call('INCRBY', count, added)
      if type(full_at) == 'number' then
        local before = full_at - price
        if 0 <= before and full_at <= latest then
          if before <= now then
            local text, milliseconds = format(whole_number, now + price), end_of(now + price, slack)
            done = not call('SET', count, text, 'PXAT', milliseconds).err
          elseif full_at - full_at % slack == before - before % slack
            and (is_busy or call('PTTL', count) ~= -1) then
            done = true
          else
            done = call('PEXPIREAT', count, end_of(full_at, slack)) == 1
          end
        end
        if done then
          reply[length + 1], reply[length + 2], reply[length + 3] = times, before, 0
        elseif before == 0 then
          call('DEL', count)
        else
          call('INCRBY', count, '-' .. added)
        end
      end
    end
    if not done then
      local last = #others
      others[last + 1], others[last + 2], others[last + 3] = position, first, length
      for place = length + 1, length + width do
        reply[place] = 0
      end
    end
    length = length + width
  end
  key = key + entries * policies
  position = position + 48 + 48 * policies
end

local packed = '<' .. string.rep('d', length)
if #others == 0 then
  return { struct.pack(packed, unpack(reply)) }
end

-- Reading and writing ----------------------------------------------------------------------------

-- The keys of the others, and what each holds: text, or false for nothing, or an error.
local keys, values = {}, nil
for other = 1, #others, 3 do
  local policies = struct.unpack('<d', numbers, others[other] + 40)
  for key = others[other + 1], others[other + 1] + policies - 1 do
    keys[#keys + 1] = KEYS[key]
  end
end
if #keys > 1 then
  values = call('MGET', unpack(keys))
  local texts = 0
  for key = 1, #values do
    if values[key] then
      texts = texts + 1
    end
  end
  -- It passes a key of another type off as none, and is refused for all keys if for one.
  if texts < #keys and (values.err or call('EXISTS', unpack(keys)) ~= texts) then
    values = nil
  end
end
if not values then
  values = {}
  for key = 1, #keys do
    values[key] = call('GET', keys[key])
  end
end

-- Writes a count, or deletes it if it means nothing any more. Returns the server's reason if it
-- refuses. One that is full, or has become a replica, refuses the first write of a call, so that
-- no policy of an entry is charged without the others.
local function write(key, one, two, three, slack)
  local expires_at = one
  if not three and two > 0 then
    expires_at = one + 1
  end
  if expires_at <= now then
    local answer = call('DEL', keys[key])
    return type(answer) == 'table' and answer.err or nil
  end
  local text, milliseconds = format(whole_number, one), end_of(expires_at, slack)
  if three then
    text = format('%s:%.0f:%.0f', text, two, three)
  elseif two > 0 then
    text = format('%s:%.0f', text, two)
  end
  return call('SET', keys[key], text, 'PXAT', milliseconds).err
end

-- The token bucket -----------------------------------------------------------------------------

local function token_bucket()
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
  local function price_of(quota, cost)
    local parts = cost * quota.token_part
    local part = parts % quota.num
    return cost * quota.token_whole + (parts - part) / quota.num, part
  end

  local bucket = {}

  function bucket.quota(_, burst, num, token_whole, token_part)
    local quota = { burst = burst, num = num, token_whole = token_whole, token_part = token_part }
    quota.full_whole, quota.full_part = price_of(quota, quota.burst)
    quota.slack = num == 1 and slack_of(quota.full_whole, token_whole) or 1000
    return quota
  end

  -- The state after charging `cost`, or nil if it does not fit.
  function bucket.step(quota, cost, full_at, rest)
    local whole, part, full_at, rest = debt(quota, full_at, rest)
    if cost == 0 then
      return full_at, rest
    end
    if cost > quota.burst then
      return nil
    end
    local price_whole, price_part = price_of(quota, cost)
    whole, part = whole + price_whole, part + price_part
    if part >= quota.num then
      whole, part = whole + 1, part - quota.num
    end
    local full_whole = quota.full_whole
    if whole > full_whole or (whole == full_whole and part > quota.full_part) then
      return nil
    end
    return now + whole, part
  end

  -- The more indebted of two states.
  function bucket.join(quota, one, one_rest, _, other, other_rest)
    local one_whole, one_part, one, one_rest = debt(quota, one, one_rest)
    local other_whole, other_part, other, other_rest = debt(quota, other, other_rest)
    if other_whole > one_whole or (other_whole == one_whole and other_part > one_part) then
      return other, other_rest
    end
    return one, one_rest
  end

  -- A state that is relative to now: the debt.
  function bucket.rebase(_, whole, part)
    return now + whole, part
  end

  function bucket.read(quota, text)
    local whole, part = string.match(text, '^%d+$'), 0
    if not whole then
      whole, part = string.match(text, '^(%d+):(%d+)$')
    end
    whole, part = tonumber(whole), tonumber(part)
    if not whole or whole >= 2 ^ 53 or part >= 2 ^ 53 then
      return nil
    end
    return whole, part < quota.num and part or quota.num - 1
  end

  return bucket
end

-- The windows ----------------------------------------------------------------------------------

local function windows()
  local max, min = math.max, math.min
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
  -- stands at that window's start. From further ahead, the clock has stepped back: both counts
  -- are taken to be this window's, so that nothing is minted.
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

  local window = { third = 0 }

  function window.quota(kind, limit, period)
    local sliding = kind == SLIDING
    local life = sliding and 2 * period or period
    return { limit = limit, period = period, sliding = sliding, life = life, slack = 1000 }
  end

  function window.step(quota, cost, ends_at, last, this)
    local start, previous, current = view(quota, ends_at, last, this)
    if cost == 0 then
      if start < start_of(quota, ends_at) then
        return state(quota, start, previous, current)
      end
      return ends_at, last, this
    end
    local left = quota.limit - cost - current
    local in_view = quota.period - max(now_ms - start, 0)
    -- Only a sliding window's products are known to be below 2^53.
    if left < 0 or quota.sliding and previous * in_view > left * quota.period then
      return nil
    end
    return state(quota, start, previous, current + cost)
  end

  -- The larger count of each window.
  function window.join(quota, one, one_last, one_this, other, other_last, other_this)
    one, one_last, one_this = view(quota, one, one_last, one_this)
    other, other_last, other_this = view(quota, other, other_last, other_this)
    local start = max(one, other)
    one, one_last, one_this = roll(quota, start, one, one_last, one_this)
    other, other_last, other_this = roll(quota, start, other, other_last, other_this)
    return state(quota, start, max(one_last, other_last), max(one_this, other_this))
  end

  -- A state that is relative to now: its window's start from the start of this one.
  function window.rebase(quota, offset, previous, current)
    return state(quota, max(now_ms - now_ms % quota.period + offset, 0), previous, current)
  end

  function window.read(quota, text)
    local first, previous, current = string.match(text, '^(%-?%d+):(%d+):(%d+)$')
    if not first then
      return nil
    end
    first, previous, current = tonumber(first), tonumber(previous), tonumber(current)
    if first >= 2 ^ 53 or previous >= 2 ^ 53 or current >= 2 ^ 53 then
      return nil
    end
    return first, min(previous, quota.limit), min(current, quota.limit)
  end

  return window
end

-- Entries --------------------------------------------------------------------------------------

local bucket, window
-- Why an entry is not decided.
local WRONG_TYPE, UNREADABLE, REFUSED, TOO_LATE = -1, -2, -3, -4
-- Of the group at hand.
local group, operation, cost, times, late, policies
local algorithms, quotas, joins = {}, {}, {}
-- Of the entry at hand, for each policy: its count's numbers, and those to come.
local before_first, before_second, before_third = {}, {}, {}
local after_first, after_second, after_third = {}, {}, {}
local refusal

local function read_group(position)
  local valid_until, _
  group = position
  operation, cost, times, valid_until, _, policies, position =
    struct.unpack('<dddddd', ARGV[1], position)
  late = now > valid_until and TOO_LATE or nil
  for policy = 1, policies do
    local kind, a, b, c, d, joined
    kind, a, b, c, d, joined, position = struct.unpack('<dddddd', ARGV[1], position)
    if kind == BUCKET then
      bucket = bucket or token_bucket()
      algorithms[policy] = bucket
    else
      window = window or windows()
      algorithms[policy] = window
    end
    quotas[policy] = algorithms[policy].quota(kind, a, b, c, d)
    joins[policy] = ARGV[joined]
  end
end

-- Sets what is to come after charging `cost` under every policy, unless it does not fit under
-- one.
local function step(cost)
  for policy = 1, policies do
    local one, two, three = algorithms[policy].step(
      quotas[policy], cost, before_first[policy], before_second[policy], before_third[policy])
    if not one then
      return false
    end
    after_first[policy], after_second[policy], after_third[policy] = one, two, three
  end
  return true
end

-- Sets what is to come after charging `cost` as often as it fits in a row, at most `times`, and
-- says how often that is. To charge it k times is to charge k * cost, so this looks for the
-- largest k. If none fits, it only looks.
local function check()
  if step(cost * times) then
    return times
  end
  local fits, too_many = 0, times
  while too_many - fits > 1 do
    local between = math.floor((fits + too_many) / 2)
    if step(cost * between) then
      fits = between
    else
      too_many = between
    end
  end
  step(cost * fits)
  return fits
end

-- What a key holds: its count's numbers, or why they cannot be told.
local function read(algorithm, quota, value)
  if not value then
    return nil, 0, 0, algorithm.third
  elseif type(value) == 'string' then
    local one, two, three = algorithm.read(quota, value)
    return not (one and one >= 0) and UNREADABLE or nil, one, two, three
  elseif string.find(value.err, 'WRONGTYPE', 1, true) then
    return WRONG_TYPE
  end
  refusal = value.err
  return REFUSED
end

-- Deciding ---------------------------------------------------------------------------------------

-- How many keys are behind.
local key = 0
for other = 1, #others, 3 do
  local position, place = others[other], others[other + 2] + 1
  if group ~= position then
    read_group(position)
  end
  local flaw, charged, altered = late, 0, {}
  for policy = 1, policies do
    local algorithm, quota, joined = algorithms[policy], quotas[policy], joins[policy]
    local why, one, two, three = read(algorithm, quota, values[key + policy])
    if why and operation == RESET then
      one, two, three, altered[policy] = 0, 0, algorithm.third, true
    else
      flaw = flaw or why
    end
    if joined and not flaw then
      local old_one, old_two, old_three = one, two, three
      one, two, three = algorithm.join(quota, one, two, three,
        algorithm.rebase(quota, algorithm.read(quota, joined)))
      altered[policy] = one ~= old_one or two ~= old_two or three ~= old_three
    end
    before_first[policy], before_second[policy], before_third[policy] = one, two, three
  end

  if not flaw then
    if operation == CHECK then
      charged = check()
    else
      for policy = 1, policies do
        after_first[policy], after_second[policy], after_third[policy] =
          0, 0, algorithms[policy].third
      end
    end
    for policy = 1, policies do
      local one, two, three = after_first[policy], after_second[policy], after_third[policy]
      if altered[policy] or one ~= before_first[policy] or two ~= before_second[policy]
        or three ~= before_third[policy] then
        refusal = refusal or write(key + policy, one, two, three, quotas[policy].slack)
        if refusal then
          flaw = REFUSED
          break
        end
      end
    end
  end

  reply[place] = flaw or charged
  if not flaw then
    for policy = 1, policies do
      reply[place + 1], reply[place + 2] = before_first[policy], before_second[policy]
      place = place + 2
      if before_third[policy] then
        place = place + 1
        reply[place] = before_third[policy]
      end
    end
  end
  key = key + policies
end

return { struct.pack(packed, unpack(reply)), refusal }
