-- Records what came of an attempt at a delivery, in the job's log too. Answers 0 where the attempt is another sender's
-- by now; a delivery that arrived is done whoever brought it.
-- KEYS events, job, counters
-- ARGV job id, delivery id, attempt, seconds to the next attempt (empty: there is none), whether the webhook is gone for
-- the job (1 or 0), whether it arrived (1 or 0), entry of the log
local delivery = redis.call('HMGET', DELIVERY .. ARGV[2], 'destination', 'attempts')
if not delivery[1] or (ARGV[6] == '0' and delivery[2] ~= ARGV[3]) then return 0 end
local now, entry = tonumber(clock()), cjson.decode(ARGV[7])
entry.time = now
if ARGV[4] == '' then
  redis.call('ZREM', QUEUE .. delivery[1], ARGV[2])
  redis.call('DEL', DELIVERY .. ARGV[2])
else
  entry.next_attempt_at = now + tonumber(ARGV[4])
  redis.call('ZADD', QUEUE .. delivery[1], entry.next_attempt_at, ARGV[2])
end
schedule(delivery[1])
redis.call('HINCRBY', KEYS[3], 'webhooks_' .. entry.outcome, 1)
if redis.call('EXISTS', job) == 1 then
  if ARGV[5] == '1' then redis.call('HSET', job, 'webhook_gone', now) end
  log_attempt(entry)
end
return 1
