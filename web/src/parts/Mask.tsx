// What stands still in a clip, such as a logo: painted over its first frame, or a picture that is white there.
import { useSignal } from "@preact/signals"
import { useEffect, useRef } from "preact/hooks"
import { clips, isOpen, type Clip } from "../clips"
import { t, type Key } from "../languages"
import { drawFirst } from "./FirstFrame"
import "./Mask.css"

const WIDTH = 960 // of what is painted; the service scales it to the video's size
const MOST_BYTES = 512 * 2 ** 10 // of a mask, as the service takes it
const COLOUR = "#ff7a3c" // of paint, on any picture

export function Mask({ clip }: { clip: Clip }) {
  const wasOpened = useSignal(false)
  return (
    <details class="mask" onToggle={() => (wasOpened.value = true)}>
      <summary>
        {t("mask.title")} {clip.mask.value && <span class="count">{t("mask.set")}</span>}
      </summary>
      {wasOpened.value && <Painting clip={clip} />}
    </details>
  )
}

function Painting({ clip }: { clip: Clip }) {
  const frame = useRef<HTMLCanvasElement>(null)
  const marks = useRef<HTMLCanvasElement>(null)
  const isThere = useSignal(false)
  const wrong = useSignal<Key | undefined>(undefined)
  const breadth = useSignal(4) // of the brush, in percent of the width
  const erases = useSignal(false)
  const own = useRef<Blob | undefined>() // of what is on this canvas
  const picture = clip.estimate.value?.picture
  const others = clips.value.filter((other) => other !== clip && isOpen(other))

  useEffect(() => {
    const gone = new AbortController()
    void drawFrame(clip.file, picture, frame.current!, gone.signal).then((done) => (isThere.value ||= done))
    return () => gone.abort()
  }, [clip.file, picture])
  useEffect(() => {
    if (isThere.value && clip.mask.value !== own.current) void take(clip.mask.value) // of before, or of another clip
  }, [isThere.value, clip.mask.value])

  function keep(): Promise<void> {
    wrong.value = undefined
    const kept: Promise<void> = maskOf(marks.current!).then((mask) => {
      if (clip.marking === kept) clip.mask.value = own.current = mask // else something was painted since
    })
    return (clip.marking = kept)
  }

  async function take(mask?: Blob): Promise<void> {
    own.current = mask
    if (mask) show(marks.current!, frame.current!, await createImageBitmap(mask))
  }

  async function choose(event: Event): Promise<void> {
    const input = event.currentTarget as HTMLInputElement
    const [file] = input.files ?? []
    if (!file) return
    input.value = ""
    try {
      show(marks.current!, frame.current!, await createImageBitmap(file))
      await keep()
      if (!clip.mask.value) wrong.value = "mask.no-white"
    } catch {
      wrong.value = "mask.no-picture"
    }
  }

  function clear(): void {
    marks.current!.width = frame.current!.width // a new size is a new canvas
    void keep()
  }

  /** One stroke, from where the pointer goes down until it is up. */
  function stroke(event: PointerEvent): void {
    if (event.button !== 0) return
    const canvas = marks.current!
    if (!own.current) [canvas.width, canvas.height] = [frame.current!.width, frame.current!.height]
    const pen = canvas.getContext("2d")!
    const { left, top, width, height } = canvas.getBoundingClientRect()
    pen.globalCompositeOperation = erases.value ? "destination-out" : "source-over"
    pen.strokeStyle = COLOUR
    pen.lineCap = pen.lineJoin = "round"
    pen.lineWidth = (breadth.value / 100) * canvas.width
    pen.beginPath()
    const draw = ({ clientX, clientY }: { clientX: number; clientY: number }): void => {
      pen.lineTo(((clientX - left) / width) * canvas.width, ((clientY - top) / height) * canvas.height)
      pen.stroke()
    }
    const stroke = new AbortController()
    const end = (): void => {
      stroke.abort()
      void keep()
    }
    draw(event)
    draw({ clientX: event.clientX + 0.1, clientY: event.clientY }) // a dot, where nothing moves: a line without length is none
    canvas.setPointerCapture(event.pointerId)
    canvas.addEventListener("pointermove", draw, stroke)
    canvas.addEventListener("pointerup", end, stroke)
    canvas.addEventListener("pointercancel", end, stroke)
  }

  return (
    <div class="painting">
      <p class="soft">{t("mask.why")}</p>
      <div class="paper" hidden={!isThere.value}>
        <canvas ref={frame} aria-hidden="true" />
        <canvas ref={marks} class="marks" role="img" aria-label={t("mask.paper")} onPointerDown={stroke} />
      </div>
      {!isThere.value && <p class="soft">{t("mask.no-frame")}</p>}
      <div class="mask-tools">
        <label class="brush">
          {t("mask.brush")}
          <input
            type="range"
            min={1}
            max={16}
            step={0.5}
            value={breadth}
            onInput={(event) => (breadth.value = event.currentTarget.valueAsNumber)}
          />
        </label>
        <label class="check">
          <input type="checkbox" checked={erases.value} onChange={(event) => (erases.value = event.currentTarget.checked)} />
          {t("mask.erase")}
        </label>
        <button class="plain" disabled={!clip.mask.value} onClick={clear}>
          {t("mask.clear")}
        </button>
        <label class="button quiet">
          <input class="unseen" type="file" accept="image/*" onChange={(event) => void choose(event)} />
          {t("mask.picture")}
        </label>
        {clip.mask.value && others.length > 0 && (
          <button class="plain" onClick={() => others.forEach((other) => (other.mask.value = clip.mask.value))}>
            {t("mask.all", { n: others.length })}
          </button>
        )}
      </div>
      {wrong.value && (
        <p class="trouble" role="alert">
          {t(wrong.value)}
        </p>
      )}
    </div>
  )
}

