// The calls of the API as methods. It needs `fetch` and nothing else, so it runs in browsers and in Node.

import {
  Busy, ClientError, Damaged, JobCancelled, JobFailed, NotFound, ServiceError, TimedOut, Unauthorized, Unreachable,
  refusal,
} from "./errors.js"
import { EventReader, isLast, isOver } from "./events.js"
import { BUSY_MS, CONNECTION_MS, Patience, sleep } from "./retries.js"
import type { Estimate, Job, JobEvent, Options, Page, Worker } from "./types.js"

/** A video: a file of an <input>, `await openAsBlob(path)` of node:fs, or bytes. */
export type Video = Blob | ArrayBuffer | Uint8Array<ArrayBuffer>

/** Remembers uploads that are under way, e.g. in localStorage, so that they go on after a page was loaded anew. */
export interface UploadStore {
  get(key: string): string | null | undefined
  set(key: string, url: string): void
  remove(key: string): void
}

export interface ClientOptions {
  /** E.g. "https://dain.example.com"; "" for the page's own origin. A name and password in it are a login. */
  baseUrl?: string
  /** What `dain keys add` printed. */
  token?: string
  /** Go with every request. */
  headers?: Record<string, string>
  /** The longest silence that a call bears; `submit` waits longer for the answer to an upload. */
  timeoutMs?: number
  /**
   * Pauses for which a call is repeated that cannot reach the service, or finds it busy. Unless given: 30 s for a
   * service that this client has reached before and 0 where nothing has ever answered; 150 s for a busy one.
   */
  patienceMs?: number
  /** Is told of a failure that is not the last, and of the pause until the call is repeated. */
  onRetry?: (failure: ClientError, pauseMs: number) => void
  /** Is told that the login holds no longer. Once it resolves, the call is repeated. */
  onSignedOut?: (failure: Unauthorized, signal?: AbortSignal) => Promise<void>
  fetch?: typeof fetch
}

interface Sending {
  filename?: string
  signal?: AbortSignal
  /** Is told how many bytes of how many have arrived. */
  onProgress?: (bytes: number, total: number) => void
  resume?: UploadStore
}

interface Submitting extends Sending {
  /** Two calls with one key make one job. */
  idempotencyKey?: string
  /** A PNG that is white where the video stands still. */
  mask?: Blob
}

interface Call {
  query?: Record<string, string>
  headers?: Record<string, string>
  body?: BodyInit
  signal?: AbortSignal
  timeoutMs?: number
  cache?: RequestCache
}

const RESUMABLE_BYTES = 8 * 2 ** 20 // from which a video is sent in pieces
const FIRST_PIECE_BYTES = 2 ** 19
const LEAST_PIECE_BYTES = 2 ** 17
const MOST_PIECE_BYTES = 4 * 2 ** 20 // a piece is sent again where the connection breaks
const MOST_PIECES = 1000 // the service takes 2000
const QUICK_MS = 1000 // a piece that takes less is followed by one of twice its size
const SLOW_MS = 4000 // and one that takes more by one of half of it
const CONFLICT = 409 // of an upload: it has another offset
const TUS = { "Tus-Resumable": "1.0.0" }
const WAIT_MS = 25_000 // of one long poll; proxies give up after 30 or 60
const QUIET_MS = 60_000 // that a stream of events may be silent; the service sends something every 15 s
const ANSWER_MS = 600_000 // the service answers an upload once it has looked through all of it
const FETCH_MS = 2 * ANSWER_MS
const SLOWEST_DISK = 5000 // bytes a millisecond
const SLOWEST_LINE = 4 // bytes a millisecond
const VISIBLE = /^[!-~]+$/

/**
 * Speaks to the service at `baseUrl`.
 *
 * Every method throws a ClientError, or the reason of its `signal`. Every method repeats what failed, for as long as
 * `patienceMs` says: where the service is busy (429, 502 to 504), or the connection fails. However often a request has to
 * be sent, it takes effect once.
 */
