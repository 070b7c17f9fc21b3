// A result and its source side by side: one video, decoded once. Each source frame is drawn to "before", where it stays
// until the next. "After" is the video itself while it plays, which no script has to copy, and a picture of its frame while
// it stands still, so that the frames that are sought meanwhile are not seen.
import { computed, effect, signal } from "@preact/signals"
import { persistent } from "../persist"
import { Copier } from "./copier"
import type { Frames } from "./frames"

const LARGE = 1920 * 1080 // pixels; frames of more are copied beside the page's thread, and come later

export type State = "loading" | "ready" | "unplayable"

export class Player {
  readonly state = signal<State>("loading")
  /** Why the result does not come, where that is not the browser's fault. */
  readonly trouble = signal<unknown>(undefined)
  readonly playing = signal(false)
  readonly index = signal(0)
  readonly rate = signal(1)
  readonly loops = signal(true)
  readonly muted = signal(false)
  readonly onlyNew = signal(false)
  /** The frame at whose time "before" shows the source. */
  readonly source = computed(() => this.frames.source(this.index.value))

  private readonly video = document.createElement("video")
  private held = -1 // the frame that "before" shows
  private shown = -1 // the frame that "after" shows while it stands still
  private standing = -1 // the frame that the video stands at; -1: none that is known
  private wanted = -1 // the frame to be shown while it stands still; -1: none
  private isSeeking = false
  private readonly copier: Copier
  private readonly closed = new AbortController()
  private readonly undo: () => void

  constructor(
    private readonly url: string,
    readonly frames: Frames,
    private readonly before: HTMLCanvasElement,
    private readonly after: HTMLCanvasElement,
  ) {
    const { video } = this
    this.copier = new Copier(before)
    video.preload = "auto"
    video.playsInline = true
    video.addEventListener("loadeddata", () => this.begin())
    video.addEventListener("error", () => void this.recover())
    video.addEventListener("ended", () => (this.playing.value = false))
    video.addEventListener("pause", () => (this.playing.value = false))
    video.src = url
    video.ariaHidden = "true"
    video.hidden = true
    after.after(video)
    this.undo = effect(() => this.expose(this.playing.value && !this.onlyNew.value))
  }

  close(): void {
    this.closed.abort()
    this.undo()
    this.copier.close()
    this.video.remove()
    this.video.pause()
    this.video.removeAttribute("src")
    this.video.load()
  }

  get size(): [width: number, height: number] {
    return [this.video.videoWidth, this.video.videoHeight]
  }

  /** Play on, or stand still. From the end it plays from the start. */
  async toggle(): Promise<void> {
    const { video, frames } = this
    if (this.playing.value) return this.show(this.index.value)
    this.wanted = -1
    video.playbackRate = this.rate.value
    video.loop = this.loops.value
    video.muted = this.muted.value || this.rate.value !== 1
    if (this.index.value >= frames.count - 1) video.currentTime = 0
    this.playing.value = true
    this.shown = this.standing = -1
    try {
      await video.play()
      this.watch()
    } catch {
      this.playing.value = false
    }
  }

  /** Stand still one frame on, or back. */
  step(by: 1 | -1): Promise<void> {
    return this.show(this.frames.next(this.index.value, by, this.onlyNew.value))
  }

  /** Stand still at a frame. Of many that are asked for at once, the last is shown. */
  async show(index: number): Promise<void> {
    // What played left the frame that it stands at to the browser, which may have passed over the source frame, too.
    if (this.playing.value) this.held = this.shown = this.standing = -1
    this.playing.value = false // a frame that is still on its way is not drawn over this one
    this.copier.stop()
    this.video.pause()
    this.wanted = this.index.value = index
    if (this.isSeeking) return
    this.isSeeking = true
    while (this.wanted >= 0 && !this.isShown(this.wanted) && !this.video.error) {
      const goal = this.wanted
      const source = this.frames.source(goal)
      if (this.held !== source) {
        await this.seek(source)
        if (this.video.error) continue
        this.draw(this.before)
        this.held = source
      }
      await this.seek(goal)
      if (this.video.error) continue
      this.draw(this.after)
      this.shown = goal
    }
    this.isSeeking = false
  }

