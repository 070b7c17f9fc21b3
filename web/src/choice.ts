// What is to become of the clips: a purpose, and any further options of the API.
import { computed, signal } from "@preact/signals"
import { persistent } from "./persist"
import type { Fields } from "./service"
import type { Job } from "./types"

export type Purpose = "smooth" | "rate" | "slow" | "anime"
export const PURPOSES: Purpose[] = ["smooth", "rate", "slow", "anime"]
export const SMOOTH_RATE = "60"

/** null: what a job was made with that no purpose stands for; see `given`. */
export const purpose = signal<Purpose | null>("smooth")
export const given = signal<Fields>({})
export const rate = signal("120")
export const slower = signal(4) // times
export const stretched = signal(false) // the sound of slow motion
/** Whether what was chosen is that of a job with marks of what stands still, which stay with the job. */
export const unmarked = signal(false)
/** The options that were set by hand; they stand above those of the purpose. */
export const extra = signal<Fields>({})

/** The options of the purpose. */
const implied = computed((): Fields => {
  switch (purpose.value) {
    case "smooth":
      return { target_fps: SMOOTH_RATE }
    case "rate":
      return { target_fps: rate.value }
    case "slow":
      return { speed: `1/${slower.value}`, ...(stretched.value && { audio: "stretch" }) }
    case "anime":
      return { target_fps: SMOOTH_RATE, dedup: "retime" }
    case null:
      return given.value
  }
})

/** All options as they are sent. */
export const options = computed((): Fields => ({ ...implied.value, ...extra.value }))

export function setExtra(name: string, value: string): void {
  const { [name]: _, ...others } = extra.value
  extra.value = value === "" ? others : { ...others, [name]: value }
}

/** Chooses what `job` was made with. */
export async function choose(job: Job, onBreak: (error: unknown) => void): Promise<void> {
  await readOptions(onBreak)
  const { factor, target_fps, speed, dedup, audio, ...others } = job.options
  const slow = speed === null || speed === undefined ? NaN : 1 / fraction(String(speed))
  const { reference, priority, metadata, webhook_url } = job
  const kept: Record<string, unknown> = { ...others, reference, priority, webhook_url }
  if (Object.keys(metadata).length) kept.metadata = JSON.stringify(metadata)
  if (webhook_url) kept.webhook_events = job.webhook_events.join(",")
  stretched.value = false
  unmarked.value = Boolean(job.options.mask)
  if (Number.isInteger(slow) && slow >= 2 && slow <= 8 && !target_fps) {
    purpose.value = "slow"
    slower.value = slow
    stretched.value = audio === "stretch"
  } else if (target_fps && !speed) {
    purpose.value = dedup === "retime" && target_fps === SMOOTH_RATE ? "anime" : target_fps === SMOOTH_RATE ? "smooth" : "rate"
    if (purpose.value === "rate") rate.value = String(target_fps)
    Object.assign(kept, { audio }, purpose.value === "anime" ? {} : { dedup })
  } else {
    purpose.value = null
    given.value = written({ factor, target_fps, speed })
    Object.assign(kept, { dedup, audio })
  }
  const isShown = new Set(found.value.map(({ name }) => name).filter((name) => !HIDDEN.includes(name)))
  extra.value = Object.fromEntries(
    Object.entries(written(kept)).filter(([name, value]) => isShown.has(name) && value !== defaults.value[name]),
  )
}

/** Options as they are sent; those that are null are left out. */
function written(options: Record<string, unknown>): Fields {
  return Object.fromEntries(
    Object.entries(options).flatMap(([name, value]) => (value === null || value === undefined ? [] : [[name, String(value)]])),
  )
}

export function fraction(text: string): number {
  const [over = NaN, under = 1] = text.split("/").map(Number)
  return over / under
}

// The options that there are, from the service's own description.

export interface Option {
  name: string
  description: string
  type?: string
  enum?: string[]
  examples?: string[]
  minimum?: number
  maximum?: number
}

/** In which order options are shown, and under which headings. What is in none of them comes last. */
const GROUPS = {
  picture: ["model", "quality", "container", "codec", "preset", "pixel_format", "max_bitrate"],
  piece: ["start", "duration", "loop"],
  sound: ["audio"],
  look: ["enhance", "grain", "background"],
  source: ["dedup", "deinterlace", "scene_threshold", "source_fps", "video_stream"],
  job: ["priority", "reference", "metadata", "webhook_url", "webhook_events", "strict"],
}
export type Group = keyof typeof GROUPS | "more"

/** Asked for elsewhere on the page. */
const HIDDEN = ["file", "mask", "source_url", "factor", "target_fps", "speed"]

const found = signal<Option[]>([])
/** Descriptions end with the default, as in "…. 18 unless given." */
const DEFAULT = /\. (\S+) unless given\.$/
const defaults = computed((): Fields =>
  Object.fromEntries(found.value.map(({ name, description }) => [name, DEFAULT.exec(description)?.[1]?.toLowerCase() ?? ""])),
)

export const groups = computed((): [Group, Option[]][] => {
  const left = found.value.filter(({ name }) => !HIDDEN.includes(name))
  const named = Object.entries(GROUPS).map(([group, names]): [Group, Option[]] => [
    group as Group,
    names.flatMap((name) => left.filter((option) => option.name === name)),
  ])
  const more = left.filter(({ name }) => !Object.values(GROUPS).flat().includes(name))
  return [...named, ["more", more] as [Group, Option[]]].filter(([, options]) => options.length)
})

export function meaning({ description }: Option): string {
  return description.replace(DEFAULT, ".")
}

export function defaultOf(name: string): string {
  return defaults.value[name] ?? ""
}

/** Reads which options there are, as soon as the service answers; `onBreak` is told why it does not yet. */
export async function readOptions(onBreak: (error: unknown) => void = () => undefined): Promise<void> {
  if (found.value.length) return
  const answer = await persistent(onBreak).request("GET", "/openapi.json")
  const description = (await answer.json()) as {
    components: { schemas: { Submission: { properties: Record<string, Omit<Option, "name">> } } }
  }
  found.value = Object.entries(description.components.schemas.Submission.properties).map(([name, option]) => ({ name, ...option }))
}
