-- Queues finished segments again, because their files are damaged, and takes the task that found it back to before its
-- start. The attempt at that task counts, so that a store that damages every file does not keep a job for ever.
-- Answers 0 where the claim is void.
-- KEYS events, job, task, active  ARGV job id, token, task, prefix of the tasks' keys, segments
if redis.call('HGET', job, 'state') ~= 'running' then return 0 end
if redis.call('HGET', KEYS[3], 'token') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[3], 'state', 'waiting', 'token', '', 'frames', 0)
redis.call('SREM', KEYS[4], ARGV[3])
for _, name in ipairs(cjson.decode(ARGV[5])) do
  local segment = ARGV[4] .. name
  if redis.call('HGET', segment, 'state') == 'done' then
    local frames = tonumber(redis.call('HGET', segment, 'frames_delivered') or 0)
    redis.call('HINCRBYFLOAT', job, 'frames', -frames)
    redis.call('HINCRBY', job, 'segments_done', -1)
    redis.call('HDEL', segment, 'key', 'sha256', 'size_bytes', 'completed_by', 'ready', 'attempts', 'frames_delivered')
    redis.call('HSET', segment, 'state', 'queued', 'queued_at', clock())
    redis.call('SADD', KEYS[4], name)
    enter_line(name)
  end
end
return 1
