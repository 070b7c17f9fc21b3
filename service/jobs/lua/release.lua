-- Gives a task back to be queued again. Answers 0 where the claim is void.
-- KEYS events, job, task, counters
-- ARGV job id, token, task, failed (1) or not (0), model that its worker lacks (empty: none)
if redis.call('HGET', job, 'state') ~= 'running' then return 0 end
if redis.call('HGET', KEYS[3], 'token') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[3], 'state', 'queued', 'queued_at', clock(), 'token', '', 'frames', 0)
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[3], 'needs_model', ARGV[5])
else
  enter_line(ARGV[3])
end
if ARGV[4] == '1' then
  redis.call('HINCRBY', job, 'attempts_failed', 1)
  redis.call('HINCRBY', KEYS[4], 'attempts_failed', 1)
else
  redis.call('HINCRBY', KEYS[3], 'attempts', -1)
end
return 1
