// The frames around the present one: those of the source in ink, new ones in the colour of what was made.
import { effect } from "@preact/signals"
import { useEffect, useRef } from "preact/hooks"
import type { Frames } from "./frames"
import type { Player } from "./player"

const SPACING = 9 // pixels from frame to frame

export function Strip({ player }: { player: Player }) {
  const canvas = useRef<HTMLCanvasElement>(null)
  useEffect(() => {
    const { current } = canvas
    let colours = coloursOf(current!)
    let size = { width: 0, height: 0 }
    const show = (): void => draw(current!, size, colours, player.frames, player.index.value)
    const stop = effect(show)
    // Styles and sizes are asked for when they change: to ask for each frame would cost more than to draw it.
    const sizes = new ResizeObserver(([entry]) => {
      size = entry!.contentRect
      show()
    })
    sizes.observe(current!)
    const scheme = matchMedia("(prefers-color-scheme: dark)")
    const recolour = (): void => {
      colours = coloursOf(current!)
      show()
    }
    scheme.addEventListener("change", recolour)
    return () => {
      stop()
      sizes.disconnect()
      scheme.removeEventListener("change", recolour)
    }
  }, [player])
  return <canvas class="strip" ref={canvas} aria-hidden="true" />
}

interface Colours {
  source: string
  made: string
}

function coloursOf(canvas: HTMLCanvasElement): Colours {
  const styles = getComputedStyle(canvas)
  return { source: styles.getPropertyValue("--ink"), made: styles.getPropertyValue("--made") }
}

function draw(
  canvas: HTMLCanvasElement, { width, height }: { width: number; height: number }, colours: Colours, frames: Frames, present: number,
): void {
  const scale = devicePixelRatio
  const pixels = Math.round(width * scale)
  if (canvas.width !== pixels) [canvas.width, canvas.height] = [pixels, Math.round(height * scale)]
  const pen = canvas.getContext("2d")!
  pen.setTransform(scale, 0, 0, scale, 0, 0)
  pen.clearRect(0, 0, width, height)
  const reach = Math.ceil(width / SPACING / 2)
  for (let index = Math.max(present - reach, 0); index <= Math.min(present + reach, frames.count - 1); index++) {
    pen.fillStyle = frames.isNew(index) ? colours.made : colours.source
    const isPresent = index === present
    const [breadth, length] = [isPresent ? 5 : 3, isPresent ? height : height * 0.5]
    pen.fillRect(width / 2 + (index - present) * SPACING - breadth / 2, (height - length) / 2, breadth, length)
  }
}
