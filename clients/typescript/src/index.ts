export { Client, type ClientOptions, type UploadStore, type Video } from "./client.js"
export * from "./types.js"
export {
  Busy, ClientError, Damaged, Forbidden, Gone, InvalidRequest, JobCancelled, JobFailed, JobNotFinished, NoSpace, NotFound,
  QueueFull, QuotaExceeded, RateLimited, Refused, ServiceError, TimedOut, Unauthorized, Unavailable, Unreachable,
  VideoRefused,
} from "./errors.js"
