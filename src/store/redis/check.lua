-- Decides checks against quotas, for the Rust crate `tollgate`.
--
-- A call decides a list of items. An item is an operation on the states of one identity: a check
-- charges all of its policies or, if one of them denies, none. Each state is a key with a time to
-- live. All keys of an item are read before any is written. The clock is this server's.
--
-- KEYS    The keys of all items. Each key occurs once.
-- ARGV[1] Doubles of eight bytes each, which need no parsing, here and in the reply. For each group
--         of items that differ in their keys only:
--           operation cost times valid_until items policies,
--           and for each policy: its quota, the index in ARGV of a state to join, or 0, and for a
--           bucket with a queue the largest debt that a charge may reach: max_whole max_part
--         Operations:
--           1 check    charge `cost` at most `times` times in a row
--           2 reset    delete the states, whatever the keys hold
--           3 reserve  as 1, but quotas that reserve keep the cost apart from the debt
--           4 settle   settle a charge of `cost` at `times`, the cost that was used
--           5 renew    keep the reservation of a charge of `cost`, or reserve it anew
--         For 4 and 5, each policy has the mark of the charge in place of the index: the number of
--         the generation that has the reservation, or the start of the window.
--         Items are not decided after `valid_until` (microseconds since the Unix epoch).
--         Quotas:
--           1 burst num token_whole token_part, a token bucket
--           2 limit period 0 0, a sliding window
--           3 limit period 0 0, a fixed window
--           4 tokens num token_whole token_part, a token bucket with a queue. The largest debt of
--             a state is that of `tokens`, the burst and the queue; `max_whole` and `max_part` are
--             less if the check may not wait that long, and 0 if its cost exceeds the burst.
--           5 burst num token_whole token_part, a token bucket that reserves, or a concurrency limit
--             (a token takes no time), followed by the milliseconds that a reservation lasts.
-- ARGV[2] The keys of the items, in order, as indexes in KEYS: doubles, or empty if no two items
--         share a key, so that each takes the next ones.
-- ARGV[3] and following: states counted elsewhere, relative to now.
--
-- Returns doubles: now, and for each item the number of charges or an error code (below), then for
-- each policy the state before the charges, or zeros. If a read or a write failed, a second element
-- is the server's error.
--
-- A state is two or three integers. A key holds them as text, separated by ':':
--   bucket   full_at [rest]: when the bucket is full again, in microseconds since the epoch, and
--            the fraction of a microsecond (rest / num) on top
--   windows  ends_at previous current: when the state expires, and the counts of the previous and
--            of the current window
--   reserve  full_at rest generation started previous current: a bucket, the number of the current
--            generation of reservations, when it started, and the costs that the previous and the
--            current generation reserve. The reply has the sum of the two costs and the number.
-- A key expires at the next multiple of its quota's `slack` after the state does: for most quotas
-- in the next millisecond. Where a bucket's tokens take whole microseconds, the slack is longer, so
-- that most checks need no PEXPIREAT.
-- All numbers are integers below 2^53, which doubles represent exactly. The functions correspond to
-- those of the same name in src/quota/token_bucket.rs and src/quota/window.rs; the third number of
-- a bucket's state is nil.
--
-- Each call creates the functions anew, which takes longer than to run them. So the fast path at
-- the start, with two functions, decides most items, and the rest of the script the remaining ones.
-- The order makes no difference, since the fast path leaves out items that share a key with others.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local call, format = redis.pcall, string.format

local CHECK, RESET, RESERVE, SETTLE, RENEW = 1, 2, 3, 4, 5
local BUCKET, SLIDING, QUEUE, RESERVING = 1, 2, 4, 5

-- '%d' takes a third of the time of '%.0f', but does not have 64 bits everywhere.
local integer = format('%d', 2 ^ 53) == '9007199254740992' and '%d' or '%.0f'

-- Returns the time that a bucket's key may outlive its state, in microseconds: the time of eight
-- tokens, or an eighth of the time to fill if that is less, but at least a second. A multiple of a
-- millisecond. All versions of the crate must use the same formula, since a charge may leave the
-- expiry as an earlier charge has set it.
local function slack_of(full, token)
  local slack = token < full / 64 and 8 * token or full / 8
  return slack < 1000000 and 1000000 or slack - slack % 1000
end

