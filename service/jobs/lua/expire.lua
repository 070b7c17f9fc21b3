-- Marks a job whose result is removed. A job that was deleted meanwhile stays deleted. Answers 1 where it was marked.
-- KEYS events, job, results  ARGV job id
redis.call('ZREM', KEYS[3], job_id)
if redis.call('EXISTS', job) == 0 or redis.call('HEXISTS', job, 'expired') == 1 then return 0 end
redis.call('HSET', job, 'expired', 1)
emit('job.expired')
return 1