export class Client {
  readonly url: string
  readonly #headers: Record<string, string>
  readonly #fetch: typeof fetch
  readonly #timeoutMs: number
  readonly #patienceMs: number | undefined
  readonly #onRetry: ClientOptions["onRetry"]
  readonly #onSignedOut: ClientOptions["onSignedOut"]
  #reached = false

  constructor(options: ClientOptions = {}) {
    const { url, login } = parsed(options.baseUrl ?? "")
    this.url = url
    this.#headers = { ...options.headers, ...authorization(options.token, login) }
    this.#fetch = options.fetch ?? ((...call) => globalThis.fetch(...call))
    this.#timeoutMs = options.timeoutMs ?? 60_000
    this.#patienceMs = options.patienceMs
    this.#onRetry = options.onRetry
    this.#onSignedOut = options.onSignedOut
  }

  // -- jobs --

  /** Uploads a video and returns the job. However often it has to be sent, there is one job. */
  submit(video: Video, options: Options = {}, how: Submitting = {}): Promise<Job> {
    const headers = { "Idempotency-Key": `"${how.idempotencyKey ?? newKey()}"` }
    return this.#sendVideo("/jobs", video, options, headers, how)
  }

  /** As `submit`, for a video that the service fetches from `sourceUrl`; resolves once it has it. */
  submitUrl(sourceUrl: string, options: Options = {}, how: Submitting = {}): Promise<Job> {
    const headers = { "Idempotency-Key": `"${how.idempotencyKey ?? newKey()}"` }
    return this.#sendUrl("/jobs", sourceUrl, options, headers, how)
  }

  /** As `submit`, for a video that `upload` has sent. */
  submitUpload(uploadId: string, options: Options = {}, how: Submitting = {}): Promise<Job> {
    const headers = { "Idempotency-Key": `"${how.idempotencyKey ?? newKey()}"` }
    return this.#sendUploaded("/jobs", uploadId, options, headers, how)
  }

  /** What a job of the video would take. None is started. */
  estimate(video: Video, options: Options = {}, how: Sending = {}): Promise<Estimate> {
    return this.#sendVideo("/jobs/estimate", video, options, {}, how)
  }

  estimateUrl(sourceUrl: string, options: Options = {}, how: Sending = {}): Promise<Estimate> {
    return this.#sendUrl("/jobs/estimate", sourceUrl, options, {}, how)
  }

  estimateUpload(uploadId: string, options: Options = {}, how: Sending = {}): Promise<Estimate> {
    return this.#sendUploaded("/jobs/estimate", uploadId, options, {}, how)
  }

  /** The job as it stands. */
  async job(jobId: string, how: { signal?: AbortSignal } = {}): Promise<Job> {
    return this.#get(pathOf(jobId), how)
  }

  /** Some jobs, newest first: all, or those with a status, a reference, and all of `metadata`. */
  page(asked: Asked & { cursor?: string } = {}): Promise<Page> {
    const { status, reference, metadata = {}, limit, cursor, signal } = asked
    const query = texts({ status, reference, limit, cursor })
    for (const [name, value] of Object.entries(metadata)) query[`metadata.${name}`] = value
    return this.#get("/jobs", { query, signal })
  }

  /** As `page`, but all of them, or the `limit` newest. */
  async jobs(asked: Asked = {}): Promise<Job[]> {
    const most = asked.limit ?? Infinity
    const found: Job[] = []
    let cursor: string | undefined
    do {
      const page = await this.page({ ...asked, limit: Math.min(200, most), cursor })
      found.push(...page.jobs)
      cursor = page.next_cursor ?? undefined
    } while (cursor && found.length < most)
    return found.slice(0, asked.limit)
  }

