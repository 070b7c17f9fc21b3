-- Records that the upload, plan and segments of a job that is over are gone. The records of its tasks go with them.
-- KEYS events, job, unclean jobs  ARGV job id, prefix of the tasks' keys
drop_tasks(ARGV[2])
redis.call('SREM', KEYS[3], job_id)
return 1
