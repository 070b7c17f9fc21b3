// What came of a job: the result beside its source, frame by frame.
import { useSignal } from "@preact/signals"
import { useEffect } from "preact/hooks"
import { bytes } from "../format"
import { t } from "../languages"
import { Trouble } from "../parts/Trouble"
import { persistent } from "../persist"
import { Comparison } from "./Comparison"
import { Frames, type Told } from "./frames"
import type { Finished } from "./job"
import { Share } from "./Share"
import "./player.css"

export function Result({ job }: { job: Finished }) {
  const output = job.output!
  const kind = output.media_type.split("/")[0]
  return (
    <section class="result" aria-label={t("result.label")}>
      {kind === "video" && <Video job={job} />}
      {kind === "image" && <img class="moving" src={job.links.result} alt={t("result.moving")} />}
      {kind !== "video" && kind !== "image" && <p class="soft">{t("result.archive")}</p>}
      <div class="result-links">
        <a class="button" href={job.links.result} download={output.filename}>
          {t("result.download")}
        </a>
        <Share job={job} />
        <span class="soft">
          {output.filename}, {bytes(output.size_bytes)}
        </span>
      </div>
    </section>
  )
}

/** The two pictures, once it is known what each frame is. */
function Video({ job }: { job: Finished }) {
  const frames = useSignal<Frames | undefined>(undefined)
  const trouble = useSignal<unknown>(undefined)
  useEffect(() => {
    const gone = new AbortController()
    const { signal } = gone
    read(job, signal, (error) => (trouble.value = error)).then(
      (found) => {
        trouble.value = undefined
        frames.value = found
      },
      (error: unknown) => signal.aborted || (trouble.value = error),
    )
    return () => gone.abort()
  }, [job.id])
  if (trouble.value) return <Trouble of={trouble.value} />
  return frames.value ? <Comparison job={job} frames={frames.value} /> : <p class="soft">{t("result.loading")}</p>
}

async function read(job: Finished, signal: AbortSignal, onBreak: (error: unknown) => void): Promise<Frames> {
  if (!job.links.frames) return Frames.guess(job)
  const answer = await persistent(onBreak).request("GET", job.links.frames, { signal })
  return new Frames((await answer.json()) as Told)
}
