-- Answers what is known of every job that is not over: its id and the fields that are asked for. The last item is the
-- owners in the line, in their order.
-- KEYS events, prefix of jobs' keys, queued jobs, running jobs  ARGV empty, fields
local found = {}
for index = 3, 4 do
  for _, id in ipairs(redis.call('ZRANGE', KEYS[index], 0, -1)) do
    local fields = redis.call('HMGET', KEYS[2] .. id, unpack(ARGV, 2))
    table.insert(fields, 1, id)
    table.insert(found, fields)
  end
end
table.insert(found, redis.call('ZRANGE', LINE, 0, -1))
return found
