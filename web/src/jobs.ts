// The jobs that the page shows. Events say when to ask again; where there are none, the page asks by itself.
import { useEffect } from "preact/hooks"
import { signal } from "@preact/signals"
import { drop } from "./kept"
import { persistent } from "./persist"
import { isRefusal, service } from "./service"
import { isSignedOut, may, readSession, session, trouble } from "./session"
import { isOver, type Job } from "./types"

export const jobs = signal<Record<string, Job>>({})
/** Counts the jobs that began or were removed elsewhere, so that a list knows when it is old. */
export const arrivals = signal(0)

const watched = new Map<string, number>() // by how many components
const SECONDS_WITH_EVENTS = 5 // rates and times change without an event
const SECONDS_WITHOUT = 2
const CHANGES = ["started", "progressed", "succeeded", "failed", "cancelled", "expired"]

export function learn(...found: Job[]): void {
  jobs.value = { ...jobs.value, ...Object.fromEntries(found.map((job) => [job.id, job])) }
}

export function forget(id: string): void {
  const { [id]: _, ...others } = jobs.value
  jobs.value = others
}

/** Reads a job anew. What is wrong with the service shows above all views. */
export async function refresh(id: string): Promise<void> {
  try {
    learn((await service.job(id)) as Job)
    trouble.value = undefined
  } catch (error) {
    if (isRefusal(error, "job-not-found")) forget(id)
    else if (!isSignedOut(error)) trouble.value = error
  }
}

/** Cancels a job, as soon as the service answers; `onBreak` is told why it does not yet. */
export async function cancel(job: Job, onBreak: (error: unknown) => void): Promise<void> {
  learn((await persistent(onBreak).cancel(job.id)) as Job)
}

export async function remove(job: Job, onBreak: (error: unknown) => void): Promise<void> {
  await persistent(onBreak).delete(job.id)
  forget(job.id)
  drop(`job ${job.id}`)
}

/** Keeps a job up to date while a component shows it. */
export function useJob(id: string): Job | undefined {
  useEffect(() => {
    watched.set(id, (watched.get(id) ?? 0) + 1)
    return () => {
      const left = (watched.get(id) ?? 1) - 1
      if (left) watched.set(id, left)
      else watched.delete(id)
    }
  }, [id])
  return jobs.value[id]
}

/** Follows what happens, as long as the page is seen: a browser has few connections, and other tabs want some, too. */
export function follow(): void {
  let events: EventSource | undefined
  let last = Date.now()

  function connect(): void {
    events?.close()
    events = undefined
    if (document.hidden || !may("read")) return
    events = new EventSource("/events")
    for (const change of CHANGES) {
      events.addEventListener(`job.${change}`, (event) => {
        const { job } = JSON.parse(event.data) as { job: string }
        if (watched.has(job)) void refresh(job)
        if (change !== "progressed") refreshQueued()
      })
    }
    events.addEventListener("job.queued", () => arrivals.value++)
    events.addEventListener("job.deleted", (event) => {
      const { job } = JSON.parse(event.data) as { job: string }
      if (watched.has(job)) void refresh(job)
      arrivals.value++
    })
    events.addEventListener("reset", () => arrivals.value++)
  }

  function tick(): void {
    const seconds = events?.readyState === EventSource.OPEN ? SECONDS_WITH_EVENTS : SECONDS_WITHOUT
    if (document.hidden || session.value === null || Date.now() - last < seconds * 1000) return
    last = Date.now()
    // Events end where the key was revoked. A session that is read anew connects again.
    if (!session.value || events?.readyState === EventSource.CLOSED) void readSession()
    for (const id of watched.keys()) {
      const job = jobs.value[id]
      if (!job || !isOver(job)) void refresh(id)
    }
  }

  session.subscribe(connect)
  document.addEventListener("visibilitychange", () => {
    connect()
    last = 0
    tick()
    arrivals.value++
  })
  setInterval(tick, 500)
}

/** Those that wait have another place when another begins or ends. */
function refreshQueued(): void {
  for (const id of watched.keys()) if (jobs.value[id]?.status === "queued") void refresh(id)
}
