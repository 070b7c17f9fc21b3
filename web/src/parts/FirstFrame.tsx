// The first frame of a clip: by the browser, of the file itself; else by the service, which has looked into it.
import { useSignal } from "@preact/signals"
import { useEffect, useRef } from "preact/hooks"

const WIDTH = 320
const SECONDS = 10 // for which a browser may try

interface Props {
  file?: File
  estimate?: { picture: string | null }
}

export function FirstFrame({ file, estimate }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null)
  const isDrawn = useSignal(false)
  useEffect(() => {
    const gone = new AbortController()
    isDrawn.value = false
    if (file) void drawFirst(file, canvas.current!, gone.signal, WIDTH).then((done) => (isDrawn.value = done))
    return () => gone.abort()
  }, [file])
  return (
    <div class="first">
      <canvas ref={canvas} aria-hidden="true" hidden={!isDrawn.value} />
      {!isDrawn.value && estimate?.picture && <img src={`data:image/jpeg;base64,${estimate.picture}`} alt="" />}
    </div>
  )
}

let last: Promise<unknown> = Promise.resolve()

/** Draws the first frame of a file; false where the browser cannot show it. A folder of clips has one decoder, in turn. */
export function drawFirst(file: File, canvas: HTMLCanvasElement, signal: AbortSignal, width: number): Promise<boolean> {
  const act = (): Promise<boolean> => draw(file, canvas, signal, width)
  const drawn = last.then(act, act)
  last = drawn
  return drawn
}

async function draw(file: File, canvas: HTMLCanvasElement, signal: AbortSignal, width: number): Promise<boolean> {
  if (signal.aborted) return false
  const video = document.createElement("video")
  const url = URL.createObjectURL(file)
  try {
    video.muted = true
    video.preload = "auto"
    const ready = new Promise<boolean>((resolve) => {
      video.addEventListener("loadeddata", () => resolve(video.videoWidth > 0), { once: true })
      for (const event of ["error", "abort"]) video.addEventListener(event, () => resolve(false), { once: true })
      signal.addEventListener("abort", () => resolve(false), { once: true })
      setTimeout(() => resolve(false), SECONDS * 1000)
    })
    video.src = url
    if (!(await ready) || signal.aborted) return false
    canvas.width = width
    canvas.height = Math.round((width * video.videoHeight) / video.videoWidth)
    canvas.getContext("2d")!.drawImage(video, 0, 0, canvas.width, canvas.height)
    return true
  } finally {
    video.removeAttribute("src")
    video.load()
    URL.revokeObjectURL(url)
  }
}
