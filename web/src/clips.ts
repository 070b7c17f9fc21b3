// The clips that were dropped and what becomes of them: each is sent, looked at, and made a job when it is started.
import { effect, signal, type Signal } from "@preact/signals"
import type { Client, Options, UploadStore } from "../../clients/typescript/src/index"
import { choose, options } from "./choice"
import { learn } from "./jobs"
import { drop, keep, kept } from "./kept"
import { persistent } from "./persist"
import { isRefusal, service, type Fields } from "./service"
import { isSignedOut } from "./session"
import type { Estimate, Job } from "./types"

export type State =
  | { at: "waiting" } // for its turn to be sent
  | { at: "sending"; sent: number; broken?: unknown }
  | { at: "looking"; broken?: unknown } // the service looks into it
  | { at: "ready" }
  | { at: "refused"; error: unknown }
  | { at: "starting"; broken?: unknown }
  | { at: "started"; job: string }

export interface Clip {
  id: number
  name: string
  size?: number
  file?: File
  url?: string
  state: Signal<State>
  /** What it becomes with the options `chosen`. */
  estimate: Signal<(Estimate & { chosen: Fields }) | undefined>
  /** Start with these options as soon as it is there. */
  wanted: Signal<Fields | undefined>
  /** Where it is sent to. */
  address?: string
  /** The upload, once the service has all of it. */
  upload?: string
  /** A PNG that is white where the clip stands still. */
  mask: Signal<Blob | undefined>
  /** Resolves once `mask` has what was painted last. */
  marking?: Promise<void>
  stop: AbortController
  /** A start that is repeated, because its answer was lost, makes no second job. */
  key: string
}

export const clips = signal<Clip[]>([])
/** The name of a file that is to be chosen again, for a job with other options. */
export const asked = signal<string | undefined>(undefined)

/** Whether there was no video in what was dropped or chosen last. */
export const isNone = signal(false)

const AT_ONCE = 2
let lastId = 0

/** Whether a clip is still to be started. */
export function isOpen({ state, wanted }: Clip): boolean {
  return !["started", "refused"].includes(state.value.at) && !wanted.value
}

export function addFiles(files: File[]): void {
  isNone.value = files.length === 0
  asked.value = undefined
  for (const file of files) add({ name: file.name, size: file.size, file })
  pump()
}

export function addUrl(url: string): void {
  void look(add({ name: fileOf(url), url }))
}

