// What this browser keeps for a day, as long as the service keeps uploads: where uploads under way are, so that they go on
// after the page was closed, and which upload a job was made of. No key is kept here, and nothing once somebody signs out.
const PREFIX = "dain "
const DAY_MS = 24 * 60 * 60 * 1000

interface Entry {
  value: unknown
  until: number // in milliseconds since the epoch
}

export function keep(name: string, value: unknown): void {
  const entry: Entry = { value, until: Date.now() + DAY_MS }
  attempt(() => localStorage.setItem(PREFIX + name, JSON.stringify(entry)))
}

export function kept<T>(name: string): T | undefined {
  return read(PREFIX + name)?.value as T | undefined
}

export function drop(name: string): void {
  attempt(() => localStorage.removeItem(PREFIX + name))
}

export function dropAll(): void {
  for (const name of names()) attempt(() => localStorage.removeItem(name))
}

function names(): string[] {
  return attempt(() => Object.keys(localStorage).filter((name) => name.startsWith(PREFIX))) ?? []
}

/** An entry that holds still; one that does not is removed. */
function read(name: string): Entry | undefined {
  const entry = attempt(() => JSON.parse(localStorage.getItem(name) ?? "null") as Entry | null)
  if (entry && entry.until > Date.now()) return entry
  attempt(() => localStorage.removeItem(name))
  return undefined
}

/** A browser may have no storage, or none that is left; the page works without. */
function attempt<T>(act: () => T): T | undefined {
  try {
    return act()
  } catch {
    return undefined
  }
}

names().forEach(read)
