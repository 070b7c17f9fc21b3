-- Ends a job. Answers 0 where it is over already, or the claim is void; the first outcome stands.
-- KEYS events, job, active, queued jobs, running jobs, jobs of the outcome, finished jobs, unclean jobs, counters,
-- task, results
-- ARGV job id, outcome, job fields, token (empty: from outside any task), seconds that the result is kept (empty: no
-- result), notes, problem document (empty: none)
local before = redis.call('HMGET', job, 'state', 'finished_by')
if ARGV[4] ~= '' and before[2] == ARGV[4] then return 1 end
if before[1] ~= 'queued' and before[1] ~= 'running' then return 0 end
if ARGV[4] ~= '' and redis.call('HGET', KEYS[10], 'token') ~= ARGV[4] then return 0 end
local now = clock()
redis.call('HSET', job, 'state', ARGV[2], 'finished_by', ARGV[4], 'finished_at', now)
set_fields(job, ARGV[3])
add_notes(ARGV[6])
redis.call('DEL', KEYS[3], job .. ':picture', job .. ':watched')
leave_line(owner_of_job())
redis.call('ZREM', KEYS[4], job_id)
redis.call('ZREM', KEYS[5], job_id)
redis.call('ZADD', KEYS[6], 0, job_id)
redis.call('ZADD', KEYS[7], now, job_id)
redis.call('SADD', KEYS[8], job_id)
redis.call('HINCRBY', KEYS[9], 'jobs_' .. ARGV[2], 1)
if ARGV[5] ~= '' then
  local expires_at = string.format('%.6f', tonumber(now) + tonumber(ARGV[5]))
  redis.call('HSET', job, 'expires_at', expires_at)
  redis.call('ZADD', KEYS[11], expires_at, job_id)
end
if ARGV[7] ~= '' then
  redis.call('HSET', job, 'error', ARGV[7])
  emit('job.' .. ARGV[2], {error = cjson.decode(ARGV[7])})
else
  emit('job.' .. ARGV[2])
end
return 1
