import { useSignal } from "@preact/signals"
import "./JobCard.css"
import { again } from "../clips"
import { ago, bytes, clock, facts, rateOf, span } from "../format"
import { cancel, remove, useJob } from "../jobs"
import { number, t, type Key } from "../languages"
import { route } from "../router"
import { isSignedOut, may } from "../session"
import { isOver, type Job } from "../types"
import { Dots } from "./Dots"
import { Meter } from "./Meter"
import { ProblemText, Trouble } from "./Trouble"

/** A job in a list: how far it is, and what can be done with it. */
export function JobCard({ id }: { id: string }) {
  const job = useJob(id)
  if (!job) return null
  return (
    <article class="card job" aria-label={job.filename}>
      <div class="job-head">
        <h2>
          <a href={`#/jobs/${id}`}>{job.filename || id}</a>
        </h2>
        <StatusWord job={job} />
      </div>
      <Progress job={job} />
      {job.error && <ProblemText of={job.error} />}
      <div class="job-foot">
        <Dots class="soft" of={[...facts(job.input).slice(0, 1), rates(job), job.output && bytes(job.output.size_bytes), ago(job.created_at)]} />
        <Actions job={job} />
      </div>
    </article>
  )
}

export function StatusWord({ job }: { job: Job }) {
  const status = job.expired ? "expired" : job.status
  return <span class={`status ${status}`}>{t(`status.${status}`)}</span>
}

/** How far a job is, while it is not over. */
export function Progress({ job }: { job: Job }) {
  if (isOver(job)) return null
  const { fraction, frames_done, frames_total, fps, eta_seconds, queue_position } = job.progress
  const queued = job.status === "queued"
  return (
    <div class="doing">
      <Meter value={queued ? 0 : frames_total ? fraction : null} label={t("job.progress", { name: job.filename })} />
      <Dots
        class="soft"
        of={[
          queued && queue_position !== null && (queue_position ? t("job.place", { n: queue_position }) : t("job.next")),
          !queued && frames_total === null && t("job.planning"),
          !queued && frames_total !== null && t("job.frames", { n: frames_done, of: frames_total }),
          fps !== null && t("facts.fps", { n: number(fps, fps < 10 ? 1 : 0) }),
          eta_seconds !== null && t("job.left", { time: span(eta_seconds) }),
        ]}
      />
    </div>
  )
}

/** What can be done with a job. What cannot be undone asks first. A view that shows the result has its own download. */
export function Actions({ job, download = true }: { job: Job; download?: boolean }) {
  const sure = useSignal(false)
  const error = useSignal<unknown>(undefined)

  const onBreak = (broken: unknown): void => void (error.value = broken)

  async function attempt(act: Promise<void>): Promise<void> {
    sure.value = false
    error.value = undefined
    try {
      await act
      error.value = undefined
    } catch (reason) {
      if (!isSignedOut(reason)) error.value = reason
    }
  }

  async function removeHere(): Promise<void> {
    await remove(job, onBreak)
    if (route.value[1] === job.id) location.replace("#/jobs") // its own view has nothing left to show
  }

  const act = isOver(job) ? removeHere : () => cancel(job, onBreak)
  const word = (name: string): Key => `job.${isOver(job) ? "delete" : "cancel"}${name}` as Key
  return (
    <div class="actions">
      {download && job.links.result && (
        <a class="button" href={job.links.result} download>
          {t("job.download")}
        </a>
      )}
      {may("submit") && isOver(job) && (
        <button class="quiet" onClick={() => void attempt(again(job, onBreak))}>
          {t("job.again")}
        </button>
      )}
      {may("submit") && !sure.value && (
        <button class="plain" onClick={() => (sure.value = true)}>
          {t(word(""))}
        </button>
      )}
      {sure.value && (
        <span class="sure" role="group" aria-label={t(word("-sure"))}>
          {t(word("-sure"))}
          <button class="danger" ref={(button) => button?.focus()} onClick={() => void attempt(act())}>
            {t(word(""))}
          </button>
          <button class="quiet" onClick={() => (sure.value = false)}>
            {t("job.keep")}
          </button>
        </span>
      )}
      {error.value !== undefined && <Trouble of={error.value} />}
    </div>
  )
}

/** The rate of the source, and that of the result once there is one. */
function rates({ input, output }: Job): string {
  return [rateOf(input.average_rate), rateOf(output?.frame_rate)].filter((rate) => rate).join(" → ")
}

export function outputFacts(job: Job): string[] {
  const { output } = job
  if (!output) return []
  return [rateOf(output.frame_rate), clock(output.duration_seconds), bytes(output.size_bytes)].filter((text) => text !== undefined)
}
