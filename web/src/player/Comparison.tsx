// The player: source and result of one moment, behind a slider or beside each other.
import { computed, type Signal } from "@preact/signals"
import { useEffect, useRef, useState } from "preact/hooks"
import { number, t, type Key } from "../languages"
import type { Frames } from "./frames"
import { Trouble } from "../parts/Trouble"
import { Icon } from "./icons"
import type { Finished } from "./job"
import { Player } from "./player"
import { Strip } from "./Strip"
import { View } from "./view"
import { Wipe } from "./Wipe"

const RATES = [1, 0.5, 0.25] as const

export function Comparison({ job, frames }: { job: Finished; frames: Frames }) {
  const before = useRef<HTMLCanvasElement>(null)
  const after = useRef<HTMLCanvasElement>(null)
  const stage = useRef<HTMLDivElement>(null)
  const [shown, setShown] = useState<{ player: Player; view: View }>()

  useEffect(() => {
    const player = new Player(job.links.result!, frames, before.current!, after.current!)
    const view = new View(player, stage.current!)
    setShown({ player, view })
    return () => {
      view.close()
      player.close()
    }
  }, [job.id, frames])

  const state = shown?.player.state.value ?? "loading"
  const trouble = shown?.player.trouble.value
  if (state === "unplayable") return <Unplayable job={job} />
  return (
    <div class="player" data-state={state} onKeyDown={(event) => shown && press(event, shown.player, shown.view)}>
      <div class="stage-frame">
        <div class="stage" ref={stage}>
          <figure class="side after">
            <canvas ref={after} role="img" aria-label={t("player.after")} />
            <figcaption>{t("player.after")}</figcaption>
          </figure>
          <figure class="side before">
            <canvas ref={before} role="img" aria-label={t("player.before")} />
            <figcaption>{t("player.before")}</figcaption>
          </figure>
        </div>
        {shown && !shown.view.isSplit.value && <Wipe at={shown.view.wipe} />}
        {state === "loading" && <p class="stage-wait">{t("result.loading")}</p>}
      </div>
      {trouble !== undefined && <Trouble of={trouble} />}
      {shown && <Controls player={shown.player} view={shown.view} frames={frames} />}
    </div>
  )
}

function Controls({ player, view, frames }: { player: Player; view: View; frames: Frames }) {
  const isReady = player.state.value === "ready"
  return (
    <fieldset class="controls" disabled={!isReady}>
      <legend class="hidden">{t("player.controls")}</legend>
      <div class="timeline">
        <Strip player={player} />
        <input
          type="range"
          min={0}
          max={frames.count - 1}
          value={player.index}
          aria-label={t("player.position")}
          aria-valuetext={position(player).value}
          onInput={(event) => void player.show(event.currentTarget.valueAsNumber)}
        />
        <Position player={player} />
      </div>
      <div class="buttons">
        <div class="group">
          <Press name="player.step-back" icon="back" do={() => player.step(-1)} />
          <Press
            name={player.playing.value ? "player.pause" : "player.play"}
            icon={player.playing.value ? "pause" : "play"}
            do={() => player.toggle()}
          />
          <Press name="player.step-on" icon="on" do={() => player.step(1)} />
        </div>
        <div class="group" role="radiogroup" aria-label={t("player.speed")}>
          {RATES.map((rate) => (
            <label key={rate} class="choice">
              <input
                type="radio"
                name="rate"
                checked={player.rate.value === rate}
                onChange={() => player.setRate(rate)}
              />
              {rate === 1 ? "1×" : rate === 0.5 ? "½×" : "¼×"}
            </label>
          ))}
        </div>
        <div class="group" role="radiogroup" aria-label={t("player.arrangement")}>
          <Arrangement view={view} split={false} name="player.as-wipe" />
          <Arrangement view={view} split={true} name="player.as-split" />
        </div>
        <div class="group">
          <Press name="player.farther" icon="farther" do={() => view.zoomBy(0.5)} />
          <output class="zoom" aria-label={t("player.zoom")}>
            {number(view.zoom.value * 100)} %
          </output>
          <Press name="player.closer" icon="closer" do={() => view.zoomBy(2)} />
        </div>
        <div class="group">
          <Toggle name="player.loop" icon="loop" is={player.loops} set={(on) => player.setLoops(on)} />
          <Toggle name="player.mute" icon="silent" is={player.muted} set={(on) => player.setMuted(on)} />
          <Press name="player.full" icon="full" do={() => view.toggleFull()} />
        </div>
      </div>
    </fieldset>
  )
}

