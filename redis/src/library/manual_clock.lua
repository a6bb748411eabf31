-- For tests: a clock that stands still until the test moves it.
local function clock(p)
  return tonumber(redis.call('GET', p .. 'clock') or 1000000)
end
