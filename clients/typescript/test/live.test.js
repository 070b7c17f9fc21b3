// Against the service at DAIN_URL. tests/clients/test_typescript.py starts one, and ends its jobs by their reference.

import assert from "node:assert/strict"
import { openAsBlob } from "node:fs"
import { readFile } from "node:fs/promises"
import { test } from "node:test"

import { Client, Gone, InvalidRequest, JobCancelled, JobFailed, NotFound, TimedOut, Unreachable } from "dain-client"

const { DAIN_URL: baseUrl, CUTTING_UP: up, CUTTING_DOWN: down, CLIP: clip, RESULT: result, TOKEN: token } = process.env
const live = { skip: baseUrl ? false : "DAIN_URL names no service" }
const client = new Client({ baseUrl, token })

test("from upload to download", live, async () => {
  const seen = []
  const estimate = await client.estimate(await openAsBlob(clip), { target_fps: "60" })
  assert.equal(estimate.frames, 30)
  const submitted = await client.submit(await openAsBlob(clip), { target_fps: "60", metadata: { user: "42" }, reference: "good" }, {
    filename: "clip.mp4",
    onProgress: (bytes, total) => seen.push([bytes, total]),
  })
  assert.equal(submitted.filename, "clip.mp4")
  assert.equal(submitted.options.target_fps, "60")
  assert.ok(seen.length && seen.at(-1)[0] === seen.at(-1)[1])
  const states = []
  const job = await client.wait(submitted.id, { onProgress: (each) => states.push(each.status), intervalMs: 10 })
  assert.equal(job.status, "succeeded")
  assert.equal(states.at(-1), "succeeded")
  assert.equal((await client.jobs({ metadata: { user: "42" } })).length, 1)
  const file = await client.download(job.id)
  assert.equal(file.type, "video/mp4")
  assert.deepEqual(Buffer.from(await file.arrayBuffer()), await readFile(result))
  const types = []
  for await (const event of client.events(job.id)) types.push(event.type)
  assert.deepEqual(types, ["job"])
  await client.delete(job.id)
  await assert.rejects(client.job(job.id), NotFound)
})

test("a broken connection costs one piece, up and down", live, async () => {
  const large = new Blob([await readFile(clip), new Uint8Array(9 * 2 ** 20)]) // an MP4 may have bytes behind it
  const retries = []
  const over = (url) => new Client({ baseUrl: url, token, patienceMs: 9000, onRetry: (error) => retries.push(error.name) })
  const sent = []
  const job = await over(up).submit(large, { reference: "good" }, { onProgress: (bytes) => sent.push(bytes) })
  assert.deepEqual([sent[0], sent.at(-1)], [0, large.size])
  assert.ok(sent.length > 3 && sent.every((bytes, n) => !n || bytes >= sent[n - 1]), String(sent))
  assert.ok(retries.length >= 2, "a piece was cut, and an answer")
  await client.wait(job.id)
  assert.deepEqual(Buffer.from(await (await over(down).download(job.id)).arrayBuffer()), await readFile(result))
  assert.ok(retries.length >= 3 && retries.every((name) => name === "Unreachable"), String(retries))
})

test("a wrong option is refused before a byte is sent", live, async () => {
  const sent = []
  const large = new Blob([new Uint8Array(9 * 2 ** 20)])
  const onProgress = (bytes) => sent.push(bytes)
  await assert.rejects(client.submit(large, { factor: 99 }, { onProgress }), InvalidRequest)
  await assert.rejects(client.upload(large, { options: { factor: 99 }, onProgress }), /factor was '99'/)
  assert.deepEqual(sent, [])
})

test("an upload goes on after the page was loaded anew", live, async () => {
  const kept = new Map()
  const resume = { get: (key) => kept.get(key), set: (key, url) => kept.set(key, url), remove: (key) => kept.delete(key) }
  const file = new File([await readFile(clip), new Uint8Array(9 * 2 ** 20)], "large.mp4", { lastModified: 1 })
  const closed = new AbortController()
  const onProgress = (bytes) => bytes && closed.abort(new Error("closed"))
  await assert.rejects(client.submit(file, {}, { resume, onProgress, signal: closed.signal }), /closed/)
  const sent = []
  const job = await client.submit(file, {}, { resume, onProgress: (bytes) => sent.push(bytes) })
  assert.ok(sent[0] > 0, "what had arrived was not sent again")
  assert.equal(job.filename, "large.mp4")
  assert.equal(kept.size, 0)
  await client.delete(job.id)
})

test("errors say what became of a job", live, async () => {
  const video = await openAsBlob(clip)
  await assert.rejects(client.submit(video, { factor: 99 }), (error) => error instanceof InvalidRequest && error.slug === "invalid-option")
  const failing = await client.submit(video, { reference: "bad" })
  await assert.rejects(client.wait(failing.id), (error) => error instanceof JobFailed && error.job.id === failing.id && /breaks off/.test(error.message))
  const waiting = await client.submit(video)
  await assert.rejects(client.wait(waiting.id, { timeoutMs: 20 }), TimedOut)
  for (let time = 0; time < 2; time++) assert.equal((await client.cancel(waiting.id)).status, "cancelled")
  await assert.rejects(client.download(waiting.id), (error) => error instanceof JobCancelled || error instanceof Gone)
})

test("one key makes one job", live, async () => {
  const video = await openAsBlob(clip)
  const [one, two] = [await client.submit(video, {}, { idempotencyKey: "k" }), await client.submit(video, {}, { idempotencyKey: "k" })]
  assert.equal(one.id, two.id)
})

test("nothing that listens is said at once", live, async () => {
  const onRetry = () => assert.fail("it waited")
  await assert.rejects(new Client({ baseUrl: "http://127.0.0.1:9", onRetry }).jobs(), Unreachable)
})
