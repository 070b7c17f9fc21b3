// Goes on with what a broken connection, a restart of the service, a full queue or the end of a session has stopped.
import { Client } from "../../clients/typescript/src/index"
import { isSignedOut, signedIn } from "./session"

/** The service, for calls that are repeated until they succeed or are refused. `onBreak` is told why they do not yet. */
export function persistent(onBreak: (error: unknown) => void): Client {
  return new Client({
    patienceMs: Infinity,
    onRetry: onBreak,
    onSignedOut: (failure, signal) => {
      isSignedOut(failure)
      return signedIn(signal)
    },
  })
}
