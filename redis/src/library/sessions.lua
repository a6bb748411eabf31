-- Sessions: which are alive, which are dead, and what happens to the entries and requests of a dead session.

-- Why a step must not run: GONE, the session was reaped; STALE, it came over an older connection.
local function fenced(S, sid, generation)
  local g = call('HGET', S.p .. 'f', sid)
  if not g then return 'GONE' end
  if g ~= generation then return 'STALE' end
end

-- Ends one dead session, as far as the step's budget goes. The fence falls first: nothing of a session is
-- given away while it could still act. The session's member in `s` is removed last, so that the next step continues.
local function reap(S)
  local dead = call('ZRANGE', S.p .. 's', '-inf', int(S[CLOCK]), 'BYSCORE', 'LIMIT', 0, 1)[1]
  if not dead then return false end
  if dead == S.me then
    -- It is late and it is here: what it is about to join or to be granted must not be without a session.
    call('ZADD', S.p .. 's', int(S[CLOCK] + S[LEASE]), dead)
    return true
  end
  call('HDEL', S.p .. 'f', dead)
  for _, kind in ipairs({'c:', 'g:', 'w:'}) do
    local key = S.p .. kind .. dead
    while S.left > 0 do
      local ids = call('HRANDFIELD', key, S.left)
      if #ids == 0 then break end
      for _, id in ipairs(ids) do
        if kind == 'c:' then
          local c = call('HGET', key, id)
          end_claim(S, dead, id, string.sub(c, 1, 1) == 'f')
        else
          leave(S, dead, id, nil)
        end
      end
      S.left = S.left - #ids
    end
  end
  if S.left <= 0 then return false end
  call('ZREM', S.p .. 's', dead)
  return true
end

-- Probes the sessions that have not beaten for longest: the lease of one without a listener ends early.
local function probe(S)
  local oldest = call('ZRANGE', S.p .. 's', 0, 15)
  if #oldest == 0 then return end
  local channels = {}
  for i, sid in ipairs(oldest) do channels[i] = S.p .. 'n:' .. sid end
  local listeners = call('PUBSUB', 'NUMSUB', unpack(channels))
  for i, sid in ipairs(oldest) do
    if tonumber(listeners[2 * i]) == 0 then suspect(S, sid) end
  end
end

-- Expires, reaps, frees what was cleared, then grants: in this order, so that no request waits for free bytes.
local function tidy(S)
  expire(S)
  while S.left > 0 and reap(S) do S.left = S.left - 1 end
  sweep(S)
  serve(S)
end

-- Microseconds until the next deadline or end of a lease; -1 if there is none.
local function next_in(S)
  local best = -1
  for _, key in ipairs({'d', 's'}) do
    local first = call('ZRANGE', S.p .. key, 0, 0, 'WITHSCORES')
    if first[2] then
      local left = math.max(tonumber(first[2]) - S[CLOCK], 0)
      if best < 0 or left < best then best = left end
    end
  end
  return best
end
