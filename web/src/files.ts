// The videos among the files that were dropped or chosen, those in folders included.

const VIDEO = /\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|m2?ts|mxf|wmv|flv|ogv|3gp|gif|webp|apng|png|zip|y4m|h26[45]|hevc|264|265|vob|asf|f4v|dv)$/i

/** The files of a choice. Of a folder those that look like videos; what was chosen by itself is taken as it is. */
export function filesIn(list: Iterable<File>): File[] {
  return [...list].filter((file) => !file.webkitRelativePath || looksLikeVideo(file))
}

function looksLikeVideo(file: File): boolean {
  return !file.name.startsWith(".") && (file.type.startsWith("video/") || VIDEO.test(file.name))
}

/** Lets the whole window take what is dropped. */
export function takeDrops(take: (files: File[]) => void): void {
  const body = document.body
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return
    event.preventDefault()
    body.classList.add("over")
  })
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) body.classList.remove("over")
  })
  addEventListener("drop", (event) => {
    if (!event.dataTransfer?.files.length) return
    event.preventDefault()
    body.classList.remove("over")
    void dropped(event.dataTransfer).then(take)
  })
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) take([...event.clipboardData.files])
  })
}

async function dropped(data: DataTransfer): Promise<File[]> {
  // The entries are gone once the event is over, so all are taken before anything is awaited.
  const entries = [...data.items].map((item) => item.webkitGetAsEntry() ?? item.getAsFile()).filter((entry) => entry !== null)
  const found = await Promise.all(entries.map((entry) => (entry instanceof File ? [entry] : within(entry, true))))
  return found.flat()
}

async function within(entry: FileSystemEntry, itself: boolean): Promise<File[]> {
  if (entry instanceof FileSystemFileEntry) {
    const file = await new Promise<File>((resolve, reject) => entry.file(resolve, reject))
    return itself || looksLikeVideo(file) ? [file] : []
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader()
  const found: File[] = []
  for (;;) {
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject))
    if (!entries.length) return found
    for (const inner of entries) found.push(...(await within(inner, false)))
  }
}
