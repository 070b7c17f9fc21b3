// Makes a video smoother: node submit.mjs IN.mp4 OUT.mp4
// DAIN_URL is the service; DAIN_TOKEN the token of your key, where it has keys.

import { createWriteStream, openAsBlob } from "node:fs"
import { pipeline } from "node:stream/promises"

import { Client, ClientError } from "dain-client"

const [source, target] = process.argv.slice(2)
const client = new Client({ baseUrl: process.env.DAIN_URL ?? "http://127.0.0.1:8000", token: process.env.DAIN_TOKEN })
try {
  const job = await client.submit(await openAsBlob(source), { target_fps: "60" }, { filename: source })
  await client.wait(job.id, { onProgress: ({ status, progress }) => console.log(status, progress.fraction) })
  await pipeline(client.result(job.id), createWriteStream(target))
} catch (error) {
  if (!(error instanceof ClientError)) throw error
  console.error(`${error.name}: ${error.message}`) // JobFailed, VideoRefused, QueueFull, Unreachable, …
  process.exitCode = 1
}