-- Returns when a key expires whose state expires at `instant`, in milliseconds.
local function end_of(instant, slack)
  return format(integer, (instant - instant % slack + slack) / 1000)
end

local reply, length = { now }, 1
-- For each item that the fast path did not decide: the position of its group, the number of its
-- first key, and the length of the reply before it.
local remaining = {}

-- The fast path: allowed checks of one token bucket -----------------

-- If a token takes whole microseconds, a charge is an INCRBY. A charge that the quota does not
-- allow is undone, and the item is one of the remaining ones. So is an item whose INCRBY fails.

-- Another client may have removed a key's expiry. PTTL would cost a fifth of a check, so calls with
-- many keys skip it (bench: peers, 100,000 identities): the expiry is back when it next moves.
local is_busy = #KEYS >= 8

-- The indexes in KEYS of the keys of all items, or nil if they are consecutive, and how many items
-- have each index.
local indexes, uses
if #ARGV[2] > 0 then
  indexes, uses = { struct.unpack('<' .. string.rep('d', #ARGV[2] / 8), ARGV[2]) }, {}
  -- The last result of unpack is a position.
  indexes[#indexes] = nil
  for number = 1, #indexes do
    uses[indexes[number]] = (uses[indexes[number]] or 0) + 1
  end
end

local numbers, position, key = ARGV[1], 1, 1
while position < #numbers do
  local operation, cost, times, valid_until, items, policies,
    kind, burst, num, token_whole, _, joined = struct.unpack('<dddddddddddd', numbers, position)
  local total, width = cost * times, 3
  local is_fast = operation == CHECK and policies == 1 and kind == BUCKET and num == 1
    and joined == 0 and 0 < total and total <= burst and now <= valid_until
  local price, latest, added, slack
  local next_position = position + 96
  if is_fast then
    local full = burst * token_whole
    price, latest, slack = total * token_whole, now + full, slack_of(full, token_whole)
    added = format(integer, price)
  else
    width, next_position = 1, position + 48
    for policy = 1, policies do
      local kind = struct.unpack('<d', numbers, next_position)
      if kind == BUCKET then
        width, next_position = width + 2, next_position + 48
      elseif kind == QUEUE then
        width, next_position = width + 2, next_position + 64
      elseif kind == RESERVING then
        width, next_position = width + 4, next_position + 56
      else
        width, next_position = width + 3, next_position + 48
      end
    end
  end

  for first = key, key + (items - 1) * policies, policies do
    local decided = false
    local index = indexes and indexes[first] or first
    if is_fast and (not uses or uses[index] == 1) then
      local state_key = KEYS[index]
      local full_at = call('INCRBY', state_key, added)
      if type(full_at) == 'number' then
        local before = full_at - price
        if 0 <= before and full_at <= latest then
          if before <= now then
            local text, milliseconds = format(integer, now + price), end_of(now + price, slack)
            decided = not call('SET', state_key, text, 'PXAT', milliseconds).err
          elseif full_at - full_at % slack == before - before % slack
            and (is_busy or call('PTTL', state_key) ~= -1) then
            decided = true
          else
            decided = call('PEXPIREAT', state_key, end_of(full_at, slack)) == 1
          end
        end
        if decided then
          reply[length + 1], reply[length + 2], reply[length + 3] = times, before, 0
        elseif before == 0 then
          call('DEL', state_key)
        else
          call('INCRBY', state_key, '-' .. added)
        end
      end
    end
    if not decided then
      local last = #remaining
      remaining[last + 1], remaining[last + 2], remaining[last + 3] = position, first, length
      for reply_index = length + 1, length + width do
        reply[reply_index] = 0
      end
    end
    length = length + width
  end
  key = key + items * policies
  position = next_position
end

local reply_format = '<' .. string.rep('d', length)
if #remaining == 0 then
  return { struct.pack(reply_format, unpack(reply)) }
end

-- Reading and writing -----------------------------------------------

-- The keys of the remaining items, each once, and the value of each: a string, false if missing, or
-- an error. A write sets the value, for the items that follow.
local keys, values = {}, nil
-- The index in `keys` of each key's number, and of each index in KEYS.
local place_of, known = {}, {}
for index = 1, #remaining, 3 do
  local policies = struct.unpack('<d', numbers, remaining[index] + 40)
  for number = remaining[index + 1], remaining[index + 1] + policies - 1 do
    local key = indexes and indexes[number] or number
    local place = known[key]
    if not place then
      place = #keys + 1
      keys[place], known[key] = KEYS[key], place
    end
    place_of[number] = place
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
  -- MGET returns false for a key of another type, and fails if the user may not read one key.
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

-- Writes a state, or deletes it if it has expired. Returns the server's error, if any. A server
-- that is out of memory, or a replica, fails the first write of a call: no item is half written.
local function write(place, one, two, three, quota)
  local expires_at = one
  if quota.ttl then
    expires_at = three.started + 2 * quota.ttl
    if three.previous + three.current > 0 then
      expires_at = expires_at + quota.full_whole + 1
    end
    expires_at = math.max(expires_at, one + 1)
  elseif not three and two > 0 then
    expires_at = one + 1
  end
  if expires_at <= now then
    local answer = call('DEL', keys[place])
    values[place] = false
    return type(answer) == 'table' and answer.err or nil
  end
  local text, milliseconds = format(integer, one), end_of(expires_at, quota.slack)
  if quota.ttl then
    text = format('%s:%.0f:%.0f:%.0f:%.0f:%.0f', text, two, three.generation, three.started,
      three.previous, three.current)
  elseif three then
    text = format('%s:%.0f:%.0f', text, two, three)
  elseif two > 0 then
    text = format('%s:%.0f', text, two)
  end
  values[place] = text
  return call('SET', keys[place], text, 'PXAT', milliseconds).err
end

-- The token bucket --------------------------------------------------

local function token_bucket()
  -- Returns the debt (whole, part) and the state. A debt above the largest one means that the clock
  -- has stepped back since the state was written: it is limited to the largest one from now on.
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

  -- Returns the time of `cost` tokens. `cost` is at most `quota.tokens`, so both products are exact.
  local function price_of(quota, cost)
    local parts = cost * quota.token_part
    local part = parts % quota.num
    return cost * quota.token_whole + (parts - part) / quota.num, part
  end

  local bucket = { debt = debt, price_of = price_of }

  function bucket.quota(_, tokens, num, token_whole, token_part, max_whole, max_part)
    local quota = { tokens = tokens, num = num, token_whole = token_whole, token_part = token_part }
    quota.full_whole, quota.full_part = price_of(quota, tokens)
    quota.max_whole, quota.max_part = max_whole or quota.full_whole, max_part or quota.full_part
    quota.slack = num == 1 and slack_of(quota.full_whole, token_whole) or 1000
    return quota
  end

  -- Returns the state after charging `cost`, or nil if that is denied.
  function bucket.step(quota, cost, full_at, rest)
    local whole, part, full_at, rest = debt(quota, full_at, rest)
    if cost == 0 then
      return full_at, rest
    end
    if cost > quota.tokens then
      return nil
    end
    local price_whole, price_part = price_of(quota, cost)
    whole, part = whole + price_whole, part + price_part
    if part >= quota.num then
      whole, part = whole + 1, part - quota.num
    end
    local max_whole = quota.max_whole
    if whole > max_whole or (whole == max_whole and part > quota.max_part) then
      return nil
    end
    return now + whole, part
  end

  -- The charge of a plain bucket is final.
  function bucket.settle(_, _, _, _, full_at, rest)
    return full_at, rest
  end

  -- Returns the state with the larger debt.
  function bucket.join(quota, one, one_rest, _, index, other_rest)
    local one_whole, one_part, one, one_rest = debt(quota, one, one_rest)
    local other_whole, other_part, index, other_rest = debt(quota, index, other_rest)
    if other_whole > one_whole or (other_whole == one_whole and other_part > one_part) then
      return index, other_rest
    end
    return one, one_rest
  end

  -- Converts a state that is relative to now, which is the debt.
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

-- The windows -------------------------------------------------------

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

  -- Returns start and counts as seen from the window that starts at `to`, if that is later.
  local function roll(quota, to, start, previous, current)
    if start >= to then
      return start, previous, current
    end
    if quota.sliding and to - start == quota.period then
      return to, current, 0
    end
    return to, 0, 0
  end

  -- Returns start and counts as seen from now, or from the start of the next window if the state is
  -- from there. A later state means that the clock has stepped back: both counts then belong to the
  -- current window, so that no quota is gained.
  local function view(quota, ends_at, previous, current)
    local this = now_ms - now_ms % quota.period
    local start = start_of(quota, ends_at)
    if not quota.sliding then
      previous = 0
    end
    if start > this + quota.period then
      -- At most the limit, unless one of the counts is larger.
      return this, 0, min(current + previous, max(quota.limit, previous, current))
    end
    return roll(quota, this, start, previous, current)
  end

  local window = { third = 0 }

  function window.quota(kind, limit, period)
    local sliding = kind == SLIDING
    local life = sliding and 2 * period or period
    local quota = { limit = limit, period = period, sliding = sliding, life = life, slack = 1000 }
    -- The largest count of a window, after charges were settled above their cost.
    quota.most = min(2 * limit, 2 ^ 32 - 1)
    if sliding then
      quota.most = min(quota.most, math.floor((2 ^ 53 - 1) / period))
    end
    return quota
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
    -- The products are below 2^53 for sliding windows only.
    if left < 0 or quota.sliding and previous * in_view > left * quota.period then
      return nil
    end
    return state(quota, start, previous, current + cost)
  end

  -- Refunds the unused cost to the window that starts at `mark`, and charges the used cost above
  -- `cost` to the current window.
  function window.settle(quota, mark, cost, used, ends_at, last, this)
    local start, previous, current = view(quota, ends_at, last, this)
    local returned, extra = max(cost - used, 0), max(used - cost, 0)
    if mark == start then
      current = max(current - returned, 0)
    elseif mark + quota.period == start then
      previous = max(previous - returned, 0)
    end
    return state(quota, start, previous, min(current + extra, quota.most))
  end

  -- Returns the larger count of each window.
  function window.join(quota, one, one_last, one_this, index, other_last, other_this)
    one, one_last, one_this = view(quota, one, one_last, one_this)
    index, other_last, other_this = view(quota, index, other_last, other_this)
    local start = max(one, index)
    one, one_last, one_this = roll(quota, start, one, one_last, one_this)
    index, other_last, other_this = roll(quota, start, index, other_last, other_this)
    return state(quota, start, max(one_last, other_last), max(one_this, other_this))
  end

  -- Converts a state that is relative to the start of the current window.
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
    return first, min(previous, quota.most), min(current, quota.most)
  end

  return window
end

-- Items -------------------------------------------------------------

local bucket, window, reserving
-- Error codes of items.
local WRONG_TYPE, UNPARSABLE, COMMAND_FAILED, EXPIRED = -1, -2, -3, -4
-- The current group.
local group, operation, cost, times, expired, policies
local algorithms, quotas, joined_states, marks = {}, {}, {}, {}
-- The current item: each policy's state before and after.
local before_first, before_second, before_third = {}, {}, {}
local after_first, after_second, after_third = {}, {}, {}
local command_error

-- Reservations ------------------------------------------------------

-- Reservations are counted in two generations, so that no reservation needs an identifier. The
-- reservations of a generation lapse when the next generation ends: after one to two times the
-- quota's `ttl`. The number of a generation is never derived from the clock alone, which may step back.
local function reservations()
  local bucket, min, max = token_bucket(), math.min, math.max
  local NONE = { generation = 0, started = 0, previous = 0, current = 0 }
  local reserving = { third = NONE, rebase = bucket.rebase }

  local function generations(generation, started, previous, current)
    return { generation = generation, started = started, previous = previous, current = current }
  end

  -- Charges `cost` to the debt at `instant`, even above the limit: at most the largest debt is kept.
  local function charge(quota, full_at, rest, instant, cost)
    if cost <= 0 then
      return full_at, rest
    end
    if full_at < instant then
      full_at, rest = instant, 0
    end
    local whole, part = bucket.price_of(quota, min(cost, quota.tokens))
    whole, part = full_at + whole, rest + part
    if part >= quota.num then
      whole, part = whole + 1, part - quota.num
    end
    local _, _, full_at, rest = bucket.debt(quota, whole, part)
    return full_at, rest
  end

  function reserving.quota(_, burst, num, token_whole, token_part, ttl)
    local quota = bucket.quota(nil, 2 * burst, num, token_whole, token_part)
    quota.max_whole, quota.max_part = bucket.price_of(quota, burst)
    quota.burst, quota.ttl, quota.slack = burst, 1000 * ttl, 1000
    return quota
  end

  -- Returns the state in the generation of now. A lapsed cost is charged to the debt at the instant of
  -- the lapse.
  function reserving.roll(quota, full_at, rest, open)
    if open.generation == 0 then
      return full_at, rest, generations(now, now, 0, 0)
    end
    local generation, started = open.generation, open.started
    local previous, current = open.previous, open.current
    if now < started then
      -- The clock has stepped back.
      generation, started = generation + 1, now
      previous, current = min(previous + current, quota.tokens), 0
    end
    while now - started >= quota.ttl and previous + current > 0 do
      generation, started = generation + 1, started + quota.ttl
      full_at, rest = charge(quota, full_at, rest, started, previous)
      previous, current = current, 0
    end
    if now - started >= quota.ttl then
      generation, started = generation + 1, now
    end
    return full_at, rest, generations(generation, started, previous, current)
  end

  -- Returns the state after charging or reserving `cost`, or nil if that is denied.
  function reserving.step(quota, cost, full_at, rest, open)
    local whole, part, full_at, rest = bucket.debt(quota, full_at, rest)
    if cost == 0 then
      return full_at, rest, open
    end
    local reserved = open.previous + open.current
    if reserved + cost > quota.burst then
      return nil
    end
    local price_whole, price_part = bucket.price_of(quota, reserved + cost)
    whole, part = whole + price_whole, part + price_part
    if part >= quota.num then
      whole, part = whole + 1, part - quota.num
    end
    if whole > quota.max_whole or (whole == quota.max_whole and part > quota.max_part) then
      return nil
    end
    if operation == RESERVE then
      return full_at, rest,
        generations(open.generation, open.started, open.previous, open.current + cost)
    end
    full_at, rest = charge(quota, full_at, rest, now, cost)
    return full_at, rest, open
  end

  -- Ends the reservation and charges what was used. If the reservation has lapsed, it is charged
  -- already. A number that is far from the current one is of a state that was lost.
  function reserving.settle(quota, mark, cost, used, full_at, rest, open)
    local generation, previous, current = open.generation, open.previous, open.current
    if mark == generation then
      current = max(current - cost, 0)
    elseif mark == generation - 1 then
      previous = max(previous - cost, 0)
    elseif generation - 16 < mark and mark < generation then
      return full_at, rest, open
    end
    full_at, rest = charge(quota, full_at, rest, now, used)
    return full_at, rest, generations(generation, open.started, previous, current)
  end

  -- Moves the reservation into the current generation. Reserves it anew, even above the limit, if it
  -- has lapsed or was lost.
  function reserving.renew(quota, mark, cost, full_at, rest, open)
    local previous, current = open.previous, open.current
    if mark == open.generation then
      return full_at, rest, open
    elseif mark == open.generation - 1 then
      previous = max(previous - cost, 0)
    end
    current = min(current + cost, quota.tokens)
    return full_at, rest, generations(open.generation, open.started, previous, current)
  end

  -- Returns the state with the larger debt.
  function reserving.join(quota, full_at, rest, open, other, other_rest)
    full_at, rest = bucket.join(quota, full_at, rest, nil, other, other_rest)
    return full_at, rest, open
  end

  function reserving.read(quota, text)
    local debt, generation, started, previous, current =
      string.match(text, '^(%d+:%d+):(%d+):(%d+):(%d+):(%d+)$')
    local full_at, rest = bucket.read(quota, debt or text)
    if not debt or not full_at then
      return full_at, rest, NONE
    end
    local open = generations(tonumber(generation), tonumber(started),
      min(tonumber(previous), quota.tokens), min(tonumber(current), quota.tokens))
    if open.generation >= 2 ^ 53 or open.started >= 2 ^ 53 then
      return nil
    end
    return full_at, rest, open
  end

  return reserving
end

local function read_group(position)
  local valid_until, _
  group = position
  operation, cost, times, valid_until, _, policies, position =
    struct.unpack('<dddddd', ARGV[1], position)
  expired = now > valid_until and EXPIRED or nil
  for policy = 1, policies do
    local kind, a, b, c, d, joined, extra, max_part
    kind, a, b, c, d, joined, position = struct.unpack('<dddddd', ARGV[1], position)
    if kind == QUEUE then
      extra, max_part, position = struct.unpack('<dd', ARGV[1], position)
    elseif kind == RESERVING then
      extra, position = struct.unpack('<d', ARGV[1], position)
    end
    if kind == BUCKET or kind == QUEUE then
      bucket = bucket or token_bucket()
      algorithms[policy] = bucket
    elseif kind == RESERVING then
      reserving = reserving or reservations()
      algorithms[policy] = reserving
    else
      window = window or windows()
      algorithms[policy] = window
    end
    quotas[policy] = algorithms[policy].quota(kind, a, b, c, d, extra, max_part)
    joined_states[policy], marks[policy] = ARGV[joined], joined
    if operation == SETTLE or operation == RENEW then
      joined_states[policy] = nil
    end
  end
end

-- Sets the states after charging `cost`. Returns false if a policy denies it.
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

-- Charges `cost` as many times as all policies allow, at most `times`: sets the states and returns
-- the number. k charges in a row equal one charge of k * cost, so a binary search finds the largest
-- k. For k = 0, the states are those of a check of cost 0.
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

-- Sets the states after a reset, a settlement or a renewal.
local function change()
  for policy = 1, policies do
    local algorithm, quota, mark = algorithms[policy], quotas[policy], marks[policy]
    local one, two, three = before_first[policy], before_second[policy], before_third[policy]
    if operation == RESET then
      one, two, three = 0, 0, algorithm.third
    elseif operation == SETTLE then
      one, two, three = algorithm.settle(quota, mark, cost, times, one, two, three)
    elseif algorithm.renew then
      one, two, three = algorithm.renew(quota, mark, cost, one, two, three)
    end
    after_first[policy], after_second[policy], after_third[policy] = one, two, three
  end
end

-- Returns an error code or nil, and the state that a key's value holds.
local function read(algorithm, quota, value)
  if not value then
    return nil, 0, 0, algorithm.third
  elseif type(value) == 'string' then
    local one, two, three = algorithm.read(quota, value)
    return not (one and one >= 0) and UNPARSABLE or nil, one, two, three
  elseif string.find(value.err, 'WRONGTYPE', 1, true) then
    return WRONG_TYPE
  end
  command_error = value.err
  return COMMAND_FAILED
end

-- Deciding ----------------------------------------------------------

for index = 1, #remaining, 3 do
  local position, first, reply_index =
    remaining[index], remaining[index + 1], remaining[index + 2] + 1
  if group ~= position then
    read_group(position)
  end
  local item_error, charged, altered = expired, 0, {}
  for policy = 1, policies do
    local algorithm, quota, joined = algorithms[policy], quotas[policy], joined_states[policy]
    local value = values[place_of[first + policy - 1]]
    local read_error, one, two, three = read(algorithm, quota, value)
    if read_error and operation == RESET then
      one, two, three, altered[policy] = 0, 0, algorithm.third, true
    else
      item_error = item_error or read_error
    end
    if algorithm.roll and not item_error then
      one, two, three = algorithm.roll(quota, one, two, three)
    end
    if joined and not item_error then
      local old_one, old_two, old_three = one, two, three
      one, two, three = algorithm.join(quota, one, two, three,
        algorithm.rebase(quota, algorithm.read(quota, joined)))
      altered[policy] = one ~= old_one or two ~= old_two or three ~= old_three
    end
    before_first[policy], before_second[policy], before_third[policy] = one, two, three
  end

  if not item_error then
    if operation == CHECK or operation == RESERVE then
      charged = check()
    else
      change()
    end
    for policy = 1, policies do
      local one, two, three = after_first[policy], after_second[policy], after_third[policy]
      if altered[policy] or one ~= before_first[policy] or two ~= before_second[policy]
        or three ~= before_third[policy] then
        local place = place_of[first + policy - 1]
        command_error = command_error or write(place, one, two, three, quotas[policy])
        if command_error then
          item_error = COMMAND_FAILED
          break
        end
      end
    end
  end

  reply[reply_index] = item_error or charged
  if not item_error then
    for policy = 1, policies do
      reply[reply_index + 1], reply[reply_index + 2] = before_first[policy], before_second[policy]
      reply_index = reply_index + 2
      local open = before_third[policy]
      if quotas[policy].ttl then
        reply[reply_index + 1] = open.previous + open.current
        reply[reply_index + 2] = after_third[policy].generation
        reply_index = reply_index + 2
      elseif open then
        reply_index = reply_index + 1
        reply[reply_index] = open
      end
    end
  end
end

return { struct.pack(reply_format, unpack(reply)), command_error }
