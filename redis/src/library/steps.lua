-- Steps: what a client calls. Each is one round trip, atomic, and validated before its first write.
--
-- Every step of a session begins with: session, generation, again ('1' for a retry), notes. Notes are what
-- the session has to say about earlier steps, 17 bytes each: a kind and an id. They ride on the next step, in
-- order, and repeating them changes nothing.
--
-- Every reply begins with: status, the id of the operation, whether there is more to do, the number of waiters.

local steps = {}

local NOTES = {
  F = function(S, sid, id) end_claim(S, sid, id, true) end,
  B = function(S, sid, id) end_claim(S, sid, id, false) end,
  U = function(S, sid, id) leave(S, sid, id, nil) end,
  C = function(S, sid, id) leave(S, sid, id, ABANDONED) end,
  T = function(S, sid, id) leave(S, sid, id, REFUSED_TIME) end,
}

local function done(S, status, id, ...)
  serve(S)
  if S[CLOSED] == 1 and S[ITEMS] == 0 then call('PUBLISH', S.p .. 'all', 'd') end
  -- For the observer of the replica whose step it was.
  if S.expired > 0 and S.me then
    call('PUBLISH', S.p .. 'n:' .. S.me, 'x' .. S.expired .. ' ' .. int(S.expired_bytes))
  end
  if S.cleared > 0 and S.me then
    call('PUBLISH', S.p .. 'n:' .. S.me, 'c' .. S.cleared .. ' ' .. int(S.cleared_bytes))
  end
  save(S)
  local more = (S.left <= 0 or S[SWEEPING] == 1) and 1 or 0
  return {status, id, more, S[WAITING], ...}
end

-- nil and the reply: the step must not run.
local function begin(k, a)
  local S = load(k[1])
  if not S then return nil, {'EMPTY', ''} end
  local why = fenced(S, a[1], a[2])
  if why then return nil, {why, ''} end
  S.me = a[1]
  local notes = a[4]
  for at = 1, #notes, 17 do
    NOTES[string.sub(notes, at, at)](S, a[1], string.sub(notes, at + 1, at + 16))
  end
  return S
end

local function refuse(S, counter, status, id, n)
  S[counter] = S[counter] + 1
  return done(S, status, id, int(n), int(S[USED]), int(S[MAX] + S[OVERFLOW]))
end

-- How a request is refused that finds no room and does not wait: because its caller did not ask for it, or because
-- the wait is over before it begins.
local AT_ONCE = {
  ['0'] = {REFUSED_FULL, 'FULL'},
  t = {REFUSED_TIME, 'TIMEOUT'},
  c = {REFUSED_CANCEL, 'CANCELLED'},
}

-- Room for n bytes now: the tier. Otherwise the reply, and the request may wait now.
local function admit(S, sid, rid, owner, n, wait)
  if S[CLOSED] == 1 then return nil, refuse(S, REFUSED_CLOSED, 'CLOSED', rid, n) end
  if n > S[MAX] + S[OVERFLOW] then return nil, refuse(S, REFUSED_LARGE, 'LARGE', rid, n) end
  if over_quota(S, owner, n) or S[WAITING] > 0 or not tier(S, n) then
    tidy(S)
    -- Nothing is refused while something expired, cleared or dead is left.
    local more = S.left <= 0 or S[SWEEPING] == 1
    if over_quota(S, owner, n) then
      if more then return nil, done(S, 'AGAIN', rid) end
      S[REFUSED_OWNER] = S[REFUSED_OWNER] + 1
      local held = tonumber(call('HGET', S.p .. 'o', owner) or 0)
      return nil, done(S, 'OWNER', rid, int(n), int(held), int(S[OWNER_MAX]))
    end
    if S[WAITING] > 0 or not tier(S, n) then
      if more then return nil, done(S, 'AGAIN', rid) end
      local refused = AT_ONCE[wait]
      if refused then return nil, refuse(S, refused[1], refused[2], rid, n) end
      if S[WAITING] >= S[QUEUE_MAX] or S[WAITING_BYTES] + n > S[QUEUE_MAX_BYTES] then
        return nil, refuse(S, REFUSED_QUEUE, 'QUEUE', rid, n)
      end
      S[SEQUENCE] = S[SEQUENCE] + 1
      call('ZADD', S.p .. 'q', int(S[SEQUENCE]), sid .. rid)
      call('HSET', S.p .. 'w:' .. sid, rid, struct.pack(WAIT, n, S[CLOCK], owner))
      account(S, owner, n)
      S[WAITING] = S[WAITING] + 1
      S[WAITING_BYTES] = S[WAITING_BYTES] + n
      return nil, done(S, 'WAIT', rid, int(next_in(S)))
    end
  end
  local room = tier(S, n)
  charge(S, n)
  account(S, owner, n)
  return room
