-- Records how many output frames an attempt has made. Answers 0 where the claim is void.
-- KEYS events, job, task, active  ARGV job id, token, frames, waiting (1) or at work (0), prefix of the tasks' keys
if redis.call('HGET', job, 'state') ~= 'running' then return 0 end
local task = redis.call('HMGET', KEYS[3], 'token', 'frames')
if task[1] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[3], 'frames', ARGV[3], 'reported_at', clock(), 'waiting', ARGV[4])
if task[2] ~= ARGV[3] then emit_progress(KEYS[4], ARGV[5]) end
return 1
