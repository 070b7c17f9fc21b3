-- Queues a task again that its worker lost. Answers requeued, exhausted (no attempts are left) or void.
-- A task that waited for the one before it is not to blame for their worker's end. It is spared as often as a task may
-- be attempted.
-- KEYS events, job, task, counters  ARGV job id, token, task, most attempts
if redis.call('HGET', job, 'state') ~= 'running' then return 'void' end
local task = redis.call('HMGET', KEYS[3], 'state', 'token', 'attempts', 'waiting', 'spared')
if task[1] ~= 'running' or task[2] ~= ARGV[2] then return 'void' end
if task[4] == '1' and tonumber(task[5] or 0) < tonumber(ARGV[4]) then
  redis.call('HINCRBY', KEYS[3], 'attempts', -1)
  redis.call('HINCRBY', KEYS[3], 'spared', 1)
else
  redis.call('HINCRBY', job, 'attempts_failed', 1)
  redis.call('HINCRBY', KEYS[4], 'attempts_failed', 1)
  if tonumber(task[3]) >= tonumber(ARGV[4]) then return 'exhausted' end
end
redis.call('HSET', KEYS[3], 'state', 'queued', 'queued_at', clock(), 'token', '', 'frames', 0)
enter_line(ARGV[3])
return 'requeued'
