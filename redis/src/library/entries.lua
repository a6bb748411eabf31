-- Entries: records, chunks, expiry, claims and the sweep after `clear`.
--
-- An entry record is a header of fixed length, then the payload unless it is in chunks:
--   charge d | deadline d | epoch I4 | chunks I4 | owner c16
-- `chunks` is how many there are, plus the number of the first: a multiple of SERIES, its own for each payload that was
-- tried under the ticket. It has CAPPED added if the entry uses the overflow.

local ENTRY = '>ddI4I4c16'
local ENTRY_HEADER = 40
local CAPPED = 2147483648
local SERIES = 1024
-- A claim's record is its mode ('f' or 'b': how it ends when its session dies), the ticket, the entry's header.
-- The payload stays out of it: Lua hashes every byte of a string that enters it, and most claims are finished.
local CLAIM_HEADER = 17

local function unpack_entry(v)
  local n, deadline, epoch, chunks, owner = struct.unpack(ENTRY, v)
  return n, deadline, epoch, chunks % CAPPED, owner, chunks >= CAPPED
end

local function free_chunks(S, ticket, chunks)
  if chunks == 0 then return end
  local keys, count = {}, chunks % SERIES
  for i = 1, count do keys[i] = S.p .. 'p:' .. ticket .. ':' .. (chunks - count + i - 1) end
  call('UNLINK', unpack(keys))
end

-- Releases the bytes of an entry whose record is removed already. Returns its charge.
local function free_entry(S, ticket, v)
  local n, _, _, chunks, owner = unpack_entry(v)
  free_chunks(S, ticket, chunks)
  refund(S, n, owner)
  return n
end

local function insert(S, ticket, n, owner, ttl, overflow, chunks, payload)
  if overflow and S[OVERFLOW_TTL] < ttl then ttl = S[OVERFLOW_TTL] end
  if overflow then chunks = chunks + CAPPED end
  local deadline = S[CLOCK] + ttl
  call('HSET', S.p .. 't', ticket, struct.pack(ENTRY, n, deadline, S[EPOCH], chunks, owner) .. payload)
  call('ZADD', S.p .. 'd', int(deadline), ticket)
  S[STORED] = S[STORED] + 1
  -- The head's session sleeps until the earliest deadline that it knows of.
  if S[WAITING] > 0 and call('ZRANK', S.p .. 'd', ticket) == 0 then
    local head = call('ZRANGE', S.p .. 'q', 0, 0)[1]
    if head then tell(S, string.sub(head, 1, 16), 't') end
  end
end

local function expire(S)
  local due = call('ZRANGE', S.p .. 'd', '-inf', int(S[CLOCK]), 'BYSCORE', 'LIMIT', 0, S.left)
  if #due == 0 then return end
  for _, ticket in ipairs(due) do
    local v = call('HGET', S.p .. 't', ticket)
    call('HDEL', S.p .. 't', ticket)
    count_expired(S, free_entry(S, ticket, v))
  end
  call('ZREM', S.p .. 'd', unpack(due))
  S.left = S.left - #due
end

-- Frees what `clear` removed. By the sorted set: HSCAN from 0 finds nothing in buckets that it has emptied,
-- and would stop early.
local function sweep(S)
  if S[SWEEPING] == 0 then return end
  local popped = call('ZPOPMIN', S.p .. 'y', S.left)
  for i = 1, #popped, 2 do
    local v = call('HGET', S.p .. 'x', popped[i])
    call('HDEL', S.p .. 'x', popped[i])
    S.cleared, S.cleared_bytes = S.cleared + 1, S.cleared_bytes + free_entry(S, popped[i], v)
  end
  S.left = S.left - #popped / 2
  if call('EXISTS', S.p .. 'y') == 0 then S[SWEEPING] = 0 end
end

-- Ends a claim: delivered, or put back under the same ticket and deadline unless that has passed.
-- Returns whether the entry can be taken again.
local function end_claim(S, sid, cid, finish)
  local c = call('HGET', S.p .. 'c:' .. sid, cid)
  -- With a live session: an earlier try did it.
  if not c then return false end
  call('HDEL', S.p .. 'c:' .. sid, cid)
  S[CLAIMS] = S[CLAIMS] - 1
  local ticket, v = string.sub(c, 2, CLAIM_HEADER), string.sub(c, CLAIM_HEADER + 1)
  local _, deadline, epoch, chunks = unpack_entry(v)
  if not finish and chunks == 0 then
    local record = call('HGET', S.p .. 'k:' .. sid, cid)
    -- Renewed: the header is newer than the record.
    if string.sub(record, 1, ENTRY_HEADER) == v then v = record else v = v .. string.sub(record, ENTRY_HEADER + 1) end
  end
  if chunks == 0 then call('HDEL', S.p .. 'k:' .. sid, cid) end
  if finish then
    S[DELIVERED] = S[DELIVERED] + 1
    free_entry(S, ticket, v)
  elseif deadline <= S[CLOCK] then
    count_expired(S, free_entry(S, ticket, v))
  elseif epoch ~= S[EPOCH] then
    S[CLEARED] = S[CLEARED] + 1
    S.cleared, S.cleared_bytes = S.cleared + 1, S.cleared_bytes + free_entry(S, ticket, v)
  else
    -- A take whose caller has gone was not counted as a claim.
    if string.sub(c, 1, 1) == 'b' then S[PUT_BACK] = S[PUT_BACK] + 1 end
    call('HSET', S.p .. 't', ticket, v)
    call('ZADD', S.p .. 'd', int(deadline), ticket)
    if S[WAITING] > 0 then
      local head = call('ZRANGE', S.p .. 'q', 0, 0)[1]
      if head then tell(S, string.sub(head, 1, 16), 't') end
    end
    return true
  end
  return false
end