  setRate(rate: number): void {
    this.rate.value = this.video.playbackRate = rate
    this.video.muted = this.muted.value || rate !== 1
  }

  setLoops(loops: boolean): void {
    this.loops.value = this.video.loop = loops
  }

  setMuted(muted: boolean): void {
    this.muted.value = muted
    this.video.muted = muted || this.rate.value !== 1
  }

  /** Give both pictures as many pixels as they are shown with, never more than the video has. */
  async resize(width: number): Promise<void> {
    const [most, high] = this.size
    const columns = Math.min(most, Math.ceil(width))
    if (!columns || columns === this.after.width) return
    for (const canvas of [this.before, this.after]) resample(canvas, columns, Math.round((columns * high) / most))
    if (this.playing.value) return
    this.held = this.shown = -1
    await this.show(this.index.value)
  }

  private isShown(index: number): boolean {
    return this.shown === index && this.held === this.frames.source(index)
  }

  private begin(): void {
    // A browser that knows the sound and not the picture plays sound alone.
    this.state.value = this.video.videoWidth ? "ready" : "unplayable"
    void this.show(this.index.value)
  }

  /** Load the result again once the service has it; only what came and cannot be decoded is the browser's fault. */
  private async recover(): Promise<void> {
    const { video, trouble, closed } = this
    let isBroken = video.error?.code === MediaError.MEDIA_ERR_NETWORK
    this.playing.value = false
    try {
      const service = persistent((error) => {
        isBroken = true
        trouble.value = error
      })
      await service.request("GET", this.url, { headers: { Range: "bytes=0-0" }, signal: closed.signal, cache: "no-store" })
      trouble.value = undefined
      if (!isBroken) this.state.value = "unplayable"
      else {
        this.state.value = "loading"
        this.held = this.shown = this.standing = -1
        video.src = this.url
      }
    } catch (error) {
      if (!closed.signal.aborted) trouble.value = error
    }
  }

  /** Have the video itself be seen, or a picture of its frame. */
  private expose(isSeen: boolean): void {
    if (!isSeen && !this.video.hidden) this.draw(this.after)
    this.video.hidden = !isSeen
  }

  /** Follow the frames that the video shows from now on. */
  private watch(): void {
    const callback = (_: number, { mediaTime }: { mediaTime: number }): void => {
      if (!this.playing.value) return
      this.drawPlaying(this.frames.at(mediaTime))
      this.video.requestVideoFrameCallback(callback)
    }
    this.video.requestVideoFrameCallback(callback)
  }

  private drawPlaying(index: number): void {
    const { frames } = this
    const source = frames.source(index)
    if (this.onlyNew.value && frames.isNew(index)) this.draw(this.after)
    if (source !== this.held) {
      const [width, height] = this.size
      if (width * height <= LARGE || !this.copier.copy(this.video)) this.draw(this.before)
      this.held = source
    }
    this.index.value = index
  }

  private draw(canvas: HTMLCanvasElement): void {
    canvas.getContext("2d", { alpha: false })!.drawImage(this.video, 0, 0, canvas.width, canvas.height)
  }

  /** Have the video show a frame. */
  private async seek(index: number): Promise<void> {
    if (this.standing === index) return
    await new Promise<void>((resolve) => {
      for (const event of ["seeked", "error"]) this.video.addEventListener(event, () => resolve(), { once: true })
      this.video.currentTime = this.frames.middle(index)
    })
    this.standing = index
  }
}

/** Give a canvas another size, and what was on it. */
function resample(canvas: HTMLCanvasElement, width: number, height: number): void {
  const old = canvas.cloneNode() as HTMLCanvasElement
  old.getContext("2d")!.drawImage(canvas, 0, 0)
  canvas.width = width
  canvas.height = height
  canvas.getContext("2d", { alpha: false })!.drawImage(old, 0, 0, width, height)
}