end

-- Where an earlier try of the request has come to, if anywhere.
local function earlier(S, sid, rid)
  if call('HEXISTS', S.p .. 't', rid) == 1 then return done(S, 'STORED', rid) end
  local g = call('HGET', S.p .. 'g:' .. sid, rid)
  if g then return done(S, 'GRANTED', rid, int((struct.unpack(GRANT, g)))) end
  if call('HEXISTS', S.p .. 'w:' .. sid, rid) == 1 then return done(S, 'WAIT', rid, int(next_in(S))) end
end

local function ttl_of(S, ttl) return ttl == '' and S[TTL] or tonumber(ttl) end

-- max, overflow, ttl, overflow ttl, per owner, queue, queue bytes, overhead, lease, grace
-- The first call makes the stash. Answers with the settings that hold.
steps.open = function(k, a)
  local p = string.sub(k[1], 1, -2)
  local S = load(k[1])
  local made = not S
  if made then
    S = {p = p, left = BATCH}
    for i = 1, FIELDS do S[i] = 0 end
    for i = 1, 10 do S[i == 1 and MAX or i + 1] = tonumber(a[i]) end
    S[MAX_AT_OPEN] = S[MAX]
    S[CLOCK] = clock(p)
    save(S)
  end
  local settings = {}
  for i = MAX_AT_OPEN, GRACE do settings[i - 1] = int(S[i]) end
  return {made and 'MADE' or 'THERE', settings}
end

-- session, generation, '1' if the session is new. A new connection counts its generation up: what older
-- connections still deliver is refused from here on.
steps.hello = function(k, a)
  local S = load(k[1])
  if not S then return {'EMPTY', ''} end
  local g = call('HGET', S.p .. 'f', a[1])
  if not g and a[3] ~= '1' then return {'GONE', ''} end
  if g and tonumber(g) > tonumber(a[2]) then return {'STALE', ''} end
  call('HSET', S.p .. 'f', a[1], a[2])
  call('ZADD', S.p .. 's', int(S[CLOCK] + S[LEASE]), a[1])
  save(S)
  return {'OK', '', 0, S[WAITING], int(S[OVERHEAD])}
end

-- Ends a session on purpose: the next tidy hands on what it held.
steps.bye = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  call('ZADD', S.p .. 's', 0, a[1])
  S.me = nil
  tidy(S)
  return done(S, 'OK', 'bye')
end

-- Renews the lease. Answers with the time of the next tick and how many of the session's requests wait: a client
-- that counts more has missed a notification, and asks.
steps.beat = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  call('ZADD', S.p .. 's', int(S[CLOCK] + S[LEASE]), a[1])
  tidy(S)
  probe(S)
  return done(S, 'OK', 'beat', int(next_in(S)), call('HLEN', S.p .. 'w:' .. a[1]), S[CLOSED])
end

-- Expires, reaps and grants.
steps.tick = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  tidy(S)
  probe(S)
  return done(S, 'OK', 'tick', int(next_in(S)), S.expired)
end

-- Only the notes.
steps.note = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  return done(S, 'OK', 'note')
end

