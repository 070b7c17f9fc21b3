// What a call to the service can end in. Every error is a ClientError; their names are those of the Python client.

import type { Job, ProblemDocument } from "./types.js"

const URN = "urn:dain:problem:"

/** A call came to nothing. The message says what to do, and holds no secret. */
export class ClientError extends Error {
  /** The problem document that the service sent, where it sent one. */
  readonly problem: Partial<ProblemDocument>

  constructor(message: string, problem: Partial<ProblemDocument> = {}, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.problem = problem
  }

  /** The HTTP status of the response, where there was one. */
  get status(): number | undefined {
    return this.problem.status
  }

  /** The kind of problem, e.g. "job-not-found", which never changes its meaning; "" where there is none. */
  get slug(): string {
    return slugOf(this.problem)
  }
}

/** The service gave no answer. */
export class Unreachable extends ClientError {}
/** The result that arrived has another SHA-256 than the one at the service. */
export class Damaged extends ClientError {}

/** The time that `wait` was given is over. The job goes on. */
export class TimedOut extends ClientError {
  constructor(message: string, readonly job: Job) {
    super(message)
  }
}

/** The service refused the request, and would refuse it again. */
export class Refused extends ClientError {}
export class Unauthorized extends Refused {}
export class Forbidden extends Refused {}
export class NotFound extends Refused {}
/** The job was removed, or its result has expired or is damaged. */
export class Gone extends Refused {}
export class InvalidRequest extends Refused {}
/** The video is no video, is damaged, or is more than the service takes. */
export class VideoRefused extends Refused {}
export class JobNotFinished extends Refused {}

/** The request may succeed later: after `retryAfter` seconds, where the service says so. */
export class Busy extends ClientError {
  constructor(message: string, problem: Partial<ProblemDocument> = {}, readonly retryAfter?: number) {
    super(message, problem)
  }
}
export class QueueFull extends Busy {}
export class RateLimited extends Busy {}
export class QuotaExceeded extends Busy {}
export class Unavailable extends Busy {}

/** Something went wrong at the service, or what answered is no such service. */
export class ServiceError extends ClientError {}
export class NoSpace extends ServiceError {}

class Ended extends ClientError {
  constructor(message: string, problem: Partial<ProblemDocument> = {}, readonly job?: Job) {
    super(message, problem)
  }
}
/** The job failed; `problem` is the job's `error`. */
export class JobFailed extends Ended {}
export class JobCancelled extends Ended {}

export const IN_USE = "idempotency-key-in-use"

type Kind = new (message: string, problem: Partial<ProblemDocument>) => ClientError

const BY_SLUG: Record<string, Kind> = {
  [IN_USE]: Busy,
  "queue-full": QueueFull,
  "too-many-uploads": QueueFull,
  "quota-exceeded": QuotaExceeded,
  "too-much-work": QuotaExceeded,
  "job-not-finished": JobNotFinished,
  "job-failed": JobFailed,
  "job-cancelled": JobCancelled,
  "damaged-video": VideoRefused,
  "limit-exceeded": VideoRefused,
  "loss-refused": VideoRefused,
  "no-video-stream": VideoRefused,
  "source-refused": VideoRefused,
  "source-too-large": VideoRefused,
  "source-unreachable": VideoRefused,
  "unreadable-video": VideoRefused,
  "unsupported-format": VideoRefused,
  "upload-too-large": VideoRefused,
}
const BY_STATUS: Record<number, Kind> = {
  401: Unauthorized,
  403: Forbidden,
  404: NotFound,
  408: Unavailable, // too little came for a while
  410: Gone,
  429: RateLimited,
  502: Unavailable, // so does a proxy answer while the service is started again
  503: Unavailable,
  504: Unavailable,
  507: NoSpace,
}

function slugOf(problem: Partial<ProblemDocument>): string {
  return (problem.type ?? "").replace(URN, "")
}

/** The error that a response stands for which is no success. It reads the body. */
export async function refusal(response: Response): Promise<ClientError> {
  let problem: Partial<ProblemDocument> = { status: response.status }
  let message = `${response.url.split("?")[0]} answered ${response.status} ${response.statusText}.`
  try {
    const document = (await response.json()) as ProblemDocument
    if (typeof document.detail === "string") [problem, message] = [document, document.detail]
  } catch {
    // a proxy's page, say
  }
  const usual = response.status >= 400 && response.status < 500 ? InvalidRequest : ServiceError
  const kind = BY_SLUG[slugOf(problem)] ?? BY_STATUS[response.status] ?? usual
  const seconds = response.headers.get("Retry-After") ?? ""
  const busy = kind === Busy || kind.prototype instanceof Busy
  if (!busy) return new kind(message, problem)
  return new (kind as typeof Busy)(message, problem, /^\d+$/.test(seconds) ? Number(seconds) : undefined)
}
