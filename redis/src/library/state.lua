-- State: the settings and counters of one stash, packed into one string, and the keys.
--
-- A stash `p` = "ck:{name}:" owns these keys, all in one hash slot:
--
--   m         STRING  settings and counters, packed (the fields below)
--   t         HASH    ticket -> entry record
--   d         ZSET    ticket by deadline
--   x, y      as t and d: entries that `clear` removed and that are not freed yet
--   q         ZSET    session .. request by sequence number: the wait queue
--   o         HASH    owner -> bytes charged to it, only with a limit per owner
--   s         ZSET    session by the end of its lease
--   f         HASH    session -> generation of its newest connection
--   w:<sid>   HASH    request -> what it waits for
--   g:<sid>   HASH    request -> what it was granted: reservations, and puts on their way to `store`
--   c:<sid>   HASH    claim -> mode, ticket, header of the entry record
--   k:<sid>   HASH    claim -> the entry record, unless the payload is in chunks
--   p:<ticket>:<n>    STRING  chunk n of a payload that is too large for its entry record
--
-- and these channels: n:<sid> for one session, all for every session.
--
-- Tickets, requests and claims are 16 bytes, sessions 16 hexadecimal digits, so that every record has fields
-- of fixed length and no delimiter.
--
-- Invariants, which the audit in the tests checks after every step:
--   I1  USED is the sum of the charges in t, x, c:* and g:*; ITEMS is their number.
--   I2  t and d have the same members, x and y as well.
--   I3  WAITING and WAITING_BYTES are the number and the sum of w:*; q has exactly their members.
--   I4  f has a subset of the members of s; every w:, g:, c:, k: key belongs to a member of s.
--   I5  o has, for each owner, the sum of the charges in t, x, c:*, g:* and w:*.
--   I6  while WAITING > 0 and the step was not cut off by its budget, the head does not fit.

-- `string`, `struct` and `redis.call` do not exist while Redis 7.0 loads a library, only inside functions.
local function call(...) return redis.call(...) end

-- Settings.
local MAX, MAX_AT_OPEN, OVERFLOW, TTL, OVERFLOW_TTL, OWNER_MAX, QUEUE_MAX, QUEUE_MAX_BYTES, OVERHEAD, LEASE, GRACE =
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
-- What is there.
local USED, ITEMS, WAITING, WAITING_BYTES, CLAIMS, CLOSED, SEQUENCE, EPOCH, SWEEPING, CLOCK =
  12, 13, 14, 15, 16, 17, 18, 19, 20, 21
-- What has happened.
local PEAK, STORED, DELIVERED, EXPIRED, CLEARED, CLAIMED, PUT_BACK, WAITED =
  22, 23, 24, 25, 26, 27, 28, 29
local REFUSED_FULL, REFUSED_LARGE, REFUSED_TIME, REFUSED_CANCEL, REFUSED_CLOSED, REFUSED_OWNER, REFUSED_QUEUE =
  30, 31, 32, 33, 34, 35, 36
local UNSENT, ABANDONED = 37, 38
local FIELDS = 38
local FORMAT = '>dddddddddddddddddddddddddddddddddddddd'

-- The most items that one step frees, grants or reaps.
local BATCH = 64
local CHUNK = 1048576
local INLINE = 65536
local NOBODY = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'

-- Without an exponent, which the sorted sets' commands would lose digits by.
local function int(n) return string.format('%.0f', n) end

-- nil: the stash is not there (never opened, flushed, or lost with its engine).
-- `key` is the stash's first key, "ck:{name}:m".
local function load(key)
  local v = call('GET', key)
  if not v then return nil end
  local S = {struct.unpack(FORMAT, v)}
  local p = string.sub(key, 1, -2)
  S.p = p
  S.left = BATCH
  S.expired, S.expired_bytes, S.cleared, S.cleared_bytes = 0, 0, 0, 0
  -- Never backwards, whatever the machine's clock does.
  local now = clock(p)
  if now < S[CLOCK] then now = S[CLOCK] end
  S[CLOCK] = now
  return S
end

local function save(S)
  call('SET', S.p .. 'm', struct.pack(FORMAT, unpack(S, 1, FIELDS)))
end

-- What a payload of this size is charged: nothing is free, so that the limit bounds everything.
local function charge_of(S, size) return math.max(size + S[OVERHEAD], 1) end

local function charge(S, n)
  S[USED] = S[USED] + n
  S[ITEMS] = S[ITEMS] + 1
  if S[USED] > S[PEAK] then S[PEAK] = S[USED] end
end

local function account(S, owner, n)
  if S[OWNER_MAX] == 0 or owner == NOBODY or n == 0 then return end
  if call('HINCRBY', S.p .. 'o', owner, int(n)) == 0 then call('HDEL', S.p .. 'o', owner) end
end

-- Entries that this step removed: counted, and reported to the session that made the step.
local function count_expired(S, n)
  S[EXPIRED] = S[EXPIRED] + 1
  S.expired, S.expired_bytes = S.expired + 1, S.expired_bytes + n
end

local function refund(S, n, owner)
  S[USED] = S[USED] - n
  S[ITEMS] = S[ITEMS] - 1
  account(S, owner, -n)
end

-- Whether the owner would hold more than it may.
local function over_quota(S, owner, n)
  if S[OWNER_MAX] == 0 or owner == NOBODY then return false end
  return tonumber(call('HGET', S.p .. 'o', owner) or 0) + n > S[OWNER_MAX]
end

-- 0: within the limit. 1: out of the overflow. nil: no room.
local function tier(S, n)
  local used = S[USED] + n
  if used <= S[MAX] then return 0 end
  if used <= S[MAX] + S[OVERFLOW] then return 1 end
end

-- A hint; the state is the truth. A session without a listener has lost its connection: its lease ends after the
-- grace, unless it comes back.
local function suspect(S, sid)
  local ends = S[CLOCK] + S[GRACE]
  local lease = tonumber(call('ZSCORE', S.p .. 's', sid) or 0)
  if lease > ends then call('ZADD', S.p .. 's', int(ends), sid) end
end

local function tell(S, sid, what)
  if call('PUBLISH', S.p .. 'n:' .. sid, what) == 0 then suspect(S, sid) end
end
