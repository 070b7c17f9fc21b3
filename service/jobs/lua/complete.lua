-- Records a task as done. Answers the tasks that may start now, or nil where the claim is void.
-- KEYS events, job, task, active, counters
-- ARGV job id, token, task, segments in flight, prefix of the tasks' keys, task fields, job fields, sums, notes
if redis.call('HGET', job, 'state') ~= 'running' then return false end
local task = redis.call('HMGET', KEYS[3], 'token', 'completed_by', 'ready')
if task[2] == ARGV[2] then return cjson.decode(task[3]) end
if task[1] ~= ARGV[2] then return false end
local now = clock()
redis.call('HSET', KEYS[3], 'state', 'done', 'token', '', 'finished_at', now)
redis.call('HDEL', KEYS[3], 'frames')
redis.call('SREM', KEYS[4], ARGV[3])
set_fields(KEYS[3], ARGV[6])
set_fields(job, ARGV[7])
add_notes(ARGV[9])
for name, value in pairs(cjson.decode(ARGV[8])) do
  if name == 'vram_peak_bytes' then
    value = math.max(value, tonumber(redis.call('HGET', job, name) or 0))
    redis.call('HSET', job, name, string.format('%.0f', value))
  else
    redis.call('HINCRBYFLOAT', job, name, value)
    redis.call('HINCRBYFLOAT', KEYS[5], name, value)
    if name == 'frames' then redis.call('HSET', KEYS[3], 'frames_delivered', value) end
  end
end
if string.sub(ARGV[3], 1, 8) == 'segment-' then redis.call('HINCRBY', job, 'segments_done', 1) end

local ready = {}
local function start(name)
  redis.call('HSET', ARGV[5] .. name, 'state', 'queued', 'queued_at', now)
  redis.call('SADD', KEYS[4], name)
  enter_line(name)
  table.insert(ready, name)
end
local total = tonumber(redis.call('HGET', job, 'segments_total'))
local done = tonumber(redis.call('HGET', job, 'segments_done') or 0)
local begun = tonumber(redis.call('HGET', job, 'segments_begun') or 0)
while begun < total and begun - done < tonumber(ARGV[4]) do
  start('segment-' .. begun)
  begun = begun + 1
end
redis.call('HSET', job, 'segments_begun', begun)
if done == total then start('assemble') end
redis.call('HSET', KEYS[3], 'completed_by', ARGV[2], 'ready', cjson.encode(ready))
emit_progress(KEYS[4], ARGV[5])
return ready
