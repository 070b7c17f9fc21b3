-- Records how many output frames an attempt has made, and a picture of the newest. Answers 0 where the claim is void, 2
-- where somebody looks at such pictures, else 1.
-- KEYS events, job, task, active
-- ARGV job id, token, frames, waiting (1) or at work (0), prefix of the tasks' keys, picture (empty: none)
if redis.call('HGET', job, 'state') ~= 'running' then return 0 end
local task = redis.call('HMGET', KEYS[3], 'token', 'frames')
if task[1] ~= ARGV[2] then return 0 end
local now, last = clock(), redis.call('HGET', job, 'reported_at')
if last and tonumber(now) < tonumber(last) then
  -- The clock was set back: the time since the job started goes on from where it was, and rates stay what they are.
  redis.call('HINCRBYFLOAT', job, 'started_at', tonumber(now) - tonumber(last))
end
redis.call('HSET', job, 'reported_at', now)
redis.call('HSET', KEYS[3], 'frames', ARGV[3], 'reported_at', now, 'waiting', ARGV[4])
if task[2] ~= ARGV[3] then emit_progress(KEYS[4], ARGV[5]) end
if ARGV[6] ~= '' then redis.call('SET', job .. ':picture', ARGV[6], 'EX', 600) end
return redis.call('EXISTS', job .. ':watched') + 1
