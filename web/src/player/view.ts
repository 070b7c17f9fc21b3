// How the two pictures are looked at: behind a slider or side by side, from how near, and which part of them.
import { effect, signal } from "@preact/signals"
import type { Player } from "./player"

const NEAREST = 16

export class View {
  readonly wipe = signal(50) // percent of the width that shows the source
  readonly isSplit = signal(false)
  readonly zoom = signal(1)
  private readonly at = signal({ x: 0.5, y: 0.5 }) // the point of the picture that is in the middle
  private readonly undo: (() => void)[] = []
  private readonly pointers = new Map<number, { x: number; y: number }>()

  constructor(
    private readonly player: Player,
    private readonly stage: HTMLElement,
  ) {
    const sizes = new ResizeObserver(() => this.resize())
    sizes.observe(stage)
    this.undo.push(() => sizes.disconnect())
    this.undo.push(effect(() => stage.style.setProperty("--wipe", `${this.wipe.value}%`)))
    this.undo.push(effect(() => this.lay()))
    this.undo.push(
      effect(() => {
        if (player.state.value === "ready" && this.zoom.value) this.resize()
      }),
    )
    const listeners: [string, (event: never) => void, AddEventListenerOptions?][] = [
      ["pointerdown", (event: PointerEvent) => this.grab(event)],
      ["pointermove", (event: PointerEvent) => this.drag(event)],
      ["pointerup", (event: PointerEvent) => this.pointers.delete(event.pointerId)],
      ["pointercancel", (event: PointerEvent) => this.pointers.delete(event.pointerId)],
      ["wheel", (event: WheelEvent) => this.turn(event), { passive: false }],
      ["dblclick", (event: MouseEvent) => this.zoomBy(this.zoom.value > 1 ? 0 : 4, event)],
    ]
    for (const [name, listener, options] of listeners) {
      stage.addEventListener(name, listener as EventListener, options)
      this.undo.push(() => stage.removeEventListener(name, listener as EventListener))
    }
  }

  close(): void {
    for (const undo of this.undo) undo()
  }

  /** Look from nearer by a factor, at the point of the pointer if there is one; 0 shows the whole picture. */
  zoomBy(factor: number, pointer?: MouseEvent): void {
    const zoom = factor ? Math.min(Math.max(this.zoom.value * factor, 1), NEAREST) : 1
    if (pointer) {
      const { x, y } = this.point(pointer)
      const { x: middleX, y: middleY } = this.at.value
      const kept = this.zoom.value / zoom // what is under the pointer stays there
      this.look(x + (middleX - x) * kept, y + (middleY - y) * kept, zoom)
    } else this.look(this.at.value.x, this.at.value.y, zoom)
    this.zoom.value = zoom
  }

  toggleFull(): void {
    const player = this.stage.closest(".player")!
    void (document.fullscreenElement ? document.exitFullscreen() : player.requestFullscreen())
  }

  /** The styles of the stage are all that a zoom changes, as a drag of the slider: nothing is drawn again. */
  private lay(): void {
    const { style, dataset } = this.stage
    const { x, y } = this.at.value
    const zoom = this.zoom.value
    style.setProperty("--zoom", String(zoom))
    style.setProperty("--x", `${(0.5 - x * zoom) * 100}%`)
    style.setProperty("--y", `${(0.5 - y * zoom) * 100}%`)
    dataset.split = String(this.isSplit.value)
    dataset.near = String(zoom > 1)
    if (this.player.state.value === "ready") {
      const [width, height] = this.player.size
      style.setProperty("--aspect", String(width / height))
    }
  }

  private resize(): void {
    const side = this.stage.querySelector(".side")!
    void this.player.resize(side.clientWidth * devicePixelRatio * this.zoom.value)
  }

  /** Look at a point, but at nothing outside the picture. */
  private look(x: number, y: number, zoom: number): void {
    const edge = 0.5 / zoom
    const within = (place: number): number => Math.min(Math.max(place, edge), 1 - edge)
    this.at.value = { x: within(x), y: within(y) }
  }

  /** The point of the picture under the pointer, both from 0 to 1. */
  private point(pointer: { clientX: number; clientY: number }): { x: number; y: number } {
    const side = this.side(pointer)
    const place = (at: number, from: number, length: number, middle: number): number =>
      middle + ((at - from) / length - 0.5) / this.zoom.value
    return {
      x: place(pointer.clientX, side.left, side.width, this.at.value.x),
      y: place(pointer.clientY, side.top, side.height, this.at.value.y),
    }
  }

  private side({ clientX, clientY }: { clientX: number; clientY: number }): DOMRect {
    const [one, two] = [...this.stage.querySelectorAll(".side")].map((side) => side.getBoundingClientRect())
    const isIn = clientX >= two!.left && clientX < two!.right && clientY >= two!.top && clientY < two!.bottom
    return isIn ? two! : one!
  }

  private grab(event: PointerEvent): void {
    this.stage.setPointerCapture(event.pointerId)
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY })
    if (this.zoom.value === 1) this.slide(event)
  }

  /** The slider comes to the pointer where that has nothing else to move: where all of the picture is seen. */
  private slide(event: PointerEvent): void {
    if (this.isSplit.value || this.pointers.size > 1) return
    const { left, width } = this.stage.getBoundingClientRect()
    this.wipe.value = Math.min(Math.max(((event.clientX - left) / width) * 100, 0), 100)
  }

  /** One finger or the mouse moves the slider, or what is near; two fingers bring it nearer. */
  private drag(event: PointerEvent): void {
    const from = this.pointers.get(event.pointerId)
    if (!from) return
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1]
    const to = { x: event.clientX, y: event.clientY }
    this.pointers.set(event.pointerId, to)
    if (other) {
      const apart = (point: { x: number; y: number }): number => Math.hypot(point.x - other.x, point.y - other.y)
      this.zoomBy(apart(to) / Math.max(apart(from), 1), event)
      return
    }
    const zoom = this.zoom.value
    if (zoom === 1) return this.slide(event)
    const { width, height } = this.side(event)
    const { x, y } = this.at.value
    this.look(x - (to.x - from.x) / width / zoom, y - (to.y - from.y) / height / zoom, zoom)
  }

  private turn(event: WheelEvent): void {
    if (!event.ctrlKey && !event.metaKey && !document.fullscreenElement) return // the page scrolls
    event.preventDefault()
    this.zoomBy(Math.exp(-event.deltaY / 300), event)
  }
}
