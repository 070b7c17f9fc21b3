// Goes on with what a broken connection, a restart of the service or a full queue has stopped.
import { Refused, Unreachable } from "./api"

const SHORTEST_PAUSE = 500
const LONGEST_PAUSE = 15_000
/** Refusals that pass by themselves. Others, such as a quota that is used up, are for people to act on. */
const PASSING = ["unauthorized", "upload-too-slow", "another-offset", "rate-limited", "too-many-uploads", "queue-full", "idempotency-key-in-use"]

export interface Persistence {
  signal: AbortSignal
  /** It goes on by itself; `error` says why it does not yet. */
  onBreak(error: unknown): void
}

/** Calls `step` until it succeeds; throws what no patience helps against. `again` is whether it has failed before. */
export async function persist<T>({ signal, onBreak }: Persistence, step: (again: boolean) => Promise<T>): Promise<T> {
  for (let failures = 0; ; failures++) {
    try {
      return await step(failures > 0)
    } catch (error) {
      signal.throwIfAborted()
      if (!doesPass(error)) throw error
      onBreak(error)
      const asked = error instanceof Refused ? (error.retryAfter ?? 0) * 1000 : 0
      await pause(Math.max(asked, Math.min(SHORTEST_PAUSE * 2 ** failures, LONGEST_PAUSE)), signal)
    }
  }
}

export function doesPass(error: unknown): boolean {
  return error instanceof Unreachable || (error instanceof Refused && (error.status === 503 || PASSING.includes(error.slug)))
}

/** Waits; less where the browser finds a network again. */
function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(end, milliseconds)
    addEventListener("online", end)
    signal.addEventListener("abort", end)
    function end(): void {
      clearTimeout(timer)
      removeEventListener("online", end)
      signal.removeEventListener("abort", end)
      if (signal.aborted) reject(signal.reason)
      else resolve()
    }
  })
}
