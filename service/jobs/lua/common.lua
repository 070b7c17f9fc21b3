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
-- Webhooks; see service.jobs.webhooks. A destination is an owner with a scheme, host and port, as in
-- 'ann https://example.com'. Destinations are scored by when the next delivery to them is due, the deliveries of a
-- destination by when they are.
local DESTINATIONS, QUEUE, DELIVERY = 'dain:webhooks', 'dain:webhooks:to:', 'dain:webhook:'
local PROGRESS_INTERVAL = 10  -- seconds between two deliveries of job.progressed
local MOST_WAITING = 10000  -- deliveries to one destination, some 2 KB each
local MOST_LOGGED = 50  -- attempts of one job

-- Seconds since the epoch by Redis's clock, as text: a Lua number would lose the last digits.
local function clock()
  local now = redis.call('TIME')
  return string.format('%d.%06d', now[1], now[2])
end

-- The next midnight, UTC, in seconds since the epoch.
local function midnight()
  return (math.floor(redis.call('TIME')[1] / 86400) + 1) * 86400
end

-- What of an owner's quota one more job would go beyond: its name, its limit, how much of it is used, and the seconds
-- until there may be some again. Nil where it goes beyond nothing; an empty limit is none.
local function beyond(most_jobs, most_bytes, most_work, size, work, queued, owned, running, bytes)
  local live = {}
  for _, state in ipairs(most_jobs .. most_work ~= '' and {queued, running} or {}) do
    for _, id in ipairs(redis.call('ZINTER', 2, owned, state)) do table.insert(live, id) end
  end
  if most_jobs ~= '' and #live >= tonumber(most_jobs) then return {'jobs', tonumber(most_jobs), #live, 10} end
  if most_bytes ~= '' then
    local used = tonumber(redis.call('GET', bytes) or 0)
    if used + tonumber(size) > tonumber(most_bytes) then
      return {'bytes', tonumber(most_bytes), used, midnight() - redis.call('TIME')[1]}
    end
  end
  if most_work ~= '' then
    local left, jobs_prefix = 0, string.sub(job, 1, #job - #job_id)
    for _, id in ipairs(live) do
      local known = redis.call('HMGET', jobs_prefix .. id, 'work', 'segments_done', 'segments_total')
      local done = tonumber(known[2] or 0) / math.max(tonumber(known[3] or 1), 1)
      left = left + tonumber(known[1] or 0) * (1 - done)
    end
    if left > 0 and left + tonumber(work) > tonumber(most_work) then
      return {'work', tonumber(most_work), tostring(left), 60}  -- Redis would cut a number's decimals off
    end
  end
end

-- Counts the bytes of an upload against what its owner may upload today.
local function charge(bytes, size)
  redis.call('INCRBY', bytes, size)
  redis.call('EXPIREAT', bytes, midnight())
end

local function set_fields(key, encoded)
  for name, value in pairs(cjson.decode(encoded)) do redis.call('HSET', key, name, value) end
end

-- What tells a note from another. Earlier releases wrote plain sentences.
local function note_key(note)
  if type(note) ~= 'table' then return tostring(note) end
  return table.concat({tostring(note.text), tostring(note.stream), tostring(note.time)}, '\n')
end

-- Adds the notes that the job does not have yet. Notes that cannot be read stay as they are.
local function add_notes(encoded)
  local added = cjson.decode(encoded)
  if #added == 0 then return end
  local readable, notes = pcall(cjson.decode, redis.call('HGET', job, 'notes') or '[]')
  if not readable or type(notes) ~= 'table' then return end
  local known = {}
  for _, note in ipairs(notes) do known[note_key(note)] = true end
  for _, note in ipairs(added) do
    if not known[note_key(note)] then
      known[note_key(note)] = true
      table.insert(notes, note)
    end
  end
  redis.call('HSET', job, 'notes', cjson.encode(notes))
end

-- Notes when the next delivery to a destination is due.
local function schedule(destination)
  local first = redis.call('ZRANGE', QUEUE .. destination, 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', DESTINATIONS, first[2], destination)
  else
    redis.call('ZREM', DESTINATIONS, destination)
  end
end

-- Appends what became of a delivery to the job's log.
local function log_attempt(entry)
  redis.call('LPUSH', job .. ':deliveries', cjson.encode(entry))
  redis.call('LTRIM', job .. ':deliveries', 0, MOST_LOGGED - 1)
end

-- Queues the delivery of an event to the job's webhook, with the job's record as the event left it.
local function queue_delivery(id, event)
  local asked = redis.call('HMGET', job, 'webhook_url', 'webhook_events', 'webhook_gone', 'webhook_progressed_at')
  if not asked[1] or asked[3] then return end
  if not string.find(asked[2] or '', '"' .. event.type .. '"', 1, true) then return end
  if event.type == 'job.progressed' then
    if event.time - tonumber(asked[4] or 0) < PROGRESS_INTERVAL then return end
    redis.call('HSET', job, 'webhook_progressed_at', event.time)
  end
  local destination = event.owner .. ' ' .. string.match(asked[1], '^%a+://[^/?#]+')
  if redis.call('ZCARD', QUEUE .. destination) >= MOST_WAITING then
    log_attempt({message = 'msg_' .. job_id .. '_' .. id, type = event.type, attempt = 0, time = event.time,
                 outcome = 'given_up', error = MOST_WAITING .. ' of your messages were waiting for this host already.'})
    return
  end
  local pairs_of_fields, record = redis.call('HGETALL', job), {}
  for index = 1, #pairs_of_fields, 2 do record[pairs_of_fields[index]] = pairs_of_fields[index + 1] end
  record.facts = nil  -- large, and shown to nobody
  redis.call('HSET', DELIVERY .. id, 'job', job_id, 'destination', destination, 'event', cjson.encode(event),
             'record', cjson.encode(record), 'attempts', 0)
  redis.call('ZADD', QUEUE .. destination, event.time, id)
  schedule(destination)
end

-- Appends an event of the job; `data` are further members of its document.
local function emit(kind, data)
  local event = data or {}
  event.version, event.type, event.job, event.time = EVENT_VERSION, kind, job_id, tonumber(clock())
  event.owner = redis.call('HGET', job, 'owner') or 'default'
  local id = redis.call('XADD', events, 'MAXLEN', '~', MOST_EVENTS, '*', 'event', cjson.encode(event))
  queue_delivery(id, event)
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

-- The line: every task that is ready, in the order in which workers are to take them. It is a hint. Whether a task may
-- be had, its record says.
--
--   dain:line              owners with ready tasks, by how much they have had: the least goes first
--   dain:line:jobs:OWNER   the owner's jobs with ready tasks, by size: the smallest goes first
--   dain:line:ages:OWNER   the same by age: the oldest goes first
--   JOB:ready              the job's ready tasks, by their place in it
--   dain:line:turns        how many turns each owner has had
--   dain:line:had          what owners had that have no ready task now
--   dain:line:clock        what the owner whose turn it was last had had until then
--
-- What an owner had is work, in megapixels of new frames, divided by the owner's weight. An owner that comes back after a
-- while has saved up nothing: it begins at the clock (start-time fair queueing).
local LINE = 'dain:line'
local TASK_WORK = 20  -- of the plan and of the assembly
local SIZES = {low = 10, normal = 1, high = 1 / 10}  -- what a job's size is multiplied by, for its priority

local function field(key, name) return tonumber(redis.call('HGET', key, name) or 0) or 0 end
local function owner_of_job() return redis.call('HGET', job, 'owner') or 'default' end

-- Puts a ready task of the job into the line; it may be there already.
local function enter_line(name)
  local owner = owner_of_job()
  local place = name == 'plan' and -1 or tonumber(string.match(name, '^segment%-(%d+)$')) or 1e9
  redis.call('ZADD', job .. ':ready', place, name)
  local size = field(job, 'work') * (SIZES[redis.call('HGET', job, 'priority')] or 1)
  redis.call('ZADD', LINE .. ':jobs:' .. owner, size, job_id)
  redis.call('ZADD', LINE .. ':ages:' .. owner, 0, job_id)
  local clock = tonumber(redis.call('GET', LINE .. ':clock') or 0)
  redis.call('ZADD', LINE, 'NX', math.max(field(LINE .. ':had', owner), clock), owner)
end

-- Takes a task of the job, or all of them, out of the line.
local function leave_line(owner, name)
  local ready, jobs = job .. ':ready', LINE .. ':jobs:' .. owner
  if name then redis.call('ZREM', ready, name) else redis.call('DEL', ready) end
  if redis.call('EXISTS', ready) == 1 then return end
  redis.call('ZREM', jobs, job_id)
  redis.call('ZREM', LINE .. ':ages:' .. owner, job_id)
  local had = redis.call('ZSCORE', LINE, owner)
  if had and redis.call('EXISTS', jobs) == 0 then
    redis.call('HSET', LINE .. ':had', owner, had)
    redis.call('ZREM', LINE, owner)
  end
end

-- Removes the records of all the job's tasks.
local function drop_tasks(task_prefix)
  redis.call('DEL', task_prefix .. 'plan', task_prefix .. 'assemble')
  local segments = tonumber(redis.call('HGET', job, 'segments_total')) or 0
  for index = 0, segments - 1 do redis.call('DEL', task_prefix .. 'segment-' .. index) end
end