  /**
   * Waits until the job has succeeded, and returns it. `onProgress` gets the job at once, then with each state and each
   * percent of its progress, at most once in `intervalMs`.
   *
   * @throws JobFailed, JobCancelled: it ended so; the error has it as `job`.
   * @throws TimedOut: it had not ended after `timeoutMs`. It goes on.
   */
  async wait(
    jobId: string,
    how: { onProgress?: (job: Job) => void; intervalMs?: number; timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<Job> {
    const { onProgress, intervalMs = 1000, timeoutMs = Infinity, signal } = how
    const end = Date.now() + timeoutMs
    let known: Record<string, string> = {}
    let waitMs = 0
    let job: Job | undefined
    for (;;) {
      const call = { query: { wait: String(waitMs / 1000) }, headers: known, signal }
      const [seen, etag] = await this.#persist(async () => {
        const response = await this.#send("GET", pathOf(jobId), call)
        return [response.status === 304 ? undefined : await read<Job>(response), response.headers.get("ETag")] as const
      }, signal)
      if (seen) {
        job = seen
        onProgress?.(job)
        if (isOver(job)) return succeeded(job)
      }
      const left = end - Date.now()
      if (left <= 0) throw new TimedOut(`Job ${jobId} was ${job!.status} after ${timeoutMs} ms, and goes on.`, job!)
      waitMs = Math.min(WAIT_MS, this.#timeoutMs / 2, left)
      // An older service has no ETag, and answers without waiting.
      if (onProgress || !etag) {
        known = etag ? { "If-None-Match": etag } : {}
        await sleep(Math.min(intervalMs, left), signal)
      }
    }
  }

  /**
   * The events of a job until it is over, or of all jobs without an end, as they happen. They begin behind the event
   * with the id `after`, else now. The first of a job is then `job`, the job as it stands. Where the connection breaks,
   * they go on behind the last.
   */
  async *events(jobId?: string, how: { after?: string; signal?: AbortSignal } = {}): AsyncGenerator<JobEvent, void> {
    let { after } = how
    const { signal } = how
    const path = jobId === undefined ? "/events" : `${pathOf(jobId)}/events`
    for (;;) {
      const headers = { Accept: "text/event-stream", ...(after === undefined ? {} : { "Last-Event-ID": after }) }
      const response = await this.#persist(() => this.#send("GET", path, { headers, signal }), signal)
      if (response.status === 204) return
      const reader = new EventReader()
      try {
        for await (const piece of pieces(response, QUIET_MS)) {
          for (const event of reader.feed(piece)) {
            after = event.id || after
            if (event.type) yield event
            if (jobId !== undefined && isLast(event)) return
          }
        }
      } catch (error) {
        signal?.throwIfAborted()
        if (!(error instanceof Unreachable)) throw error // else it goes on where it was
      }
      await sleep(500, signal)
    }
  }

  /** Stops the job and returns it; one that is over stays as it is. */
  cancel(jobId: string): Promise<Job> {
    return this.#persist(() => this.#ask("POST", `${pathOf(jobId)}/cancel`))
  }

  /** Removes the job and its result; one that is under way is stopped first. */
  async delete(jobId: string): Promise<void> {
    await this.job(jobId) // NotFound where there is none
    try {
      while ((await this.#persist(() => this.#send("DELETE", pathOf(jobId)))).status !== 204);
    } catch (error) {
      if (!(error instanceof NotFound)) throw error // else the answer to an earlier attempt was lost
    }
  }

  // -- results --

  /** Where the result is: for links, and for <video> where the service needs no token. */
  resultUrl(jobId: string): string {
    return `${this.url}${pathOf(jobId)}/result`
  }

  /** The result, whole; Damaged where its SHA-256 is another (as far as the browser can tell: on https). */
  async download(jobId: string, how: Sending = {}): Promise<Blob> {
    const output = await this.#output(jobId, how.signal)
    const parts: Uint8Array<ArrayBuffer>[] = []
    for await (const piece of this.#pieces(jobId, output, how)) parts.push(piece)
    const file = new Blob(parts, { type: output.media_type })
    const digest = await sha256(await file.arrayBuffer())
    if (digest && hex(digest) !== output.sha256) {
      throw new Damaged(`The result of job ${jobId} arrived damaged; download it again.`)
    }
    return file
  }

  /** The bytes of the result, as they arrive; where the connection breaks, they go on. Their SHA-256 is not checked. */
  async *result(jobId: string, how: Sending = {}): AsyncGenerator<Uint8Array<ArrayBuffer>, void> {
    yield* this.#pieces(jobId, await this.#output(jobId, how.signal), how)
  }

  async *#pieces(jobId: string, output: Output, how: Sending): AsyncGenerator<Uint8Array<ArrayBuffer>, void> {
    let patience = new Patience()
    let have = 0
    while (have < output.size_bytes) {
      const headers: Record<string, string> = have
        ? { Range: `bytes=${have}-`, "If-Range": `"${output.sha256}"` }
        : {}
      try {
        const response = await this.#send("GET", `${pathOf(jobId)}/result`, { headers, signal: how.signal })
        let passed = response.status === 200 ? have : 0 // what a proxy sends again
        for await (const piece of pieces(response, this.#timeoutMs)) {
          const rest = piece.subarray(passed)
          passed = Math.max(passed - piece.length, 0)
          if (!rest.length) continue
          have += rest.length
          patience = new Patience()
          how.onProgress?.(have, output.size_bytes)
          yield rest
        }
      } catch (error) {
        how.signal?.throwIfAborted()
        await this.#pause(patience, error, how.signal)
      }
    }
  }

  async #output(jobId: string, signal?: AbortSignal): Promise<Output> {
    for (;;) {
      const { output } = await this.job(jobId, { signal })
      if (output) return output
      await (await this.#send("GET", `${pathOf(jobId)}/result`, { signal })).body?.cancel() // throws why there is none
    }
  }

  // -- the service --

  /** The workers that are alive. */
  workers(how: { signal?: AbortSignal } = {}): Promise<Worker[]> {
    return this.#get("/workers", how)
  }

  /** The version of the service. */
  async version(): Promise<string | undefined> {
    return (await this.#get<{ version?: string }>("/healthz")).version
  }

  /** A call that this class has no method for. A GET is repeated as those of the others are, all else is made once. */
  request(method: string, path: string, call: Call = {}): Promise<Response> {
    const send = () => this.#send(method, path, call)
    return method === "GET" ? this.#persist(send, call.signal) : send()
  }

  // -- sending --

  /**
   * Sends a video in pieces, each of which arrives whole or not at all, and returns the upload's id. Their size is what
   * the line moves in a second or some. Where the connection breaks, one piece is sent again; with `resume`, an upload
   * of the same file goes on after the page was loaded anew.
   * What is wrong with the `options` of the job that it is for is refused before a byte of it is sent.
   */
  async upload(video: Video, how: Sending & { options?: Options } = {}): Promise<string> {
    const blob = blobOf(video)
    const { signal, onProgress, resume, options = {} } = how
    const key = keyOf(blob, how)
    let url = resume?.get(key) ?? undefined
    let offset = url && (await this.#offset(url, signal))
    if (url === undefined || typeof offset !== "number") {
      const headers = { ...TUS, "Upload-Length": String(blob.size) }
      const call = { query: texts(options), headers, signal }
      const begun = await this.#persist(() => this.#send("POST", "/uploads", call), signal)
      url = begun.headers.get("Location")!
      offset = 0
      resume?.set(key, url)
    }
    try {
      onProgress?.(offset, blob.size)
      let size = FIRST_PIECE_BYTES
      while (offset < blob.size) {
        const begun = performance.now()
        const end = offset + Math.max(size, Math.ceil(blob.size / MOST_PIECES))
        offset = await this.#sendPiece(url, blob.slice(offset, end), offset, signal)
        const took = performance.now() - begun
        if (took < QUICK_MS) size = Math.min(2 * size, MOST_PIECE_BYTES)
        else if (took > SLOW_MS) size = Math.max(size / 2, LEAST_PIECE_BYTES)
        onProgress?.(offset, blob.size)
      }
    } catch (error) {
      if (!resume) void this.#send("DELETE", url, { headers: TUS }).catch(() => undefined) // nothing would go on with it
      throw error
    }
    return url.slice(url.lastIndexOf("/") + 1)
  }

  /** Removes an upload, whole or not. Jobs that were made of it keep what they have. */
  async deleteUpload(uploadId: string): Promise<void> {
    await this.#persist(() => this.#send("DELETE", `/uploads/${uploadId}`, { headers: TUS }))
  }

  /** How much of an upload has arrived; undefined where the service no longer knows it. */
  async #offset(url: string, signal?: AbortSignal): Promise<number | undefined> {
    try {
      const response = await this.#persist(() => this.#send("HEAD", url, { headers: TUS, signal }), signal)
      return Number(response.headers.get("Upload-Offset"))
    } catch (error) {
      if (error instanceof NotFound) return undefined
      throw error
    }
  }

  /** Sends the piece that begins at `offset`; returns where the next one begins. */
  async #sendPiece(url: string, blob: Blob, offset: number, signal?: AbortSignal): Promise<number> {
    const piece = await blob.arrayBuffer()
    const digest = await sha256(piece)
    const headers = {
      ...TUS,
      "Content-Type": "application/offset+octet-stream",
      "Upload-Offset": String(offset),
      ...(digest && { "Upload-Checksum": `sha256 ${btoa(String.fromCharCode(...digest))}` }),
    }
    try {
      const call = { headers, body: piece, signal, timeoutMs: this.#timeoutMs + blob.size / SLOWEST_LINE }
      const response = await this.#persist(() => this.#send("PATCH", url, call), signal)
      return Number(response.headers.get("Upload-Offset"))
    } catch (error) {
      // The piece had arrived, and the answer was lost; or a part of it had. A cut line may take the problem's document.
      if (error instanceof ClientError && error.status === CONFLICT) {
        const arrived = await this.#offset(url, signal)
        if (arrived !== undefined) return arrived
      }
      throw error
    }
  }

  async #sendVideo<T>(
    path: string, video: Video, options: Options, headers: Record<string, string>, how: Submitting,
  ): Promise<T> {
    const blob = blobOf(video)
    const { signal, onProgress, resume, mask } = how
    if (blob.size < RESUMABLE_BYTES) {
      const query = { ...texts(options), filename: nameOf(video, how) }
      const timeoutMs = this.#answerMs(blob.size)
      const sent = mask
        ? { headers, body: form({ mask, file: blob }) }
        : { headers: { ...headers, "Content-Type": "application/octet-stream" }, body: blob }
      const call = { ...sent, query, signal, timeoutMs }
      const answer = await this.#persist(() => this.#ask<T>("POST", path, call), signal, timeoutMs)
      onProgress?.(blob.size, blob.size)
      return answer
    }
    const id = await this.upload(blob, { ...how, options })
    const answer = await this.#sendUploaded<T>(path, id, options, headers, { ...how, filename: nameOf(video, how) })
    resume?.remove(keyOf(blob, how))
    await this.#send("DELETE", `/uploads/${id}`, { headers: TUS }).catch(() => undefined) // it would go in a day
    return answer
  }

  #sendUploaded<T>(
    path: string, uploadId: string, options: Options, headers: Record<string, string>, how: Submitting,
  ): Promise<T> {
    const { mask, filename, signal } = how
    const query = { ...texts(options), upload: uploadId, ...(filename && { filename }) }
    const call = { query, headers, body: mask && form({ mask }), signal, timeoutMs: FETCH_MS }
    return this.#persist(() => this.#ask<T>("POST", path, call), signal, FETCH_MS)
  }

  #sendUrl<T>(
    path: string, sourceUrl: string, options: Options, headers: Record<string, string>, { mask, signal }: Submitting,
  ): Promise<T> {
    const given = { ...Object.fromEntries(Object.entries(options).filter(([, value]) => value != null)), source_url: sourceUrl }
    const call = mask
      ? { query: texts(given), headers, body: form({ mask }) }
      : { headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(given) }
    return this.#persist(() => this.#ask<T>("POST", path, { ...call, signal, timeoutMs: FETCH_MS }), signal, FETCH_MS)
  }

  #answerMs(bytes: number): number {
    return Math.max(this.#timeoutMs, ANSWER_MS + bytes / SLOWEST_DISK)
  }

  // -- asking --

  #get<T>(path: string, call: Call = {}): Promise<T> {
    return this.#persist(() => this.#ask<T>("GET", path, call), call.signal)
  }

  /** Makes `call`, which must be safe to repeat, until it succeeds, is refused, or patience is at its end. */
  async #persist<T>(call: () => Promise<T>, signal?: AbortSignal, inUseMs?: number): Promise<T> {
    const patience = new Patience(inUseMs)
    for (;;) {
      try {
        return await call()
      } catch (error) {
        await this.#pause(patience, error, signal)
      }
    }
  }

