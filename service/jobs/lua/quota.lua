-- Answers as `beyond` does for one more job of an owner.
-- KEYS events, prefix of jobs' keys, queued jobs, jobs of the owner, running jobs, bytes of the owner
-- ARGV empty, most jobs, most bytes, most work, size of the upload, work
return beyond(ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
