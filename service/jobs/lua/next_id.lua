-- Answers the candidate, or an id just above the last one where the candidate is not above it: ids keep their order
-- when a clock is set back.
-- KEYS events, job (neither used), last id  ARGV candidate
local candidate, last = ARGV[1], redis.call('GET', KEYS[3])
if last and candidate <= last then
  local milliseconds, rest = tonumber(string.sub(last, 1, 12), 16), tonumber(string.sub(last, 13, 16), 16) + 1
  if rest > 65535 then milliseconds, rest = milliseconds + 1, 0 end
  candidate = string.format('%012x%04x', milliseconds, rest) .. string.sub(candidate, 17)
end
redis.call('SET', KEYS[3], candidate)
return candidate
