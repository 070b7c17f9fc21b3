// Copies frames of a playing video to a canvas beside the page's thread, which a copy of a 4K frame would stop for 100 ms
// where there is no GPU. Of frames that come faster than they are copied, the last is.
import type { Ordered } from "./copy"

export class Copier {
  private readonly worker = new Worker(new URL("./copy.ts", import.meta.url), { type: "module" })
  private next: VideoFrame | undefined
  private isBusy = false
  private isWanted = false // what is on its way
  private isBroken = false

  constructor(private readonly canvas: HTMLCanvasElement) {
    this.worker.addEventListener("message", ({ data }: MessageEvent<ImageBitmap>) => this.take(data))
    this.worker.addEventListener("error", () => (this.isBroken = true))
  }

  /** Copy the frame that the video shows; false where this browser cannot. */
  copy(video: HTMLVideoElement): boolean {
    if (this.isBroken || !("VideoFrame" in window)) return false
    this.next?.close()
    this.next = new VideoFrame(video)
    this.order()
    return true
  }

  /** Copy nothing of what was asked for. */
  stop(): void {
    this.next?.close()
    this.next = undefined
    this.isWanted = false
  }

  close(): void {
    this.stop()
    this.worker.terminate()
  }

  private order(): void {
    if (this.isBusy || !this.next) return
    const { width, height } = this.canvas
    const ordered: Ordered = { frame: this.next, width, height }
    this.worker.postMessage(ordered, [this.next])
    this.next = undefined
    this.isBusy = this.isWanted = true
  }

  private take(picture: ImageBitmap): void {
    const { canvas } = this
    if (this.isWanted) canvas.getContext("2d", { alpha: false })!.drawImage(picture, 0, 0, canvas.width, canvas.height)
    picture.close()
    this.isBusy = false
    this.order()
  }
}
