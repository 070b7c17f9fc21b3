import "./ClipCard.css"
import { isOpen, remove, retry, start, type Clip } from "../clips"
import type { Fields } from "../service"
import { options } from "../choice"
import { becomes, bytes, facts, span } from "../format"
import { number, t } from "../languages"
import type { Estimate } from "../types"
import { Dots } from "./Dots"
import { FirstFrame } from "./FirstFrame"
import { JobCard } from "./JobCard"
import { Mask } from "./Mask"
import { Meter } from "./Meter"
import { Notes } from "./Notes"
import { sentence, Trouble } from "./Trouble"

/** A clip that was dropped, until it is a job; then the job. */
export function ClipCard({ clip }: { clip: Clip }) {
  const state = clip.state.value
  const estimate = clip.estimate.value
  if (state.at === "started") return <JobCard id={state.job} />
  const facing = estimate ? facts(estimate.input) : []
  return (
    <article class="card clip" aria-label={clip.name}>
      <FirstFrame file={clip.file} estimate={estimate} />
      <div class="clip-body">
        <h2>{clip.name}</h2>
        <Dots class="soft" of={[...facing, clip.size !== undefined && bytes(clip.size)]} />
        <Doing clip={clip} />
        {state.at !== "refused" && estimate && <Becomes of={estimate} />}
        {state.at === "ready" && estimate && !isSame(estimate.chosen, options.value) && <p class="soft">{t("clip.other-choice")}</p>}
        {state.at === "refused" && <Trouble of={state.error} />}
        {estimate && state.at !== "refused" && <Notes of={estimate.notes} />}
        {isOpen(clip) && <Mask clip={clip} />}
      </div>
      <div class="actions">
        {state.at === "refused" ? (
          <button class="quiet" onClick={() => retry(clip)}>
            {t("clip.retry")}
          </button>
        ) : (
          <button disabled={clip.wanted.value !== undefined || state.at === "starting"} onClick={() => void start(clip)}>
            {t(clip.wanted.value ? "clip.wanted" : "clip.start")}
          </button>
        )}
        <button class="plain" onClick={() => remove(clip)}>
          {t("clip.remove")}
        </button>
      </div>
    </article>
  )
}

/** What is done with the clip now, where that takes a while. */
function Doing({ clip }: { clip: Clip }) {
  const state = clip.state.value
  if (state.at === "waiting") return <p class="soft">{t("clip.waiting")}</p>
  if ((state.at === "looking" || state.at === "starting") && state.broken !== undefined) {
    return (
      <p class="soft" role="status">
        {sentence(state.broken)}
      </p>
    )
  }
  if (state.at === "looking" && !clip.estimate.value) return <p class="soft">{t(clip.url ? "clip.fetching" : "clip.looking")}</p>
  if (state.at !== "sending" || !clip.size) return null
  const share = state.sent / clip.size
  return (
    <div class="doing">
      <Meter value={share} label={t("clip.sending", { name: clip.name })} />
      <p class="soft" role="status">
        {state.broken !== undefined
          ? t("clip.broken", { why: sentence(state.broken), percent: number(share * 100) })
          : t("clip.sent", { percent: number(share * 100) })}
      </p>
    </div>
  )
}

/** The video of an address is not fetched again for an estimate of each choice. */
function isSame(one: Fields, other: Fields): boolean {
  return JSON.stringify(one) === JSON.stringify(other)
}

function Becomes({ of: estimate }: { of: Estimate & { chosen: Fields } }) {
  const { new_frames, seconds, eta_seconds, queue_position } = estimate
  const wait = eta_seconds ?? seconds
  return (
    <p class="becomes">
      <span class="arrow" aria-hidden="true">
        →
      </span>
      <Dots
        of={[
          ...becomes(estimate, estimate.chosen),
          t("clip.new-frames", { n: new_frames }),
          wait === null ? t("clip.takes-unknown") : t("clip.takes", { time: span(wait) }),
          queue_position ? t("job.place", { n: queue_position }) : undefined,
        ]}
      />
    </p>
  )
}
