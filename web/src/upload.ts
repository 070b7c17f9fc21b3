// Sends a file by tus 1.0, in pieces. Where the connection breaks it asks how much has arrived, and goes on from there, also
// after the page was closed and the same file is chosen again. See docs/uploads.md.
import { refusal, request, Unreachable } from "./api"
import { persist, type Persistence } from "./persist"

const PIECE_BYTES = 16 * 2 ** 20
const MOST_PIECES = 1500 // the service takes 2000, and broken ones count
const TUS = { "Tus-Resumable": "1.0.0" }

/** The file cannot be read any more. */
export class Unreadable extends Error {}

/** Uploads that are being sent: a file that was dropped twice is sent twice. */
const open = new Set<string>()

export interface Sending extends Persistence {
  onProgress(sent: number): void
}

/**
 * Sends `file` and returns the id of the upload, of which jobs can be made for a day. What is wrong with `options` is
 * refused before a byte of it is sent.
 */
export async function upload(file: File, options: Record<string, string>, sending: Sending): Promise<string> {
  const key = `upload ${file.name} ${file.size} ${file.lastModified}`
  const url = await persist(sending, async () => (await isThere(localStorage.getItem(key))) ?? begin(file, key, options, sending))
  open.add(url)
  try {
    await sendRest(file, url, sending)
  } finally {
    open.delete(url)
  }
  localStorage.removeItem(key)
  return url.split("/").at(-1) ?? ""
}

async function sendRest(file: File, url: string, sending: Sending): Promise<void> {
  let offset = await persist(sending, () => offsetOf(url, sending))
  while (offset < file.size) {
    offset = await persist(sending, async (again) => append(url, file, again ? await offsetOf(url, sending) : offset, sending))
  }
}

/** Removes an upload of which no job was made. */
export async function removeUpload(id: string): Promise<void> {
  await request("DELETE", `/uploads/${id}`, { headers: TUS })
}

async function begin(file: File, key: string, options: Record<string, string>, { signal }: Sending): Promise<string> {
  const headers = { ...TUS, "Upload-Length": String(file.size), "Upload-Metadata": `filename ${base64(file.name)}` }
  const response = await request("POST", `/uploads?${new URLSearchParams(options)}`, { headers, signal })
  const url = response.headers.get("Location") ?? ""
  localStorage.setItem(key, url)
  return url
}

/** `url` where the service still knows it, else null. */
async function isThere(url: string | null): Promise<string | null> {
  if (url === null || open.has(url)) return null
  const response = await fetch(url, { method: "HEAD", headers: TUS }).catch(() => null)
  if (response === null) throw new Unreachable()
  return response.ok ? url : null
}

async function offsetOf(url: string, { signal }: Sending): Promise<number> {
  const response = await request("HEAD", url, { headers: TUS, signal })
  return Number(response.headers.get("Upload-Offset"))
}

/** Sends the next piece, and returns the new offset. `fetch` tells of no progress, so this is an XMLHttpRequest. */
function append(url: string, file: File, offset: number, { signal, onProgress }: Sending): Promise<number> {
  const size = Math.max(PIECE_BYTES, Math.ceil(file.size / MOST_PIECES))
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest()
    const abort = () => call.abort()
    signal.addEventListener("abort", abort)
    call.open("PATCH", url)
    for (const [name, value] of Object.entries(TUS)) call.setRequestHeader(name, value)
    call.setRequestHeader("Content-Type", "application/offset+octet-stream")
    call.setRequestHeader("Upload-Offset", String(offset))
    call.upload.onprogress = (event) => onProgress(offset + event.loaded)
    call.onload = () => {
      if (call.status === 204) resolve(Number(call.getResponseHeader("Upload-Offset")))
      else reject(refusal(call.status, call.responseText, call.getResponseHeader("Retry-After")))
    }
    call.onerror = () => void file.slice(0, 1).arrayBuffer().then(() => reject(new Unreachable()), () => reject(new Unreadable()))
    call.onabort = () => reject(signal.reason)
    call.onloadend = () => signal.removeEventListener("abort", abort)
    call.send(file.slice(offset, offset + size))
  })
}

function base64(text: string): string {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)))
}