function Press({ name, icon, do: act }: { name: Key; icon: Parameters<typeof Icon>[0]["of"]; do: () => unknown }) {
  return (
    <button type="button" class="tool" aria-label={t(name)} title={t(name)} onClick={() => void act()}>
      <Icon of={icon} />
    </button>
  )
}

interface ToggleProps {
  name: Key
  icon: Parameters<typeof Icon>[0]["of"]
  is: Signal<boolean>
  set: (on: boolean) => void
}

function Toggle({ name, icon, is, set }: ToggleProps) {
  return (
    <button
      type="button"
      class="tool"
      aria-label={t(name)}
      title={t(name)}
      aria-pressed={is.value}
      onClick={() => set(!is.value)}
    >
      <Icon of={icon} />
    </button>
  )
}

function Arrangement({ view, split, name }: { view: View; split: boolean; name: Key }) {
  return (
    <label class="choice">
      <input
        type="radio"
        name="arrangement"
        checked={view.isSplit.value === split}
        onChange={() => (view.isSplit.value = split)}
      />
      {t(name)}
    </label>
  )
}

/** Where the player is, and whether that frame is new. Of that only texts change, 60 times a second. */
function Position({ player }: { player: Player }) {
  const [text] = useState(() => position(player))
  const [kind] = useState(() => computed(() => t(player.frames.isNew(player.index.value) ? "player.new" : "player.source")))
  const [mark] = useState(() => computed(() => (player.frames.isNew(player.index.value) ? "kind new" : "kind")))
  return (
    <div class="position">
      <span>
        {text} <span class={mark}>{kind}</span>
      </span>
      <label class="check">
        <input
          type="checkbox"
          checked={player.onlyNew.value}
          onChange={(event) => (player.onlyNew.value = event.currentTarget.checked)}
        />
        {t("player.only-new")}
      </label>
    </div>
  )
}

function position(player: Player): Signal<string> {
  const { frames } = player
  return computed(() =>
    t("player.frame", { time: moment(frames.time(player.index.value)), n: player.index.value + 1, of: frames.count }),
  )
}

/** Minutes, seconds and hundredths: 1:03.25. */
function moment(seconds: number): string {
  const hundredths = Math.round(seconds * 100)
  const two = (value: number): string => String(value).padStart(2, "0")
  return `${Math.floor(hundredths / 6000)}:${two(Math.floor(hundredths / 100) % 60)}.${two(hundredths % 100)}`
}

const KEYS: Record<string, (player: Player, view: View) => unknown> = {
  " ": (player) => player.toggle(),
  k: (player) => player.toggle(),
  ",": (player) => player.step(-1),
  ".": (player) => player.step(1),
  l: (player) => player.setLoops(!player.loops.value),
  m: (player) => player.setMuted(!player.muted.value),
  n: (player) => (player.onlyNew.value = !player.onlyNew.value),
  s: (_, view) => (view.isSplit.value = !view.isSplit.value),
  f: (_, view) => view.toggleFull(),
  "+": (_, view) => view.zoomBy(2),
  "-": (_, view) => view.zoomBy(0.5),
  "0": (_, view) => view.zoomBy(0),
  "1": (player) => player.setRate(1),
  "2": (player) => player.setRate(0.5),
  "4": (player) => player.setRate(0.25),
}

/** Keys of the player, beside those of what has the focus. */
function press(event: KeyboardEvent, player: Player, view: View): void {
  const act = KEYS[event.key]
  const isOfControl = event.key === " " && event.target instanceof Element && event.target.closest("button, input")
  if (!act || isOfControl || event.ctrlKey || event.metaKey || event.altKey) return
  event.preventDefault()
  act(player, view)
}

function Unplayable({ job }: { job: Finished }) {
  const codec = job.options.codec ?? job.output!.media_type
  return (
    <p class="note" role="status">
      {t("result.unplayable", { what: codec })}
    </p>
  )
}
