// Calls of the service. Every error that it answers with is a problem document.
import type { Problem } from "./types"

/** The service says no. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly problem: Problem,
    readonly retryAfter: number | null,
  ) {
    super(problem.detail)
  }

  /** The last part of the problem's type, such as "job-not-found". */
  get slug(): string {
    return this.problem.type.split(":").at(-1) ?? ""
  }
}

/** Nobody answered. */
export class Unreachable extends Error {}

export type Fields = Record<string, string>

export async function request(method: string, path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response
  try {
    response = await fetch(path, { ...init, method })
  } catch (error) {
    if (init.signal?.aborted) throw error
    throw new Unreachable(String(error))
  }
  if (response.ok) return response
  throw refusal(response.status, await response.text(), response.headers.get("Retry-After"))
}

/** The error of an answer. One of a proxy, which is no problem document, is that the service cannot be reached. */
export function refusal(status: number, body: string, retryAfter: string | null): Error {
  try {
    const problem = JSON.parse(body) as Problem
    if (typeof problem.detail === "string") return new Refused(status, problem, retryAfter ? Number(retryAfter) : null)
  } catch {
    // no JSON
  }
  return new Unreachable(`HTTP ${status}`)
}

export async function get<T>(path: string, init?: RequestInit): Promise<T> {
  return (await request("GET", path, init)).json()
}

export async function post<T>(path: string, init?: RequestInit): Promise<T> {
  return (await request("POST", path, init)).json()
}
