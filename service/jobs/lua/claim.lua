-- Hands a task to a worker. Answers the number of the attempt and whether the job begins with it (1 or 0), or the
-- reason of a refusal.
-- KEYS events, job, task, active, queued jobs, running jobs
-- ARGV job id, task, worker, token, most attempts, prefix of workers' keys
local state = redis.call('HGET', job, 'state')
if state ~= 'queued' and state ~= 'running' then return 'gone' end
local task = redis.call('HMGET', KEYS[3], 'state', 'worker', 'attempts', 'token')
if not task[1] or task[1] == 'waiting' then return 'gone' end
if task[1] == 'running' and task[4] == ARGV[4] then return {tonumber(task[3]), 0} end
if task[1] == 'done' then return 'done' end
if task[1] == 'running' and redis.call('EXISTS', ARGV[6] .. task[2]) == 1 then return 'busy' end
if tonumber(task[3] or 0) >= tonumber(ARGV[5]) then return 'exhausted' end
local now = clock()
redis.call('HSET', KEYS[3], 'state', 'running', 'worker', ARGV[3], 'token', ARGV[4], 'started_at', now, 'frames', 0,
           'waiting', 0)
redis.call('SADD', KEYS[4], ARGV[2])
leave_line(owner_of_job(), ARGV[2])
if state == 'queued' then
  redis.call('HSET', job, 'state', 'running', 'started_at', now)
  redis.call('ZREM', KEYS[5], job_id)
  redis.call('ZADD', KEYS[6], 0, job_id)
  emit('job.started')
end
return {redis.call('HINCRBY', KEYS[3], 'attempts', 1), state == 'queued' and 1 or 0}
