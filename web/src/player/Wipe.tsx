import type { Signal } from "@preact/signals"
import { t } from "../languages"

/** The line between source and result, which is dragged, or moved by the arrow keys; `at` is in percent of the width. */
export function Wipe({ at }: { at: Signal<number> }) {
  return (
    <input
      class="wipe"
      type="range"
      min={0}
      max={100}
      step={0.5}
      value={at}
      aria-label={t("player.wipe")}
      onInput={(event) => (at.value = event.currentTarget.valueAsNumber)}
    />
  )
}
