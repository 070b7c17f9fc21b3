// Routes are hashes, such as #/jobs/ID: the API has the paths.
import { computed, signal } from "@preact/signals"

const hash = signal(location.hash)
addEventListener("hashchange", () => {
  hash.value = location.hash
  scrollTo(0, 0)
  document.getElementById("content")?.focus({ preventScroll: true }) // a new view is read from its beginning
})

/** The parts of the address: `#/jobs/ID` is ["jobs", "ID"], the start is []. */
export const route = computed(() => hash.value.replace(/^#\/?/, "").split("/").filter(Boolean))

export function go(path: string): void {
  location.hash = path
}
