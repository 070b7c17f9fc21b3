-- Goes before every other script of this folder: what they share.
--
-- Each script is atomic in Redis and answers what happened. KEYS[1] is the stream of events, KEYS[2] the job's hash,
-- ARGV[1] the job's id.
--
-- A claim is void when its job is no longer running, or its token is no longer the task's.
--
-- When a connection breaks, the caller cannot know whether Redis ran the script, and calls again. So a token that has
-- claimed, completed or finished something gets the answer of the first call again. The janitor finds in no queue what
-- was released or requeued while the first answer got lost.

local events, job, job_id = KEYS[1], KEYS[2], ARGV[1]
local EVENT_VERSION = 1
local MOST_EVENTS = 50000  -- about ten megabytes

-- Seconds since the epoch by Redis's clock, as text: a Lua number would lose the last digits.
local function clock()
  local now = redis.call('TIME')
  return string.format('%d.%06d', now[1], now[2])
end

local function set_fields(key, encoded)
  for name, value in pairs(cjson.decode(encoded)) do redis.call('HSET', key, name, value) end
end

-- Adds the sentences that the job does not have yet. Notes that cannot be read stay as they are.
local function add_notes(encoded)
  local added = cjson.decode(encoded)
  if #added == 0 then return end
  local readable, notes = pcall(cjson.decode, redis.call('HGET', job, 'notes') or '[]')
  if not readable or type(notes) ~= 'table' then return end
  local known = {}
  for _, note in ipairs(notes) do known[note] = true end
  for _, note in ipairs(added) do
    if not known[note] then
      known[note] = true
      table.insert(notes, note)
    end
  end
  redis.call('HSET', job, 'notes', cjson.encode(notes))
end

-- Appends an event of the job; `data` are further members of its document.
local function emit(kind, data)
  local event = data or {}
  event.version, event.type, event.job, event.time = EVENT_VERSION, kind, job_id, tonumber(clock())
  event.owner = redis.call('HGET', job, 'owner') or 'default'
  redis.call('XADD', events, 'MAXLEN', '~', MOST_EVENTS, '*', 'event', cjson.encode(event))
end

-- Appends job.progressed for each whole percent that is reached for the first time: at most 101 events a job.
local function emit_progress(active, task_prefix)
  local total = tonumber(redis.call('HGET', job, 'frames_total'))
  if not total or total <= 0 then return end
  local done = tonumber(redis.call('HGET', job, 'frames') or 0)
  for _, task in ipairs(redis.call('SMEMBERS', active)) do
    done = done + tonumber(redis.call('HGET', task_prefix .. task, 'frames') or 0)
  end
  local percent = math.min(math.floor(100 * done / total), 100)
  if percent <= tonumber(redis.call('HGET', job, 'percent') or -1) then return end
  redis.call('HSET', job, 'percent', percent)
  emit('job.progressed', {frames_done = done, frames_total = total})
end

-- Removes the records of all the job's tasks.
local function drop_tasks(task_prefix)
  redis.call('DEL', task_prefix .. 'plan', task_prefix .. 'assemble')
  local segments = tonumber(redis.call('HGET', job, 'segments_total')) or 0
  for index = 0, segments - 1 do redis.call('DEL', task_prefix .. 'segment-' .. index) end
end
