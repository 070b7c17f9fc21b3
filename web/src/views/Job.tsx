import { useEffect } from "preact/hooks"
import { useSignal } from "@preact/signals"
import "./Job.css"
import { defaultOf, readOptions } from "../choice"
import { ago, facts } from "../format"
import { refresh, useJob } from "../jobs"
import { labelOf, number, t } from "../languages"
import { Dots } from "../parts/Dots"
import { Actions, outputFacts, Progress, StatusWord } from "../parts/JobCard"
import { Notes } from "../parts/Notes"
import { Preview } from "../parts/Preview"
import { ProblemText } from "../parts/Trouble"
import { Result } from "../player/Result"
import { trouble } from "../session"
import type { Job as Of } from "../types"

/** One job: how far it is or what came of it. */
export function Job({ id }: { id: string }) {
  const job = useJob(id)
  const asked = useSignal(false)

  useEffect(() => {
    readOptions().catch(() => undefined) // only tells defaults from what was asked for
    void refresh(id).then(() => (asked.value = true))
  }, [id])

  const back = (
    <p class="back">
      <a href="#/jobs">← {t("jobs.title")}</a>
    </p>
  )
  if (!job) {
    if (!asked.value || trouble.value !== undefined) return null
    return (
      <>
        {back}
        <p class="lead">{t("job.gone")}</p>
      </>
    )
  }
  return (
    <article class="one">
      {back}
      <h1>{job.filename || id}</h1>
      <p class="one-status">
        <StatusWord job={job} />
        <Dots class="soft" of={[ago(job.created_at), job.reference, id]} />
      </p>
      <Progress job={job} />
      {job.error && <ProblemText of={job.error} />}
      {job.status === "running" && <Preview job={job} />}
      {job.links.result && <Result job={job} />}
      <Actions job={job} download={false} />
      <dl class="facts">
        <dt>{t("job.source")}</dt>
        <dd>
          <Dots of={[...facts(job.input), job.input.codec]} />
        </dd>
        {job.output && (
          <>
            <dt>{t("job.result")}</dt>
            <dd>
              <Dots of={[...outputFacts(job), t("facts.frames", { n: job.output.frames }), t("clip.new-frames", { n: job.metrics.new_frames })]} />
            </dd>
          </>
        )}
        <dt>{t("job.options")}</dt>
        <dd>
          <Dots of={chosen(job.options)} />
        </dd>
        {Object.keys(job.metadata).length > 0 && (
          <>
            <dt>{labelOf("metadata")}</dt>
            <dd>
              <Dots of={Object.entries(job.metadata).map(([name, value]) => `${name}: ${value}`)} />
            </dd>
          </>
        )}
        {job.metrics.scene_cuts > 0 && (
          <>
            <dt>{t("job.cuts")}</dt>
            <dd>{number(job.metrics.scene_cuts)}</dd>
          </>
        )}
      </dl>
      {job.notes.length > 0 && (
        <section aria-label={t("notes.title")}>
          <h2>{t("notes.title")}</h2>
          <Notes of={job.notes} />
        </section>
      )}
    </article>
  )
}

/** The options that are not what they would be anyway. */
function chosen(options: Of["options"]): string[] {
  return Object.entries(options)
    .filter(([name, value]) => value !== null && value !== undefined && String(value) !== defaultOf(name))
    .map(([name, value]) => `${labelOf(name)}: ${value}`)
}
