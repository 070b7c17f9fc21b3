/** A figure, and how it went: the newest to the right. `most` is the top of its scale, `room` how many values fit. */
interface Props {
  values: (number | null)[]
  most?: number
  room: number
  show: (value: number) => string
  label: string
}

export function Plot({ values, most, room, show, label }: Props) {
  const known = values.filter((value) => value !== null)
  const top = most || Math.max(...known, 1e-9) * 1.1
  const start = room - values.length
  const points = values.flatMap((value, index) =>
    value === null ? [] : [`${start + index},${(100 - (100 * Math.min(value, top)) / top).toFixed(2)}`],
  )
  const now = known.at(-1)
  const text = now === undefined ? "–" : show(now)
  const range = known.length > 1 ? `${show(Math.min(...known))} – ${show(Math.max(...known))}` : text
  return (
    <div class="plot">
      <output>{text}</output>
      <svg viewBox={`0 0 ${room - 1} 100`} preserveAspectRatio="none" role="img" aria-label={`${label}: ${range}`}>
        {points.length > 1 && (
          <>
            <path class="area" d={`M${start},100L${points.join("L")}L${room - 1},100Z`} />
            <path class="line" d={`M${points.join("L")}`} />
          </>
        )}
      </svg>
    </div>
  )
}