  async #pause(patience: Patience, error: unknown, signal?: AbortSignal): Promise<void> {
    if (error instanceof Unauthorized && this.#onSignedOut) return this.#onSignedOut(error, signal)
    if (!(error instanceof Busy || error instanceof Unreachable)) throw error
    const connectionMs = this.#reached ? CONNECTION_MS : 0
    const pauseMs = patience.pause(error, this.#patienceMs ?? connectionMs, this.#patienceMs ?? BUSY_MS)
    this.#onRetry?.(error, pauseMs)
    await sleep(pauseMs, signal)
  }

  async #ask<T>(method: string, path: string, call: Call = {}): Promise<T> {
    return read<T>(await this.#send(method, path, call))
  }

  async #send(method: string, path: string, call: Call = {}): Promise<Response> {
    const { query = {}, headers, body, signal, timeoutMs = this.#timeoutMs, cache } = call
    const search = new URLSearchParams(query).toString()
    const late = new AbortController()
    const timer = setTimeout(() => late.abort(), timeoutMs)
    let response: Response
    try {
      response = await this.#fetch(this.url + path + (search && `?${search}`), {
        method,
        headers: { ...this.#headers, ...headers },
        body,
        cache,
        signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal,
      })
    } catch (error) {
      signal?.throwIfAborted()
      const reason = late.signal.aborted ? "it does not answer in time" : "is the address right, and does it run"
      throw unreachable(`The service at ${this.url || "this page's origin"} cannot be reached: ${reason}.`, error)
    } finally {
      clearTimeout(timer)
    }
    this.#reached = true
    if (response.ok || response.status === 304) return response
    throw await refusal(response)
  }
}

