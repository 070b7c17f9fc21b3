-- Records an accepted job with its plan task waiting. Answers as `beyond` does where the quota does not allow it.
-- KEYS events, job, plan task, active, all jobs, queued jobs, counters, owners, jobs of the owner, running jobs, bytes
-- of the owner, entry
-- ARGV job id, job fields, notes, owner, most jobs, most bytes, most work, size of the upload, work, value and seconds of
-- the entry (left out: none)
if redis.call('EXISTS', job) == 1 then return 0 end
local refusal = beyond(ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], KEYS[6], KEYS[9], KEYS[10], KEYS[11])
if refusal then return refusal end
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
charge(KEYS[11], ARGV[8])
if ARGV[10] then redis.call('SET', KEYS[12], ARGV[10], 'EX', ARGV[11]) end
redis.call('HINCRBY', KEYS[7], 'jobs_accepted', 1)
emit('job.queued')
return 1
