-- Records an accepted job with its plan task waiting.
-- KEYS events, job, plan task, active, all jobs, queued jobs, counters, owners, jobs of the
-- owner
-- ARGV job id, job fields, notes, owner
if redis.call('EXISTS', job) == 1 then return 0 end
local now = clock()
redis.call('HSET', job, 'state', 'queued', 'created_at', now)
set_fields(job, ARGV[2])
add_notes(ARGV[3])
redis.call('HSET', KEYS[3], 'state', 'queued', 'queued_at', now)
redis.call('SADD', KEYS[4], 'plan')
enter_line('plan')
redis.call('ZADD', KEYS[5], 0, job_id)
redis.call('ZADD', KEYS[6], 0, job_id)
redis.call('SADD', KEYS[8], ARGV[4])
redis.call('ZADD', KEYS[9], 0, job_id)
redis.call('HINCRBY', KEYS[7], 'jobs_accepted', 1)
emit('job.queued')
return 1
