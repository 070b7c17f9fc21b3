// Figures as people read them, in the page's language.
import { fraction } from "./choice"
import { language, number, t } from "./languages"
import type { Estimate, Facts } from "./types"

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"]

export function bytes(count: number): string {
  const power = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), UNITS.length - 1)
  const value = count / 1000 ** power
  return new Intl.NumberFormat(language, {
    style: "unit",
    unit: UNITS[power],
    unitDisplay: power ? "short" : "long", // English has "6 byte" for short
    maximumFractionDigits: value < 10 && power ? 1 : 0,
  }).format(value)
}

/** A length in a film: 0:04, 1:32:07; below ten seconds with tenths, 4.2 s. */
export function clock(seconds: number): string {
  if (seconds < 10) return t("time.seconds", { n: number(seconds, 1) })
  const whole = Math.round(seconds)
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
  const shown = parts[0] ? parts : parts.slice(1)
  return shown.map((part, index) => (index ? String(part).padStart(2, "0") : String(part))).join(":")
}

/** A time to wait, roughly: a few seconds, 3 min, 2 h 10 min. */
export function span(seconds: number): string {
  if (seconds < 5) return t("time.moment")
  if (seconds < 90) return t("time.seconds", { n: Math.round(seconds) })
  const minutes = Math.round(seconds / 60)
  if (minutes < 60) return t("time.minutes", { n: minutes })
  return t("time.hours", { h: Math.floor(minutes / 60), m: minutes % 60 })
}

/** How long ago, such as "5 minutes ago". */
export function ago(at: number): string {
  const seconds = at - Date.now() / 1000
  const format = new Intl.RelativeTimeFormat(language, { numeric: "auto" })
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]] as const) {
    if (Math.abs(seconds) >= size) return format.format(Math.trunc(seconds / size), unit)
  }
  return format.format(0, "minute")
}

export function rateOf(text: string | undefined): string | undefined {
  const value = fraction(text ?? "")
  return value > 0 ? t("facts.fps", { n: number(value, 3) }) : undefined
}

/** What a video is: its size, rate, length. */
export function facts({ width, height, rotation, average_rate, duration }: Facts): string[] {
  const size = rotation && rotation % 180 ? [height, width] : [width, height]
  const seconds = fraction(duration ?? "")
  return [
    width && height ? size.join(" × ") : undefined,
    rateOf(average_rate),
    seconds > 0 ? clock(seconds) : undefined,
  ].filter((text) => text !== undefined)
}

/** What it becomes with these options: its rate and length. */
export function becomes({ input, frames }: Estimate, options: Record<string, string>): string[] {
  const source = fraction(input.average_rate ?? "")
  const { target_fps, speed, factor } = options
  const rate = target_fps ? fraction(target_fps) : speed ? source : source * Number(factor ?? 2)
  return [rateOf(String(rate)), rate > 0 ? clock(frames / rate) : undefined].filter((text) => text !== undefined)
}
