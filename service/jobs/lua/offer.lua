-- Puts a task into the line that is queued and yet in no line. Answers 0 where it is not queued.
-- KEYS events, job, task  ARGV job id, task
local state = redis.call('HGET', job, 'state')
if state ~= 'queued' and state ~= 'running' then return 0 end
if redis.call('HGET', KEYS[3], 'state') ~= 'queued' then return 0 end
enter_line(ARGV[2])
return 1