/** The name of the file that a URL leads to. */
function fileOf(url: string): string {
  const name = url.split(/[?#]/)[0]?.split("/").at(-1) || url
  try {
    return decodeURIComponent(name)
  } catch {
    return name // a percent sign that is one
  }
}

function add(of: Pick<Clip, "name" | "size" | "file" | "url" | "upload">): Clip {
  const clip: Clip = {
    ...of,
    id: ++lastId,
    state: signal<State>({ at: "waiting" }),
    estimate: signal(undefined),
    wanted: signal(undefined),
    mask: signal(undefined),
    stop: new AbortController(),
    key: Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(36)).join("-"),
  }
  clips.value = [...clips.value, clip]
  return clip
}

export function remove(clip: Clip): void {
  clip.stop.abort()
  // The upload of a job that is made again stays: it may be made yet again. What cannot be removed now is gone in a day.
  const upload = clip.upload ?? clip.address?.split("/").at(-1)
  if (clip.file && upload) service.deleteUpload(upload).catch(() => undefined)
  clips.value = clips.value.filter((other) => other !== clip)
  pump()
}

/** Whether something is lost where the page is left now: a start that is to follow, or a connection that sends. */
export function isUnderWay({ state, wanted }: Clip): boolean {
  return !["started", "refused"].includes(state.value.at) && (state.value.at !== "ready" || wanted.value !== undefined)
}

addEventListener("beforeunload", (event) => {
  if (clips.value.some(isUnderWay)) event.preventDefault()
})

/** Sends what waits, a few at a time. */
function pump(): void {
  const busy = clips.value.filter((clip) => clip.state.value.at === "sending").length
  const next = clips.value.filter((clip) => clip.file && clip.state.value.at === "waiting")
  for (const clip of next.slice(0, Math.max(AT_ONCE - busy, 0))) void send(clip)
}

async function send(clip: Clip): Promise<void> {
  if (!clip.file) return
  const { signal } = clip.stop
  const chosen = chosenFor(clip)
  let sent = 0
  clip.state.value = { at: "sending", sent }
  const onBreak = (broken: unknown): void => void (clip.state.value = { at: "sending", sent, broken })
  const onProgress = (now: number): void => void (clip.state.value = { at: "sending", sent: (sent = now) })
  try {
    const how = { signal, onProgress, resume: memory(clip), options: chosen as Options }
    clip.upload = await persistent(onBreak).upload(clip.file, how)
    await look(clip)
  } catch (error) {
    if (sent && isRefusal(error, "upload-not-found")) retry(clip) // it was removed meanwhile, as in another tab
    else refuse(clip, error, chosen)
  } finally {
    pump()
  }
}

/** Where the uploads of files are, so that they go on after the page was closed. One is that of one clip alone. */
function memory(clip: Clip): UploadStore {
  return {
    get(key) {
      const url = kept<string>(`upload ${key}`)
      const isTaken = clips.peek().some((other) => other !== clip && other.address === url)
      return isTaken ? undefined : (clip.address = url)
    },
    set: (key, url) => keep(`upload ${key}`, (clip.address = url)),
    remove: (key) => drop(`upload ${key}`),
  }
}

/** Asks what the clip is and would take. */
async function look(clip: Clip): Promise<void> {
  let chosen = chosenFor(clip)
  try {
    do {
      chosen = chosenFor(clip)
      clip.estimate.value = { ...((await estimate(clip, chosen)) as Estimate), chosen }
    } while (clip.upload && chosen !== chosenFor(clip)) // chosen otherwise meanwhile
    clip.state.value = { at: "ready" }
    if (clip.wanted.value) await start(clip)
  } catch (error) {
    if (isRefusal(error, "upload-not-found")) sendAgain(clip)
    else refuse(clip, error, chosen)
  }
}

/** What was chosen when the clip was started; until then what is chosen now. */
function chosenFor(clip: Clip): Fields {
  return clip.wanted.value ?? options.value
}

/** The service no longer has the upload. Where this page does not have the file either, it asks for it. */
function sendAgain(clip: Clip): void {
  clip.upload = undefined
  if (clip.file) return retry(clip)
  remove(clip)
  asked.value = clip.name
}

/** Makes a job of the clip, at once or when it is there. */
export async function start(clip: Clip): Promise<void> {
  clip.wanted.value ??= options.value
  if (clip.state.value.at !== "ready") return
  try {
    const job = (await submit(clip, clip.wanted.value)) as Job
    learn(job)
    if (clip.upload) remember(job.id, clip)
    clip.state.value = { at: "started", job: job.id }
  } catch (error) {
    if (isRefusal(error, "upload-not-found")) sendAgain(clip)
    else refuse(clip, error)
  }
}

/** Tries again what was refused. */
export function retry(clip: Clip): void {
  if (clip.upload || clip.url) void look(clip)
  else {
    clip.state.value = { at: "waiting" }
    pump()
  }
}

/** What was refused with other options than are `chosen` by now is tried again with these. */
function refuse(clip: Clip, error: unknown, chosen = chosenFor(clip)): void {
  if (clip.stop.signal.aborted) return
  const isOld = chosen !== chosenFor(clip)
  isSignedOut(error)
  clip.wanted.value = undefined
  clip.state.value = { at: "refused", error }
  if (isOld) retry(clip)
}

function estimate(clip: Clip, chosen: Fields): Promise<unknown> {
  const service = patient(clip, "looking")
  const how = { signal: clip.stop.signal, filename: clip.name }
  return clip.upload ? service.estimateUpload(clip.upload, chosen as Options, how) : service.estimateUrl(clip.url!, chosen as Options, how)
}

async function submit(clip: Clip, chosen: Fields): Promise<unknown> {
  const service = patient(clip, "starting")
  await clip.marking
  const how = { signal: clip.stop.signal, filename: clip.name, idempotencyKey: clip.key, mask: clip.mask.value }
  return clip.upload ? service.submitUpload(clip.upload, chosen as Options, how) : service.submitUrl(clip.url!, chosen as Options, how)
}

/** The service for one step of a clip, which says meanwhile what is done, or why it does not go on. */
function patient(clip: Clip, at: "looking" | "starting"): Client {
  clip.state.value = { at }
  return persistent((broken) => (clip.state.value = { at, broken }))
}

// An estimate is of the options that were chosen. That of a URL stays: the service would fetch the video each time.
let due: ReturnType<typeof setTimeout> | undefined
effect(() => {
  const chosen = options.value
  clearTimeout(due)
  due = setTimeout(() => {
    for (let lane = 0; lane < AT_ONCE; lane++) void lookAgain(chosen, lane)
  }, 300)
})

/** Looks at every `AT_ONCE`-th clip, one after the other, until something else is chosen. */
async function lookAgain(chosen: Fields, lane: number): Promise<void> {
  for (const clip of clips.peek().filter((clip) => clip.id % AT_ONCE === lane)) {
    if (chosen !== options.peek()) return
    const { at } = clip.state.peek()
    if (clip.upload && ["ready", "refused"].includes(at)) await look(clip)
    else if (clip.file && at === "refused") retry(clip) // what was chosen then was refused before it was sent
  }
}

// The same video with other options. The service keeps an upload for a day, and this browser which job was made of it.

function remember(job: string, { upload, name, size }: Clip): void {
  keep(`job ${job}`, { upload, name, size })
}

/** Chooses the options of `job`, and its video where the service still has it; else asks for the file. */
export async function again(job: Job, onBreak: (error: unknown) => void): Promise<void> {
  await choose(job, onBreak)
  const sent = kept<Pick<Clip, "upload" | "name" | "size">>(`job ${job.id}`)
  if (sent) void look(add(sent))
  else asked.value = job.filename
  location.hash = "#/"
}
