// How long a call is worth repeating. Times are milliseconds.

import { Busy, IN_USE, type Unreachable } from "./errors.js"

export const CONNECTION_MS = 30_000 // of pauses; a service that is started again is back by then
const BUSY_MS = 150_000 // of pauses; a full queue asks for 30 s each time
const FIRST_PAUSE_MS = 500
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
  pause(failure: Busy | Unreachable, connectionMs: number): number {
    const busy = failure instanceof Busy
    const kind = !busy ? "unreachable" : failure.slug === IN_USE ? "inUse" : "busy"
    const most = { unreachable: connectionMs, busy: BUSY_MS, inUse: this.inUseMs }[kind]
    const wanted = busy && failure.retryAfter !== undefined ? failure.retryAfter * 1000 : this.#usual
    if (wanted > most) throw failure // as for a quota that comes back tomorrow
    const pause = Math.min(Math.max(wanted, FIRST_PAUSE_MS), LONGEST_PAUSE_MS)
    this.#paused[kind] += pause
    if (this.#paused[kind] > most) throw failure
    this.#usual *= 2
    return pause
  }
}

/** Resolves after `ms`; rejects with the signal's reason as soon as it is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted()
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop)
      resolve()
    }, ms)
    const stop = () => {
      clearTimeout(timer)
      reject(signal!.reason)
    }
    signal?.addEventListener("abort", stop, { once: true })
  })
}
