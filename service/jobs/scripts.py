"""The compare-and-set scripts behind `service.jobs.machine`: each is atomic in Redis, and answers what happened.

A claim is void when its job is no longer running or its token is no longer the task's.

When a connection breaks, nobody knows whether Redis did what it was told, and the call is made again. So a token that
has claimed, completed or finished something gets the answer of the first time. (What is not released or requeued
because the first answer was lost, the janitor finds in no queue.)
"""

from __future__ import annotations

# KEYS job, task, active, jobs:queued, jobs:running  ARGV job id, task, worker, token, now, most attempts,
# worker key prefix
CLAIM = """
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'running' then return 'gone' end
local task = redis.call('HMGET', KEYS[2], 'state', 'worker', 'attempts', 'token')
if task[1] == false then return 'gone' end
if task[1] == 'running' and task[4] == ARGV[4] then return tonumber(task[3]) end
if task[1] == 'done' then return 'done' end
if task[1] == 'running' and redis.call('EXISTS', ARGV[7] .. task[2]) == 1 then return 'busy' end
if tonumber(task[3] or 0) >= tonumber(ARGV[6]) then return 'exhausted' end
redis.call('HSET', KEYS[2], 'state', 'running', 'worker', ARGV[3], 'token', ARGV[4], 'started_at', ARGV[5], 'frames', 0,
           'waiting', 0)
redis.call('SADD', KEYS[3], ARGV[2])
if state == 'queued' then
  redis.call('HSET', KEYS[1], 'state', 'running', 'started_at', ARGV[5])
  redis.call('ZREM', KEYS[4], ARGV[1])
  redis.call('ZADD', KEYS[5], 0, ARGV[1])
end
return redis.call('HINCRBY', KEYS[2], 'attempts', 1)
"""

# KEYS job, task  ARGV token, frames, now, waiting (1) or at work (0)
REPORT = """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 0 end
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 'frames', ARGV[2], 'reported_at', ARGV[3], 'waiting', ARGV[4])
return 1
"""

# KEYS job, task, active, counters  ARGV token, task, now, segments in flight, task key prefix, task fields,
# job fields, sums
COMPLETE = """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return false end
local task = redis.call('HMGET', KEYS[2], 'token', 'completed_by', 'ready')
if task[2] == ARGV[1] then return cjson.decode(task[3]) end
if task[1] ~= ARGV[1] then return false end
redis.call('HSET', KEYS[2], 'state', 'done', 'token', '', 'finished_at', ARGV[3])
redis.call('HDEL', KEYS[2], 'frames')
redis.call('SREM', KEYS[3], ARGV[2])
for name, value in pairs(cjson.decode(ARGV[6])) do redis.call('HSET', KEYS[2], name, value) end
for name, value in pairs(cjson.decode(ARGV[7])) do redis.call('HSET', KEYS[1], name, value) end
for name, value in pairs(cjson.decode(ARGV[8])) do
  if name == 'vram_peak_bytes' then
    value = math.max(value, tonumber(redis.call('HGET', KEYS[1], name) or 0))
    redis.call('HSET', KEYS[1], name, string.format('%.0f', value))
  else
    redis.call('HINCRBYFLOAT', KEYS[1], name, value)
    redis.call('HINCRBYFLOAT', KEYS[4], name, value)
  end
end
if string.sub(ARGV[2], 1, 8) == 'segment-' then redis.call('HINCRBY', KEYS[1], 'segments_done', 1) end

local ready = {}
local function start(name)
  redis.call('HSET', ARGV[5] .. name, 'state', 'queued', 'queued_at', ARGV[3])
  redis.call('SADD', KEYS[3], name)
  table.insert(ready, name)
end
local total = tonumber(redis.call('HGET', KEYS[1], 'segments_total'))
local done = tonumber(redis.call('HGET', KEYS[1], 'segments_done') or 0)
local begun = tonumber(redis.call('HGET', KEYS[1], 'segments_begun') or 0)
while begun < total and begun - done < tonumber(ARGV[4]) do
  start('segment-' .. begun)
  begun = begun + 1
end
redis.call('HSET', KEYS[1], 'segments_begun', begun)
if done == total then start('assemble') end
redis.call('HSET', KEYS[2], 'completed_by', ARGV[1], 'ready', cjson.encode(ready))
return ready
"""

# KEYS job, task, counters  ARGV token, now, failed (1) or drained (0)
RELEASE = """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 0 end
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 'state', 'queued', 'queued_at', ARGV[2], 'token', '', 'frames', 0)
if ARGV[3] == '1' then
  redis.call('HINCRBY', KEYS[1], 'attempts_failed', 1)
  redis.call('HINCRBY', KEYS[3], 'attempts_failed', 1)
else
  redis.call('HINCRBY', KEYS[2], 'attempts', -1)
end
return 1
"""

# KEYS job, task, counters  ARGV token, now, most attempts
# A task that waited for the one before it is not to blame for their worker's end; but it is not believed for ever.
REQUEUE_LOST = """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 'void' end
local task = redis.call('HMGET', KEYS[2], 'state', 'token', 'attempts', 'waiting', 'spared')
if task[1] ~= 'running' or task[2] ~= ARGV[1] then return 'void' end
if task[4] == '1' and tonumber(task[5] or 0) < tonumber(ARGV[3]) then
  redis.call('HINCRBY', KEYS[2], 'attempts', -1)
  redis.call('HINCRBY', KEYS[2], 'spared', 1)
else
  redis.call('HINCRBY', KEYS[1], 'attempts_failed', 1)
  redis.call('HINCRBY', KEYS[3], 'attempts_failed', 1)
  if tonumber(task[3]) >= tonumber(ARGV[3]) then return 'exhausted' end
end
redis.call('HSET', KEYS[2], 'state', 'queued', 'queued_at', ARGV[2], 'token', '', 'frames', 0)
return 'requeued'
"""

# KEYS job, active, jobs:queued, jobs:running, jobs:<outcome>, finished, unclean, counters, task, results
# ARGV job id, outcome, now, job fields, token (empty: from outside any task), when the result expires (empty:
# no result)
FINISH = """
local job = redis.call('HMGET', KEYS[1], 'state', 'finished_by')
if ARGV[5] ~= '' and job[2] == ARGV[5] then return 1 end
if job[1] ~= 'queued' and job[1] ~= 'running' then return 0 end
if ARGV[5] ~= '' and redis.call('HGET', KEYS[9], 'token') ~= ARGV[5] then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'finished_by', ARGV[5])
for name, value in pairs(cjson.decode(ARGV[4])) do redis.call('HSET', KEYS[1], name, value) end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZADD', KEYS[5], 0, ARGV[1])
redis.call('ZADD', KEYS[6], ARGV[3], ARGV[1])
redis.call('SADD', KEYS[7], ARGV[1])
redis.call('HINCRBY', KEYS[8], 'jobs_' .. ARGV[2], 1)
if ARGV[6] ~= '' then redis.call('ZADD', KEYS[10], ARGV[6], ARGV[1]) end
return 1
"""

ALL = {
    "claim": CLAIM,
    "report": REPORT,
    "complete": COMPLETE,
    "release": RELEASE,
    "requeue_lost": REQUEUE_LOST,
    "finish": FINISH,
}
