-- Counts the bytes of an upload that is to come. Answers as `beyond` does where the quota does not allow it.
-- KEYS events, prefix of jobs' keys, queued jobs, jobs of the owner, running jobs, bytes of the owner
-- ARGV empty, most bytes, size of the upload
local refusal = beyond('', ARGV[2], '', ARGV[3], 0, KEYS[3], KEYS[4], KEYS[5], KEYS[6])
if refusal then return refusal end
charge(KEYS[6], ARGV[3])
return 1
