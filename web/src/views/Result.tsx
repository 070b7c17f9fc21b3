import { useSignal } from "@preact/signals"
import { useEffect } from "preact/hooks"
import { request } from "../api"
import { t } from "../languages"
import { Trouble } from "../parts/Trouble"
import type { Finished } from "../player/job"
import { Result as Shown } from "../player/Result"
import { isSignedOut } from "../session"

/** The result of one job, for whoever has the link. */
export function Result({ id }: { id: string }) {
  const job = useSignal<Finished | undefined>(undefined)
  const trouble = useSignal<unknown>(undefined)
  useEffect(() => {
    const gone = new AbortController()
    job.value = trouble.value = undefined
    request("GET", `/jobs/${encodeURIComponent(id)}`, { signal: gone.signal })
      .then(async (answer) => (job.value = await answer.json()))
      .catch((error: unknown) => gone.signal.aborted || isSignedOut(error) || (trouble.value = error))
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
        <p class="note">
          {t("result.not-there")} <a href={`#/jobs/${id}`}>{t("result.to-job")}</a>
        </p>
      )}
    </>
  )
}
