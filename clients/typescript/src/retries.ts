// How long a call is worth repeating. Times are milliseconds.

import { Busy, IN_USE, type Unreachable } from "./errors.js"

export const CONNECTION_MS = 30_000 // of pauses; a service that is started again is back by then
export const BUSY_MS = 150_000 // of pauses; a full queue asks for 30 s each time
const FIRST_PAUSE_MS = 500
const LONGEST_USUAL_MS = 8000 // where the service does not say how long
const LONGEST_PAUSE_MS = 30_000

/**
 * The pauses between the attempts of one call. Patience is their sum, counted for each of three kinds of failure: a
 * connection that fails, a busy service, and an earlier attempt that the service is still working on.
 */
export class Patience {
  #paused = { unreachable: 0, busy: 0, inUse: 0 }
  #usual = FIRST_PAUSE_MS

  constructor(readonly inUseMs = BUSY_MS) {}

  /** Milliseconds until the next attempt; throws `failure` where patience is at its end. */
  pause(failure: Busy | Unreachable, connectionMs: number, busyMs = BUSY_MS): number {
    const busy = failure instanceof Busy
    const kind = !busy ? "unreachable" : failure.slug === IN_USE ? "inUse" : "busy"
    const most = { unreachable: connectionMs, busy: busyMs, inUse: Math.max(this.inUseMs, busyMs) }[kind]
    const wanted = busy && failure.retryAfter !== undefined ? failure.retryAfter * 1000 : this.#usual
    if (wanted > Math.max(BUSY_MS, this.inUseMs)) throw failure // as for a quota that comes back tomorrow
    const pause = Math.min(Math.max(wanted, FIRST_PAUSE_MS), LONGEST_PAUSE_MS)
    this.#paused[kind] += pause
    if (this.#paused[kind] > most) throw failure
    this.#usual = Math.min(2 * this.#usual, LONGEST_USUAL_MS)
    return pause
  }
}

/** Resolves after `ms`, or as soon as a browser finds a network again; rejects with the signal's reason once aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted()
    const timer = setTimeout(end, ms)
    globalThis.addEventListener?.("online", end) // Node has none
    signal?.addEventListener("abort", end)
    function end(): void {
      clearTimeout(timer)
      globalThis.removeEventListener?.("online", end)
      signal?.removeEventListener("abort", end)
      if (signal?.aborted) reject(signal.reason)
      else resolve()
    }
  })
}
