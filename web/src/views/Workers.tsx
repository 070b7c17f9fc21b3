// The workers: what each is, what it does, and how its figures went while this page was open.
import { signal } from "@preact/signals"
import { useEffect } from "preact/hooks"
import type { Worker } from "../../../clients/typescript/src/index"
import { bytes } from "../format"
import { isKey, number, t, type Key } from "../languages"
import { Plot } from "../parts/Plot"
import { Trouble } from "../parts/Trouble"
import { pause } from "../pause"
import { service } from "../service"
import { isSignedOut, may } from "../session"
import "./Workers.css"

/** A figure of a worker that is drawn over time; null where it has no such figure. */
interface Figure {
  name: Key
  of: (worker: Worker) => number | null
  most?: (worker: Worker) => number // of the scale
  show: (value: number, worker: Worker) => string
}

const FIGURES: Figure[] = [
  { name: "workers.fps", of: (worker) => worker.frames_per_second, show: (value) => number(value, value < 10 ? 1 : 0) },
  { name: "workers.utilisation", of: (worker) => worker.utilisation, most: () => 1, show: (value) => `${number(value * 100)} %` },
  {
    name: "workers.vram",
    of: (worker) => worker.vram_total_bytes && worker.vram_used_bytes,
    most: (worker) => worker.vram_total_bytes,
    show: (value, worker) => `${number(value / 1e9, 1)} / ${bytes(worker.vram_total_bytes)}`,
  },
  { name: "workers.watts", of: (worker) => worker.watts, show: (value) => `${number(value)} W` },
  { name: "workers.celsius", of: hottest, most: () => 100, show: (value) => `${number(value)} °C` },
]
const SECONDS = 3 // between two reports of a worker
const KEPT = 200 // reports: ten minutes
const FEWEST = 20 // that a plot has room for

const workers = signal<Worker[] | undefined>(undefined)
const trouble = signal<unknown>(undefined)
/** The reports of each worker, the oldest first. They stay while the page does. */
const reports = new Map<string, Worker[]>()

export function Workers() {
  const isAllowed = may("admin")
  useEffect(() => {
    if (!isAllowed) return
    const gone = new AbortController()
    void follow(gone.signal)
    return () => gone.abort()
  }, [isAllowed])
  return (
    <>
      <h1>{t("workers.title")}</h1>
      {!isAllowed && <p class="lead">{t("workers.forbidden")}</p>}
      {trouble.value !== undefined && <Trouble of={trouble.value} />}
      {workers.value?.length === 0 && <p class="lead">{t("workers.none")}</p>}
      <ul class="workers">
        {workers.value?.map((worker) => (
          <li key={worker.name} class="card worker">
            <Card worker={worker} />
          </li>
        ))}
      </ul>
    </>
  )
}

async function follow(stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    try {
      note(await service.workers({ signal: stop }))
      trouble.value = undefined
    } catch (error) {
      if (stop.aborted || isSignedOut(error)) return
      trouble.value = error
    }
    await pause(SECONDS)
  }
}

function note(seen: Worker[]): void {
  for (const worker of seen) reports.set(worker.name, [...(reports.get(worker.name) ?? []), worker].slice(-KEPT))
  for (const name of reports.keys()) if (!seen.some((worker) => worker.name === name)) reports.delete(name)
  workers.value = seen
}

function Card({ worker }: { worker: Worker }) {
  if (worker.error) return <p class="trouble">{`${worker.name}: ${worker.error}`}</p>
  const past = reports.get(worker.name) ?? []
  return (
    <>
      <div class="worker-head">
        <h2>{worker.device_name === worker.device ? worker.host : worker.device_name}</h2>
        <Doing worker={worker} />
      </div>
      <p class="soft">
        {[worker.host, worker.device, worker.model, worker.precision, worker.version].filter(Boolean).join(" · ")}
      </p>
      {worker.throttled_by.length > 0 && (
        <p class="slowed">{t("workers.slowed", { why: worker.throttled_by.map(reason).join(", ") })}</p>
      )}
      <dl class="plots">
        {FIGURES.filter(({ of }) => past.some((report) => of(report) !== null && of(report) !== 0)).map((figure) => (
          <div key={figure.name}>
            <dt>{t(figure.name)}</dt>
            <dd>
              <Plot
                values={past.map(figure.of)}
                most={figure.most?.(worker)}
                room={Math.max(past.length, FEWEST)}
                show={(value) => figure.show(value, worker)}
                label={t(figure.name)}
              />
            </dd>
          </div>
        ))}
      </dl>
    </>
  )
}

/** What a worker does now, each task with a link to its job. */
function Doing({ worker }: { worker: Worker }) {
  const tasks = worker.tasks ?? []
  if (!worker.ready || !tasks.length) return <p class="status">{t(worker.ready ? "workers.idle" : "workers.warming")}</p>
  return (
    <ul class="doing-now">
      {tasks.map(({ job, task }) => {
        const n = Number(task.split("-")[1]) + 1
        const key: Key = task === "plan" ? "workers.plan" : task === "assemble" ? "workers.assemble" : "workers.segment"
        const [before, after] = t(key, { n }).split("{job}")
        return (
          <li key={job + task} class="status running">
            <span>
              {before}
              <a href={`#/jobs/${job}`} title={job}>
                …{job.slice(-6)}
              </a>
              {after}
            </span>
          </li>
        )
      })}
    </ul>
  )
}

function hottest({ celsius }: Worker): number | null {
  const all = Object.values(celsius)
  return "gpu" in celsius ? celsius.gpu! : all.length ? Math.max(...all) : null
}

function reason(name: string): string {
  const key = `workers.throttle.${name}`
  return isKey(key) ? t(key) : name
}
