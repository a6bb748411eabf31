-- The engine's own clock, in microseconds. Read once per step.
local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