interface Asked {
  status?: string
  reference?: string
  metadata?: Record<string, string>
  limit?: number
  signal?: AbortSignal
}

type Output = NonNullable<Job["output"]>

/** The path of the job; throws NotFound where what is to be its id would lead to another place, as an empty one. */
function pathOf(jobId: string): string {
  if (!/^[\w-]+$/.test(jobId)) throw new NotFound(`${JSON.stringify(jobId)} is no id of a job.`)
  return `/jobs/${jobId}`
}

function parsed(baseUrl: string): { url: string; login?: string } {
  if (baseUrl === "") return { url: "" }
  let url: URL
  let login: string | undefined
  try {
    url = new URL(baseUrl)
    if (!/^https?:$/.test(url.protocol) || /\/\/[^/?#]*[/?#].*@/s.test(baseUrl)) throw new TypeError()
    if (url.username || url.password) login = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`
  } catch {
    // It is not repeated: it may hold a password.
    throw new ClientError("The service's URL must look like http://127.0.0.1:8000.")
  }
  url.username = url.password = url.search = url.hash = ""
  return { url: url.href.replace(/\/+$/, ""), login }
}

function authorization(token = "", login?: string): Record<string, string> {
  const text = token.trim()
  if (text && login) throw new ClientError("The service's URL has a login, and there is a token, too: leave one out.")
  if (login) return { Authorization: `Basic ${btoa(String.fromCharCode(...new TextEncoder().encode(login)))}` }
  if (!text) return {}
  if (!VISIBLE.test(text)) throw new ClientError("The token is not whole: give it as `dain keys add` printed it.")
  return { Authorization: `Bearer ${text}` }
}

/** Options as a query has them. */
function texts(options: object): Record<string, string> {
  const given = Object.entries(options).filter(([, value]) => value != null)
  return Object.fromEntries(
    given.map(([name, value]) => [
      name,
      Array.isArray(value) ? value.join(",") : typeof value === "object" ? JSON.stringify(value) : String(value),
    ]),
  )
}

function form(parts: Record<string, Blob>): FormData {
  const made = new FormData()
  for (const [name, part] of Object.entries(parts)) made.set(name, part)
  return made
}

function blobOf(video: Video): Blob {
  // In plain JavaScript a path is easily given, and would be sent as a text.
  if (typeof video === "string") throw new TypeError("A video is a Blob or bytes: of a path, await openAsBlob(path)")
  return video instanceof Blob ? video : new Blob([video])
}

function nameOf(video: Video, how: Sending): string {
  return how.filename ?? (video instanceof File ? video.name : "video")
}

function keyOf(blob: Blob, how: Sending): string {
  return [nameOf(blob, how), blob.size, blob instanceof File ? blob.lastModified : ""].join("-")
}

/** A key that no other call has. `crypto.randomUUID` is there on https alone. */
function newKey(): string {
  return hex(crypto.getRandomValues(new Uint8Array(16)))
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")
}

/** The digest; undefined where the browser has none, as on plain http. */
async function sha256(bytes: ArrayBuffer): Promise<Uint8Array | undefined> {
  const { subtle } = crypto as { subtle?: SubtleCrypto }
  return subtle && new Uint8Array(await subtle.digest("SHA-256", bytes))
}

async function read<T>(response: Response): Promise<T> {
  try {
    return (await response.json()) as T
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw unreachable("The connection broke before the answer was whole.", error)
    const place = response.url.split("?")[0]
    throw new ServiceError(`${place} answered, but not as a DAIN service does; is the address right?`)
  }
}

/** The pieces of a body; Unreachable where the connection breaks, or nothing comes for `quietMs`. */
async function* pieces(response: Response, quietMs: number): AsyncGenerator<Uint8Array<ArrayBuffer>, void> {
  const reader = response.body!.getReader()
  try {
    for (;;) {
      let timer: ReturnType<typeof setTimeout> | undefined
      const quiet = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error("silence")), quietMs)
      })
      const { done, value } = await Promise.race([reader.read(), quiet])
        .catch((error: unknown) => {
          throw unreachable("The connection broke.", error)
        })
        .finally(() => clearTimeout(timer))
      if (done) return
      yield value as Uint8Array<ArrayBuffer>
    }
  } finally {
    await reader.cancel().catch(() => undefined)
  }
}

function unreachable(message: string, cause: unknown): Unreachable {
  return new Unreachable(message, {}, { cause })
}

function succeeded(job: Job): Job {
  if (job.status === "succeeded") return job
  if (job.status === "cancelled") throw new JobCancelled(`Job ${job.id} was cancelled.`, {}, job)
  const problem = job.error ?? {}
  throw new JobFailed(String(problem.detail ?? `Job ${job.id} is ${job.status}.`), problem, job)
}
