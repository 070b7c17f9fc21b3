// What the service takes and answers. `api.ts` is generated from its OpenAPI description.

import type { components } from "./api.js"

type Schemas = components["schemas"]

/** A job as it stood when the service answered. Times are seconds since the epoch. */
export type Job = Omit<Required<Schemas["JobView"]>, "progress" | "output" | "metrics"> & {
  progress: Required<Schemas["Progress"]>
  output: Required<Schemas["ResultView"]> | null
  metrics: Required<Schemas["Metrics"]>
}

/** What a job would take. */
export type Estimate = Required<Schemas["Estimate"]>

/** A worker as it last reported. */
export type Worker = Required<Schemas["WorkerRecord"]>

/** What of a video did not come through as it was: a sentence with a code. */
export type Note = Schemas["Note"]

/** An error as RFC 9457 describes it; `type` is stable. */
export type ProblemDocument = Schemas["ProblemDocument"] & { [member: string]: unknown }

/** The options of a job; one that is null or undefined counts as not given. */
export type Options = {
  [Name in keyof Omit<Schemas["SubmissionByURL"], "source_url">]?: Schemas["SubmissionByURL"][Name] | null
}

/** One event: `type` is `job`, `job.started`, `job.progressed`, `job.succeeded` …, and `data` its document. */
export interface JobEvent {
  id: string
  type: string
  data: Record<string, unknown>
}

/** Some jobs, newest first; `next_cursor` is the `cursor` of the next page, null on the last. */
export interface Page {
  jobs: Job[]
  next_cursor: string | null
}
