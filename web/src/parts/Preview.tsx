// What a running job makes: its newest new frame, and the source frame before it.
import { useSignal, useSignalEffect } from "@preact/signals"
import { useEffect, useRef } from "preact/hooks"
import { Unauthorized } from "../../../clients/typescript/src/index"
import { t } from "../languages"
import { pause } from "../pause"
import { Wipe } from "../player/Wipe"
import { service } from "../service"
import "../player/player.css"

const SIDES = ["after", "before"] as const // as they lie on each other
const SECONDS = 2 // between two looks: workers make no more

export function Preview({ job }: { job: { id: string } }) {
  const stage = useRef<HTMLDivElement>(null)
  const canvases = { before: useRef<HTMLCanvasElement>(null), after: useRef<HTMLCanvasElement>(null) }
  const isThere = useSignal(false)
  const at = useSignal(50)

  useSignalEffect(() => stage.current?.style.setProperty("--wipe", `${at.value}%`))
  useEffect(() => {
    const gone = new AbortController()
    isThere.value = false
    void look(`/jobs/${job.id}/preview`, gone.signal, (picture) => {
      const [width, height] = [picture.width / 2, picture.height]
      for (const side of SIDES) {
        const canvas = canvases[side].current!
        canvas.width = width
        canvas.height = height
        canvas.getContext("2d", { alpha: false })!.drawImage(picture, side === "after" ? -width : 0, 0)
      }
      stage.current!.style.setProperty("--aspect", String(width / height))
      isThere.value = true
    })
    return () => gone.abort()
  }, [job.id])

  return (
    <div class="player preview" data-state={isThere.value ? "ready" : "loading"}>
      <div class="stage-frame" role="group" aria-label={t("preview.label")}>
        <div class="stage" ref={stage}>
          {SIDES.map((side) => (
            <figure key={side} class={`side ${side}`}>
              <canvas ref={canvases[side]} role="img" aria-label={t(`player.${side}`)} />
              {isThere.value && <figcaption>{t(`player.${side}`)}</figcaption>}
            </figure>
          ))}
        </div>
        {isThere.value ? <Wipe at={at} /> : <p class="stage-wait">{t("preview.none")}</p>}
      </div>
    </div>
  )
}

/** Give `show` each new picture. */
async function look(path: string, signal: AbortSignal, show: (picture: ImageBitmap) => void): Promise<void> {
  const headers: Record<string, string> = {}
  while (!signal.aborted) {
    try {
      const answer = await service.request("GET", path, { signal, headers, cache: "no-store" })
      if (answer.status === 200) {
        headers["If-None-Match"] = answer.headers.get("ETag") ?? ""
        const picture = await createImageBitmap(await answer.blob())
        if (!signal.aborted) show(picture)
      }
    } catch (error) {
      if (error instanceof Unauthorized) return
      // None yet, or the service is away: the job's own progress tells of that.
    }
    await pause(SECONDS)
  }
}
