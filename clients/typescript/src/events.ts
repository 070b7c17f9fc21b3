// Server-sent events as a client reads them.

import type { JobEvent } from "./types.js"

const LAST = new Set(["job.succeeded", "job.failed", "job.cancelled", "job.deleted"])

/** Whether a job has ended, well or not; nothing more is to be seen of one whose state is unknown. */
export function isOver(job: { finished_at?: unknown; status?: unknown }): boolean {
  return job.finished_at != null || job.status === "unknown"
}

/** Whether an event ends its job, or shows that it is over. */
export function isLast(event: JobEvent): boolean {
  return LAST.has(event.type) || (event.type === "job" && isOver(event.data))
}

/** Reads the events of a stream that comes in pieces. One without data has only an id, and no type. */
export class EventReader {
  #decoder = new TextDecoder()
  #rest = ""
  #fields: Record<string, string> = {};

  *feed(piece: Uint8Array): Generator<JobEvent> {
    const lines = (this.#rest + this.#decoder.decode(piece, { stream: true })).split("\n")
    this.#rest = lines.pop()!
    for (const line of lines.map((each) => each.replace(/\r$/, ""))) {
      const at = line.indexOf(": ")
      if (at > 0) this.#fields[line.slice(0, at)] = line.slice(at + 2)
      else if (line === "" && Object.keys(this.#fields).length) yield this.#event()
    }
  }

  #event(): JobEvent {
    const { id = "", event = "", data } = this.#fields
    this.#fields = {}
    return data === undefined ? { id, type: "", data: {} } : { id, type: event, data: JSON.parse(data) }
  }
}
