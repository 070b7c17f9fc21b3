import "./Meter.css"

/** How far something is, 0 to 1; null where nobody knows. */
export function Meter({ value, label }: { value: number | null; label: string }) {
  const percent = value === null ? undefined : Math.floor(value * 100)
  return (
    <div class="meter" role="progressbar" aria-label={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={percent}>
      <div class={value === null ? "unknown" : undefined} style={{ width: value === null ? "30%" : `${value * 100}%` }} />
    </div>
  )
}