/** Draws the first frame, by the browser or as the service drew it; false where there is none yet. */
async function drawFrame(
  file: File | undefined, picture: string | null | undefined, frame: HTMLCanvasElement, signal: AbortSignal,
): Promise<boolean> {
  if (file && (await drawFirst(file, frame, signal, WIDTH))) return true
  if (!picture || signal.aborted) return false
  const bytes = Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0))
  const shown = await createImageBitmap(new Blob([bytes]))
  frame.width = shown.width
  frame.height = shown.height
  frame.getContext("2d")!.drawImage(shown, 0, 0)
  return true
}

/** Marks what is white in a picture: white is whole, grey a part of it, what is black or transparent nothing. */
function show(canvas: HTMLCanvasElement, { width, height }: HTMLCanvasElement, picture: ImageBitmap): void {
  canvas.width = width
  canvas.height = height
  const pen = canvas.getContext("2d")!
  pen.drawImage(picture, 0, 0, width, height)
  const image = pen.getImageData(0, 0, width, height)
  const { data } = image
  for (let at = 0; at < data.length; at += 4) {
    const light = 0.299 * data[at]! + 0.587 * data[at + 1]! + 0.114 * data[at + 2]!
    data[at + 3] = (data[at + 3]! * light) / 255
  }
  pen.putImageData(image, 0, 0)
  fill(pen, COLOUR)
}

/** The marks as the service takes them, white in a PNG; undefined where nothing is marked. */
async function maskOf(marks: HTMLCanvasElement): Promise<Blob | undefined> {
  const isMarked = (value: number, at: number): boolean => at % 4 === 3 && value > 0
  if (!marks.getContext("2d")!.getImageData(0, 0, marks.width, marks.height).data.some(isMarked)) return undefined
  for (let shrunk = 1; ; shrunk *= 2) {
    const copy = new OffscreenCanvas(Math.ceil(marks.width / shrunk), Math.ceil(marks.height / shrunk))
    const pen = copy.getContext("2d")!
    pen.drawImage(marks, 0, 0, copy.width, copy.height)
    fill(pen, "#fff")
    const mask = await copy.convertToBlob()
    if (mask.size <= MOST_BYTES) return mask // paint is small; a picture that was taken may be grain
  }
}

/** Gives all that is drawn one colour. */
function fill(pen: CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D, colour: string): void {
  pen.globalCompositeOperation = "source-in"
  pen.fillStyle = colour
  pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height)
}
