-- Lends out deliveries that are due, one for each destination, those that wait longest first. Answers for each its id,
-- the time, and its fields. Whoever does not settle one in the time of the loan lets it become due again.
-- KEYS events, job (neither used)
-- ARGV job id (not used), most deliveries, seconds of the loan, destinations to pass over
local now, most, passed_over = tonumber(clock()), tonumber(ARGV[2]), {}
local busy = cjson.decode(ARGV[4])
for _, destination in ipairs(busy) do passed_over[destination] = true end

-- A clock that was set back would keep everybody waiting for the time that was. So all is due now, what is lent as well:
-- a message may arrive twice, under one id.
local CLOCK, NOTED_EVERY = 'dain:clock', 10
local noted = tonumber(redis.call('GET', CLOCK) or 0)
if now < noted then
  for _, destination in ipairs(redis.call('ZRANGE', DESTINATIONS, 0, -1)) do
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', QUEUE .. destination, now, '+inf')) do
      redis.call('ZADD', QUEUE .. destination, now, id)
    end
    schedule(destination)
  end
end
if now < noted or now > noted + NOTED_EVERY then redis.call('SET', CLOCK, now) end

local lent = {}
local due = redis.call('ZRANGEBYSCORE', DESTINATIONS, '-inf', now, 'LIMIT', 0, most + #busy)
for _, destination in ipairs(due) do
  if #lent == most then break end
  if not passed_over[destination] then
    local id = redis.call('ZRANGE', QUEUE .. destination, 0, 0)[1]
    redis.call('ZADD', QUEUE .. destination, now + tonumber(ARGV[3]), id)
    redis.call('HINCRBY', DELIVERY .. id, 'attempts', 1)
    table.insert(lent, {id, clock(), redis.call('HGETALL', DELIVERY .. id)})
    schedule(destination)
  end
end
return lent
