import { useEffect } from "preact/hooks"
import { signal, useSignal } from "@preact/signals"
import { arrivals, jobs, learn } from "../jobs"
import { t } from "../languages"
import { persistent } from "../persist"
import { trouble } from "../session"
import type { Job, Status } from "../types"
import { JobCard } from "../parts/JobCard"

const FILTERS: (Status | "")[] = ["", "queued", "running", "succeeded", "failed", "cancelled"]
const PAGE = 30

/** Which jobs are listed; whoever comes back from one of them sees the same list. */
const status = signal<Status | "">("")

/** The jobs, newest first. */
export function Jobs() {
  const ids = useSignal<string[] | undefined>(undefined)
  const cursor = useSignal<string | null>(null)

  /** Reads `most` jobs more, for as long as it takes. A page may hold fewer than it could, or none, before the last. */
  async function read(after: string | null, most: number, signal = new AbortController().signal): Promise<void> {
    const found: string[] = after ? (ids.value ?? []) : []
    let next = after
    const end = found.length + most
    const wanted = status.value
    const service = persistent((error) => (trouble.value = error))
    try {
      do {
        const page = await service.page({ limit: PAGE, status: wanted || undefined, cursor: next ?? undefined, signal })
        learn(...(page.jobs as Job[]))
        found.push(...page.jobs.map((job) => job.id))
        next = page.next_cursor
      } while (next && found.length < end)
      if (wanted !== status.value) return // another filter was chosen meanwhile
      ids.value = [...found]
      cursor.value = next
      trouble.value = undefined
    } catch (error) {
      if (!signal.aborted) trouble.value = error
    }
  }

  useEffect(() => {
    const gone = new AbortController()
    void read(null, Math.max(PAGE, ids.peek()?.length ?? 0), gone.signal)
    return () => gone.abort()
  }, [status.value, arrivals.value])

  function filter(to: Status | ""): void {
    ids.value = undefined
    status.value = to
  }

  const shown = ids.value?.filter((id) => id in jobs.value)
  return (
    <>
      <h1>{t("jobs.title")}</h1>
      <div class="filters" role="group" aria-label={t("jobs.filter")}>
        {FILTERS.map((each) => (
          <button key={each} class="chip" aria-pressed={status.value === each} onClick={() => filter(each)}>
            {each ? t(`status.${each}`) : t("jobs.all")}
          </button>
        ))}
      </div>
      {shown?.length === 0 && (
        <p class="lead">{status.value ? t("jobs.none-such") : <a href="#/">{t("jobs.none")}</a>}</p>
      )}
      <section class="list" aria-label={t("jobs.title")} aria-busy={shown === undefined}>
        {shown?.map((id) => (
          <JobCard key={id} id={id} />
        ))}
      </section>
      {cursor.value && (
        <p>
          <button class="quiet" onClick={() => void read(cursor.value, PAGE)}>
            {t("jobs.more")}
          </button>
        </p>
      )}
    </>
  )
}
