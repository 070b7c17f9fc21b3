/** Wait so many seconds, and on until somebody sees this page. Whoever comes back to it waits no longer. */
export function pause(seconds: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, seconds * 1000)
    document.addEventListener("visibilitychange", done)
    function done(): void {
      if (document.hidden) return
      clearTimeout(timer)
      document.removeEventListener("visibilitychange", done)
      resolve()
    }
  })
}
