-- Takes the task out of the line whose turn it is. Answers its job and its name, or nil where none is ready.
-- Of an owner's turns, three of four are its smallest job's, and the fourth its oldest job's. So a clip passes a film,
-- and no number of clips keeps a film waiting for ever.
-- KEYS events, prefix of jobs' keys  ARGV empty
local jobs_prefix = KEYS[2]

local function charge(owner, name)
  local work = TASK_WORK
  if string.sub(name, 1, 8) == 'segment-' then
    work = math.max(field(job, 'work') / math.max(field(job, 'segments_total'), 1), 1)
  end
  local weight = field(job, 'weight')
  if not (weight > 0 and weight < math.huge) then weight = 1 end  -- 'nan' would end the script, at every turn
  redis.call('SET', LINE .. ':clock', redis.call('ZSCORE', LINE, owner))
  redis.call('ZINCRBY', LINE, work / weight, owner)
  redis.call('HINCRBY', LINE .. ':turns', owner, 1)
end

while true do
  local owner = redis.call('ZRANGE', LINE, 0, 0)[1]
  if not owner then return false end
  local order = field(LINE .. ':turns', owner) % 4 == 3 and ':ages:' or ':jobs:'
  job_id = redis.call('ZRANGE', LINE .. order .. owner, 0, 0)[1] or ''
  job = jobs_prefix .. job_id
  local name = redis.call('ZRANGE', job .. ':ready', 0, 0)[1]
  local state = redis.call('HGET', job, 'state')
  local is_live = state == 'queued' or state == 'running'
  local is_ready = name and is_live and redis.call('HGET', job .. ':task:' .. name, 'state') == 'queued'
  if is_ready then charge(owner, name) end
  leave_line(owner, name)
  if is_ready then return {job_id, name} end
end
