-- The wait queue: strictly first come, first served, over all sessions.
--
-- What a request waits for (w:) is `charge d | joined d | owner c16`, what it was granted (g:)
-- `charge d | tier I4 | owner c16`.

local WAIT = '>ddc16'
local GRANT = '>dI4c16'

local function forget_waiter(S, member, sid, rid, n)
  call('ZREM', S.p .. 'q', member)
  call('HDEL', S.p .. 'w:' .. sid, rid)
  S[WAITING] = S[WAITING] - 1
  S[WAITING_BYTES] = S[WAITING_BYTES] - n
end

-- Grants the head, only the head, only its whole request; and ends those that can never be granted.
local function serve(S)
  while S[WAITING] > 0 and S.left > 0 do
    local member = call('ZRANGE', S.p .. 'q', 0, 0)[1]
    local sid, rid = string.sub(member, 1, 16), string.sub(member, 17)
    local n, _, owner = struct.unpack(WAIT, call('HGET', S.p .. 'w:' .. sid, rid))
    local room = tier(S, n)
    if S[CLOSED] == 1 or n > S[MAX] + S[OVERFLOW] then
      forget_waiter(S, member, sid, rid, n)
      account(S, owner, -n)
      -- It asks, and is refused and counted then.
      tell(S, sid, 'e' .. rid)
    elseif room then
      forget_waiter(S, member, sid, rid, n)
      call('HSET', S.p .. 'g:' .. sid, rid, struct.pack(GRANT, n, room, owner))
      charge(S, n)
      S[WAITED] = S[WAITED] + 1
      tell(S, sid, 'g' .. rid)
    else
      return
    end
    S.left = S.left - 1
  end
end

local function chunks_of(S, n)
  local size = n - S[OVERHEAD]
  if size <= INLINE then return 0 end
  return math.ceil(size / CHUNK)
end

-- Leaves the queue, or gives back what was granted, or removes an entry whose ticket no caller received.
-- `counter`: the outcome to count, if the request was not successful until now.
local function leave(S, sid, rid, counter)
  local w = call('HGET', S.p .. 'w:' .. sid, rid)
  if w then
    local n, _, owner = struct.unpack(WAIT, w)
    forget_waiter(S, sid .. rid, sid, rid, n)
    account(S, owner, -n)
    if counter then S[counter] = S[counter] + 1 end
    return
  end
  local g = call('HGET', S.p .. 'g:' .. sid, rid)
  if g then
    local n, _, owner = struct.unpack(GRANT, g)
    call('HDEL', S.p .. 'g:' .. sid, rid)
    free_chunks(S, rid, chunks_of(S, n))
    refund(S, n, owner)
    return
  end
  local v = call('HGET', S.p .. 't', rid)
  if v then
    call('HDEL', S.p .. 't', rid)
    call('ZREM', S.p .. 'd', rid)
    free_entry(S, rid, v)
    S[STORED] = S[STORED] - 1
  end
end
