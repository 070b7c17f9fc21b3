import { useSignal } from "@preact/signals"
import { useEffect } from "preact/hooks"
import { request } from "../api"
import { t } from "../languages"
import { Preview } from "../parts/Preview"
import { Trouble } from "../parts/Trouble"
import type { Finished } from "../player/job"
import { Result as Shown } from "../player/Result"
import { isSignedOut } from "../session"

const WAIT_SECONDS = 25

/** The result of one job, for whoever has the link. Until it is there, what the job makes. */
export function Result({ id }: { id: string }) {
  const job = useSignal<Finished | undefined>(undefined)
  const trouble = useSignal<unknown>(undefined)
  useEffect(() => {
    const gone = new AbortController()
    job.value = trouble.value = undefined
    follow(id, gone.signal, (seen) => (job.value = seen)).catch(
      (error: unknown) => gone.signal.aborted || isSignedOut(error) || (trouble.value = error),
    )
    return () => gone.abort()
  }, [id])
  if (trouble.value) return <Trouble of={trouble.value} />
  if (!job.value) return <p class="soft">{t("result.loading")}</p>
  return (
    <>
      <h1 class="file">{job.value.filename}</h1>
      {job.value.links.result ? (
        <Shown job={job.value} />
      ) : (
        <>
          {job.value.links.preview && <Preview job={job.value} />}
          <p class="note">
            {t(isOver(job.value) ? "result.not-there" : "result.not-yet")} <a href={`#/jobs/${id}`}>{t("result.to-job")}</a>
          </p>
        </>
      )}
    </>
  )
}

/** Give `learn` the job, and again each time that it changes, until it is over. */
async function follow(id: string, signal: AbortSignal, learn: (job: Finished) => void): Promise<void> {
  const path = `/jobs/${encodeURIComponent(id)}`
  let job: Finished = await (await request("GET", path, { signal })).json()
  learn(job)
  while (!isOver(job)) {
    job = await (await request("GET", `${path}?wait=${WAIT_SECONDS}`, { signal })).json()
    learn(job)
  }
}

function isOver({ status }: Finished): boolean {
  return status !== "queued" && status !== "running"
}
