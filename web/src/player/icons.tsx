/** Signs of the buttons, drawn on 20 x 20. */
const PATHS = {
  play: "M6 3.5v13l10.5-6.5z",
  pause: "M5 3.5h3.5v13H5zM11.5 3.5H15v13h-3.5z",
  back: "M13.5 3.5v13L5.5 10zM3.5 3.5H5v13H3.5z",
  on: "M6.5 3.5v13l8-6.5zM15 3.5h1.5v13H15z",
  loop: "M4 9a5 5 0 0 1 5-5h4V1.5L17 5l-4 3.5V6H9a3 3 0 0 0-3 3zM16 11a5 5 0 0 1-5 5H7v2.5L3 15l4-3.5V14h4a3 3 0 0 0 3-3z",
  sound: "M2 7.5h3.5L10 4v12l-4.5-3.5H2zM12 6.6c1.3.6 2.2 1.9 2.2 3.4s-.9 2.8-2.2 3.4zM12 3.4c3 .7 5.2 3.4 5.2 6.6s-2.2 5.9-5.2 6.6v-1.7a5 5 0 0 0 0-9.8z",
  silent: "M2 7.5h3.5L10 4v12l-4.5-3.5H2zM12 7.7l1.2-1.2 2 2 2-2 1.2 1.2-2 2 2 2-1.2 1.2-2-2-2 2-1.2-1.2 2-2z",
  full: "M3 3h5.5v2H5v3.5H3zM11.5 3H17v5.5h-2V5h-3.5zM3 11.5h2V15h3.5v2H3zM15 11.5h2V17h-5.5v-2H15z",
  closer: "M9 3h2v6h6v2h-6v6H9v-6H3V9h6z",
  farther: "M3 9h14v2H3z",
} as const

export function Icon({ of: name }: { of: keyof typeof PATHS }) {
  return (
    <svg viewBox="0 0 20 20" width="20" height="20" fill="currentColor" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  )
}
