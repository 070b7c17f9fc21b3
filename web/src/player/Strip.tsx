// The frames around the present one: those of the source in ink, new ones in the colour of what was made.
import { effect } from "@preact/signals"
import { useEffect, useRef } from "preact/hooks"
import type { Player } from "./player"

const SPACING = 9 // pixels from frame to frame

export function Strip({ player }: { player: Player }) {
  const canvas = useRef<HTMLCanvasElement>(null)
  useEffect(() => {
    const { current } = canvas
    const colours = getComputedStyle(current!)
    const stop = effect(() => draw(current!, colours, player, player.index.value))
    const sizes = new ResizeObserver(() => draw(current!, colours, player, player.index.value))
    sizes.observe(current!)
    return () => {
      stop()
      sizes.disconnect()
    }
  }, [player])
  return <canvas class="strip" ref={canvas} aria-hidden="true" />
}

function draw(canvas: HTMLCanvasElement, colours: CSSStyleDeclaration, { frames }: Player, present: number): void {
  const scale = devicePixelRatio
  const [width, height] = [canvas.clientWidth, canvas.clientHeight]
  if (canvas.width !== width * scale) [canvas.width, canvas.height] = [width * scale, height * scale]
  const pen = canvas.getContext("2d")!
  pen.setTransform(scale, 0, 0, scale, 0, 0)
  pen.clearRect(0, 0, width, height)
  const reach = Math.ceil(width / SPACING / 2)
  for (let index = Math.max(present - reach, 0); index <= Math.min(present + reach, frames.count - 1); index++) {
    pen.fillStyle = colours.getPropertyValue(frames.isNew(index) ? "--made" : "--ink")
    const isPresent = index === present
    const [breadth, length] = [isPresent ? 5 : 3, isPresent ? height : height * 0.5]
    pen.fillRect(width / 2 + (index - present) * SPACING - breadth / 2, (height - length) / 2, breadth, length)
  }
}
