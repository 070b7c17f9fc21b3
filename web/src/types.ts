// What the service answers with. The types come from its own description; those of the facts of a video, which it leaves
// open, stand here.
import type { Estimate as AnyEstimate, Job as AnyJob, ProblemDocument as Problem } from "../../clients/typescript/src/types"

export type { Problem }
export type { Note } from "../../clients/typescript/src/types"

export interface Facts {
  width?: number
  height?: number
  average_rate?: string
  duration?: string
  rotation?: number
  codec?: string
  [name: string]: unknown
}

export type Job = Omit<AnyJob, "input" | "error"> & { input: Facts; error: Problem | null }
export type Status = Job["status"]
export type Estimate = Omit<AnyEstimate, "input"> & { input: Facts }

export function isOver(job: Job): boolean {
  return job.status !== "queued" && job.status !== "running"
}
