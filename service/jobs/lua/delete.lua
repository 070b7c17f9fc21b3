-- Forgets a job; the sweep removes its upload and segments. Answers 0 where there is no record of it.
-- KEYS events, job, active, unclean jobs, and every sorted set that may hold the job
-- ARGV job id, prefix of the tasks' keys
local known = redis.call('EXISTS', job)
leave_line(owner_of_job())
for index = 5, #KEYS do redis.call('ZREM', KEYS[index], job_id) end
redis.call('SADD', KEYS[4], job_id)
if known == 1 then emit('job.deleted') end
drop_tasks(ARGV[2])
redis.call('DEL', job, KEYS[3], job .. ':deliveries')
return known
