// Which frames of a result are the source's and which are new, and when each is shown.
import { fraction } from "../choice"
import type { Finished } from "./job"

/** What GET /jobs/{id}/result/frames answers. */
export interface Told {
  frames: string
  start: number
  rate: number | null
  times: number[] | null
}

/** A source frame comes where one of these stands. */
const COMES = "sN"

export class Frames {
  /** For each frame, the one with which the source frame came that is due then. */
  private readonly sources: Int32Array

  constructor(private readonly told: Told) {
    this.sources = new Int32Array(told.frames.length)
    let source = 0
    for (let index = 0; index < told.frames.length; index++) {
      if (COMES.includes(told.frames[index]!)) source = index
      this.sources[index] = source
    }
  }

  /** What can be known without being told, as of a result of an earlier release: where the rates put source frames. */
  static guess(job: Finished): Frames {
    const rate = fraction(job.output!.frame_rate)
    const slowed = job.options.speed ? fraction(job.options.speed) : 1
    const step = rate / (fraction(job.input.average_rate ?? job.output!.frame_rate) * slowed) // frames from one source frame to the next
    let letters = ""
    let last = -1
    for (let index = 0; index < job.output!.frames; index++) {
      const due = Math.floor(index / step + 0.02)
      letters += due === last ? "n" : Math.abs(index - due * step) < 0.02 * step ? "s" : "N"
      last = due
    }
    return new Frames({ frames: letters, start: 0, rate, times: null })
  }

  get count(): number {
    return this.told.frames.length
  }

  /** When a frame is shown, in seconds. */
  time(index: number): number {
    const { start, rate, times } = this.told
    return times ? times[Math.min(index, times.length - 1)]! : start + index / rate!
  }

  /** A moment at which a frame is shown for certain. */
  middle(index: number): number {
    const time = this.time(index)
    const next = index + 1 < this.count ? this.time(index + 1) : time + (this.told.rate ? 1 / this.told.rate : 0.01)
    return (time + next) / 2
  }

  /** The frame that is shown at a time of the video; a clock that counts in milliseconds may be early by half of one. */
  at(time: number): number {
    const { start, rate, times } = this.told
    if (!times) return this.clamp(Math.floor((time - start) * rate! + 0.25))
    let low = 0
    let high = times.length - 1
    while (low < high) {
      const half = (low + high + 1) >> 1
      if (times[half]! <= time + 0.001) low = half
      else high = half - 1
    }
    return low
  }

  /** The frame with which the source frame came that is due at `index`. */
  source(index: number): number {
    return this.sources[index]!
  }

  isNew(index: number): boolean {
    return "nN".includes(this.told.frames[index]!)
  }

  /** The frame that is one step on from `index`, or back; of new ones alone where these are wanted. */
  next(index: number, step: 1 | -1, onlyNew = false): number {
    let found = index + step
    while (onlyNew && found > 0 && found < this.count - 1 && !this.isNew(found)) found += step
    return found < 0 || found >= this.count || (onlyNew && !this.isNew(found)) ? index : found
  }

  private clamp(index: number): number {
    return Math.max(0, Math.min(index, this.count - 1))
  }
}
