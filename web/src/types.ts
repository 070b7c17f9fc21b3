// What the service answers with, as far as this page reads it.

export type Status = "queued" | "running" | "succeeded" | "failed" | "cancelled" | "unknown"

export interface Facts {
  width?: number
  height?: number
  frames?: number
  average_rate?: string
  duration?: string
  rotation?: number
  codec?: string
  [name: string]: unknown
}

export interface Note {
  code: string
  text: string
  time?: string | null
}

export interface Job {
  id: string
  status: Status
  created_at: number
  started_at: number | null
  finished_at: number | null
  expires_at: number | null
  expired: boolean
  filename: string
  options: { speed?: string | null; codec?: string; [name: string]: string | number | boolean | null | undefined }
  reference: string | null
  priority: string
  input: Facts
  notes: Note[]
  progress: {
    frames_done: number
    frames_total: number | null
    fraction: number
    fps: number | null
    eta_seconds: number | null
    queue_position: number | null
  }
  output: {
    filename: string
    media_type: string
    size_bytes: number
    frames: number
    frame_rate: string
    duration_seconds: number
  } | null
  metrics: { new_frames: number; scene_cuts: number; [name: string]: unknown }
  error: Problem | null
  links: Record<string, string>
}

export interface Estimate {
  input: Facts
  frames: number
  new_frames: number
  seconds: number | null
  eta_seconds: number | null
  queue_position: number | null
  notes: Note[]
  picture: string | null
}

/** A problem document, RFC 9457. */
export interface Problem {
  type: string
  title: string
  status: number
  detail: string
}

export function isOver(job: Job): boolean {
  return job.status !== "queued" && job.status !== "running"
}
