// Who is signed in. The key itself is in a cookie that no script can read; see service/api/routes/session.py.
import { signal } from "@preact/signals"
import { Unauthorized } from "../../clients/typescript/src/index"
import { dropAll } from "./kept"
import { service } from "./service"

export interface Session {
  owner: string
  scopes: string[]
  keyed: boolean // false where the service has no keys, so that nobody signs in
}

/** null: a key is wanted; undefined: not known yet. */
export const session = signal<Session | null | undefined>(undefined)
/** Who was signed in last, or what was open to all. */
let last: Session | undefined
session.subscribe((now) => (last = now ?? last))

/** Whether a key was signed in while this page was open. */
export function hasEnded(): boolean {
  return last?.keyed ?? false
}

/** Why nothing can be shown, where even that cannot be asked. */
export const trouble = signal<unknown>(undefined)

/** Who is signed in now. What is shown follows, see `follow` of jobs.ts, which also asks again where nobody answers. */
export async function readSession(): Promise<void> {
  try {
    session.value = await (await service.request("GET", "/session")).json()
    trouble.value = undefined
  } catch (error) {
    if (!isSignedOut(error)) trouble.value = error
  }
}

export async function signIn(token: string): Promise<void> {
  const sent = token.replace(/[^\x21-\x7e]/g, "?") // a header holds no other characters, and no key has them
  const answer = await service.request("POST", "/session", { headers: { Authorization: `Bearer ${sent}` } })
  const found = (await answer.json()) as Session
  if (last && found.owner !== last.owner) leave() // what is on the page is somebody else's
  session.value = found
}

export async function signOut(): Promise<void> {
  try {
    await service.request("DELETE", "/session")
    leave() // whoever comes next sees nothing of it
  } catch (error) {
    if (!isSignedOut(error)) trouble.value = error
  }
}

function leave(): void {
  dropAll()
  location.reload()
}

/** Resolves once somebody is signed in; rejects with the signal's reason once aborted. */
export function signedIn(signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      unsubscribe()
      reject(signal!.reason)
    }
    const unsubscribe = session.subscribe((now) => {
      if (!now) return
      queueMicrotask(() => unsubscribe())
      signal?.removeEventListener("abort", stop)
      resolve()
    })
    signal?.addEventListener("abort", stop)
  })
}

/** Whether `error` says that a key is wanted; then the page asks for one. */
export function isSignedOut(error: unknown): boolean {
  const out = error instanceof Unauthorized
  if (out) {
    session.value = null
    trouble.value = undefined
  }
  return out
}

export function may(scope: string): boolean {
  return session.value?.scopes.includes(scope) ?? false
}
