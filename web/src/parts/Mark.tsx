/** The sign of the project: a frame that was made, between two of the source. */
export function Mark() {
  return (
    <svg class="sign" viewBox="0 0 20 20" width="20" height="20" aria-hidden="true">
      <rect x="1" y="2" width="4.5" height="16" rx="1.5" fill="currentColor" />
      <rect x="7.75" y="2" width="4.5" height="16" rx="1.5" class="made" />
      <rect x="14.5" y="2" width="4.5" height="16" rx="1.5" fill="currentColor" />
    </svg>
  )
}
