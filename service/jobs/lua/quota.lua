-- Answers as `beyond` does for one more job of an owner.
-- KEYS events, none, queued jobs, jobs of the owner, running jobs, bytes of the owner
-- ARGV none, most jobs, most bytes, size of the upload
return beyond(ARGV[2], ARGV[3], ARGV[4], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
