// Calls of the service. Every error that it answers with is a problem document, RFC 9457.

export interface Problem {
  type: string
  title: string
  status: number
  detail: string
}

export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly problem: Problem,
  ) {
    super(problem.detail)
  }
}

export class Unreachable extends Error {}

export async function request(method: string, path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response
  try {
    response = await fetch(path, { ...init, method })
  } catch (error) {
    if (init.signal?.aborted) throw error
    throw new Unreachable(String(error))
  }
  if (!response.ok) throw new Refused(response.status, await response.json())
  return response
}