-- ticket, owner, ttl, wait, payload. The payload is stored now, or the request waits without it.
steps.put = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  local sid, ticket, owner = a[1], a[5], a[6]
  if a[3] == '1' then
    reply = earlier(S, sid, ticket)
    if reply then return reply end
  end
  local n = charge_of(S, #a[9])
  local room
  room, reply = admit(S, sid, ticket, owner, n, a[8])
  if not room then return reply end
  insert(S, ticket, n, owner, ttl_of(S, a[7]), room == 1, 0, a[9])
  return done(S, 'STORED', ticket, int(n), room)
end

-- request, owner, bytes, wait. Room before there is a payload.
steps.admit = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  local sid, rid, owner = a[1], a[5], a[6]
  if a[3] == '1' then
    reply = earlier(S, sid, rid)
    if reply then return reply end
  end
  local n = charge_of(S, tonumber(a[7]))
  local room
  room, reply = admit(S, sid, rid, owner, n, a[8])
  if not room then return reply end
  call('HSET', S.p .. 'g:' .. sid, rid, struct.pack(GRANT, n, room, owner))
  return done(S, 'GRANTED', rid, int(n))
end

-- request, '1' if it timed out. The end of a wait, unless the request was granted: the grant wins.
steps.give_up = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  local g = call('HGET', S.p .. 'g:' .. a[1], a[5])
  if g then return done(S, 'GRANTED', a[5], int((struct.unpack(GRANT, g)))) end
  leave(S, a[1], a[5], a[6] == '1' and REFUSED_TIME or REFUSED_CANCEL)
  return done(S, 'LEFT', a[5], '0', int(S[USED]), int(S[MAX] + S[OVERFLOW]))
end

-- request, bytes. Gives back all but what a payload of that size needs.
steps.shrink = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  local key, n = S.p .. 'g:' .. a[1], charge_of(S, tonumber(a[6]))
  local g = call('HGET', key, a[5])
  if not g then return done(S, 'NONE', a[5]) end
  local have, room, owner = struct.unpack(GRANT, g)
  if n < have then
    call('HSET', key, a[5], struct.pack(GRANT, n, room, owner))
    S[USED] = S[USED] - (have - n)
    account(S, owner, n - have)
  end
  return done(S, 'OK', a[5])
end

-- request, owner, ttl, size, chunks, payload. What was granted becomes an entry, and the rest goes back.
steps.store = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  local sid, rid, owner, size, chunks = a[1], a[5], a[6], tonumber(a[8]), tonumber(a[9])
  local g = call('HGET', S.p .. 'g:' .. sid, rid)
  if not g then
    if call('HEXISTS', S.p .. 't', rid) == 1 then return done(S, 'STORED', rid, '0', 0) end
    -- A retry whose first try stored it, and the entry is gone since: expired or cleared.
    return done(S, a[3] == '1' and 'STORED' or 'NONE', rid, '0', 0)
  end
  local have, room, was = struct.unpack(GRANT, g)
  local n, count = charge_of(S, size), chunks % SERIES
  -- The caller holds that it does not fit, and did not send it: a grant can be larger than its caller knows.
  if n > have or chunks == 0 and #a[10] ~= size then
    S[REFUSED_LARGE] = S[REFUSED_LARGE] + 1
    free_chunks(S, rid, chunks)
    return done(S, 'LARGE', rid, int(n), '0', int(have))
  end
  if owner ~= was and over_quota(S, owner, n) then tidy(S) end
  if owner ~= was and over_quota(S, owner, n) then
    -- As in `admit`.
    if S.left <= 0 or S[SWEEPING] == 1 then return done(S, 'AGAIN', rid) end
    S[REFUSED_OWNER] = S[REFUSED_OWNER] + 1
    free_chunks(S, rid, chunks)
    return done(S, 'OWNER', rid, int(n), call('HGET', S.p .. 'o', owner) or '0', int(S[OWNER_MAX]))
  end
  for i = 0, count - 1 do
    -- Until now a chunk goes by itself, so that one that comes late does not stay.
    local key = S.p .. 'p:' .. rid .. ':' .. (chunks - count + i)
    local length = i < count - 1 and CHUNK or size - (count - 1) * CHUNK
    if call('STRLEN', key) ~= length then return done(S, 'CHUNK', rid, i) end
    call('PERSIST', key)
  end
  call('HDEL', S.p .. 'g:' .. sid, rid)
  S[USED] = S[USED] - (have - n)
  account(S, was, -have)
  account(S, owner, n)
  insert(S, rid, n, owner, ttl_of(S, a[7]), room == 1, chunks, a[10])
  return done(S, 'STORED', rid, int(n), room)
end

-- claim, ticket, owner, mode. No other call gets the entry from here on. Answers with its record.
steps.claim = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  local sid, cid, ticket, owner = a[1], a[5], a[6], a[7]
  local claims = S.p .. 'c:' .. sid
  if a[3] == '1' then
    local c = call('HGET', claims, cid)
    if c then
      local n, _, _, chunks = unpack_entry(string.sub(c, CLAIM_HEADER + 1))
      return done(S, 'OK', cid, int(n), chunks, call('HGET', S.p .. 'k:' .. sid, cid) or '')
    end
  end
  local v = call('HGET', S.p .. 't', ticket)
  if not v then return done(S, 'NONE', cid) end
  local n, deadline, _, chunks, of = unpack_entry(v)
  if of ~= owner then return done(S, 'NONE', cid) end
  call('HDEL', S.p .. 't', ticket)
  call('ZREM', S.p .. 'd', ticket)
  if deadline <= S[CLOCK] then
    count_expired(S, free_entry(S, ticket, v))
    return done(S, 'NONE', cid)
  end
  call('HSET', claims, cid, a[8] .. ticket .. string.sub(v, 1, ENTRY_HEADER))
  if chunks == 0 then call('HSET', S.p .. 'k:' .. sid, cid, v) end
  S[CLAIMS] = S[CLAIMS] + 1
  if a[8] == 'b' then S[CLAIMED] = S[CLAIMED] + 1 end
  return done(S, 'OK', cid, int(n), chunks, v)
end

-- claim, ticket. Puts it back, and answers whether the entry can be taken again: for a retry, whether it is there.
steps.put_back = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  local c = call('HGET', S.p .. 'c:' .. a[1], a[5])
  if not c then return done(S, 'OK', a[5], call('HEXISTS', S.p .. 't', a[6])) end
  return done(S, 'OK', a[5], end_claim(S, a[1], a[5], false) and 1 or 0)
end

-- claim, ttl. The entry's new deadline, which counts once the claim is put back.
steps.renew = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  local claims, cid = S.p .. 'c:' .. a[1], a[5]
  local c = call('HGET', claims, cid)
  if not c then return done(S, 'NONE', cid) end
  local n, deadline, epoch, chunks, owner, capped = unpack_entry(string.sub(c, CLAIM_HEADER + 1))
  if deadline <= S[CLOCK] then return done(S, 'OK', cid, 0) end
  local ttl = tonumber(a[6])
  if capped and S[OVERFLOW_TTL] < ttl then ttl = S[OVERFLOW_TTL] end
  if capped then chunks = chunks + CAPPED end
  local header = struct.pack(ENTRY, n, S[CLOCK] + ttl, epoch, chunks, owner)
  call('HSET', claims, cid, string.sub(c, 1, CLAIM_HEADER) .. header)
  return done(S, 'OK', cid, 1)
end

-- ticket, owner. Removes an entry whose ticket was not sent. Answers with its charge, or -1.
steps.unsent = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  local v = call('HGET', S.p .. 't', a[5])
  if not v then return done(S, 'OK', a[5], -1) end
  local _, _, _, _, of = unpack_entry(v)
  if of ~= a[6] then return done(S, 'OK', a[5], -1) end
  call('HDEL', S.p .. 't', a[5])
  call('ZREM', S.p .. 'd', a[5])
  S[UNSENT] = S[UNSENT] + 1
  return done(S, 'OK', a[5], int(free_entry(S, a[5], v)))
end

-- All tickets are dead in this step; their bytes are freed a batch at a time.
steps.clear = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  if S[SWEEPING] == 1 then
    tidy(S)
    if S[SWEEPING] == 1 then return done(S, 'AGAIN', 'clear') end
  end
  local count = call('HLEN', S.p .. 't')
  if count > 0 then
    call('RENAME', S.p .. 't', S.p .. 'x')
    call('RENAME', S.p .. 'd', S.p .. 'y')
    S[CLEARED] = S[CLEARED] + count
    S[SWEEPING] = 1
  end
  -- Claims are not put back either.
  S[EPOCH] = S[EPOCH] + 1
  tidy(S)
  return done(S, 'OK', 'clear', count)
end

steps.close = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  if S[CLOSED] == 1 then return done(S, 'OK', 'close', 0) end
  local count = S[WAITING]
  S[CLOSED] = 1
  return done(S, 'OK', 'close', count)
end

-- bytes
steps.limit = function(k, a)
  local S, reply = begin(k, a)
  if not S then return reply end
  S[MAX] = tonumber(a[5])
  return done(S, 'OK', 'limit')
end

steps.stats = function(k, a)
  local S = load(k[1])
  if not S then return {'EMPTY', ''} end
  local fields = {}
  for i = 1, FIELDS do fields[i] = int(S[i]) end
  local head, since = '', ''
  if S[WAITING] > 0 then
    local member = call('ZRANGE', S.p .. 'q', 0, 0)[1]
    local w = call('HGET', S.p .. 'w:' .. string.sub(member, 1, 16), string.sub(member, 17))
    local n, joined = struct.unpack(WAIT, w)
    head, since = int(n), int(S[CLOCK] - joined)
  end
  return {'OK', 'stats', 0, S[WAITING], fields, call('HLEN', S.p .. 't') + S[CLAIMS], head, since}
end

-- owner. The bytes that it holds or waits for.
steps.owner = function(k, a)
  local S = load(k[1])
  if not S then return {'EMPTY', ''} end
  return {'OK', a[5], 0, S[WAITING], call('HGET', S.p .. 'o', a[5]) or '0'}
end
