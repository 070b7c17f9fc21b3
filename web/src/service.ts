// The service, by the project's own client of it.
import { Client, ClientError } from "../../clients/typescript/src/index"
import type { Problem } from "./types"

/** Options, as a form has them. */
export type Fields = Record<string, string>

/** Calls that are made once: what they end in is shown. */
export const service = new Client({ patienceMs: 0 })

/** What the service says of what it refused; undefined where the error is none that it answered with. */
export function problemOf(error: unknown): Problem | undefined {
  return error instanceof ClientError && error.slug ? (error.problem as Problem) : undefined
}

export function isRefusal(error: unknown, ...slugs: string[]): boolean {
  return error instanceof ClientError && slugs.includes(error.slug)
}
