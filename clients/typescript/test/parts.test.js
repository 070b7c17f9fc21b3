// What needs no service.

import assert from "node:assert/strict"
import { test } from "node:test"
import { inspect } from "node:util"

import { Busy, Client, ClientError, JobFailed, NotFound, QuotaExceeded, Unreachable } from "dain-client"

import { refusal } from "../dist/errors.js"
import { EventReader } from "../dist/events.js"
import { Patience } from "../dist/retries.js"

const problem = (slug, status, headers = {}) =>
  new Response(JSON.stringify({ type: `urn:dain:problem:${slug}`, status, detail: "No." }), { status, headers })

test("events are read however they are cut", () => {
  const text = 'id: 1-0\nevent: job\ndata: {"id":"a","line":"\u2028 é"}\n\nid: 2-0\nretry: 3000\n\n'
  for (let size = 1; size < 9; size++) {
    const reader = new EventReader()
    const bytes = new TextEncoder().encode(text)
    const seen = []
    for (let at = 0; at < bytes.length; at += size) seen.push(...reader.feed(bytes.subarray(at, at + size)))
    assert.deepEqual(seen, [
      { id: "1-0", type: "job", data: { id: "a", line: "\u2028 é" } },
      { id: "2-0", type: "", data: {} },
    ])
  }
})

test("a problem becomes an error of its kind", async () => {
  const full = await refusal(problem("queue-full", 429, { "Retry-After": "30" }))
  assert.equal(full.name, "QueueFull")
  assert.ok(full instanceof Busy && full.retryAfter === 30 && full.slug === "queue-full" && full.status === 429)
  assert.ok((await refusal(problem("job-failed", 409))) instanceof JobFailed)
  assert.equal((await refusal(problem("later", 418))).name, "InvalidRequest")
  assert.equal((await refusal(new Response("<h1>", { status: 502 }))).name, "Unavailable") // a proxy's
  assert.equal((await refusal(problem("source-unreachable", 502))).name, "VideoRefused")
})

test("a service that answers without waiting is asked now and then", async (context) => {
  const states = ["running", "running", "succeeded"]
  let asked = 0
  const answer = () => {
    const status = states[asked++]
    return new Response(JSON.stringify({ id: "a", status, finished_at: status === "succeeded" ? 1 : null }))
  }
  const timers = context.mock.method(globalThis, "setTimeout")
  await new Client({ baseUrl: "http://old", fetch: async () => answer() }).wait("a", { intervalMs: 5 })
  assert.equal(asked, 3)
  assert.equal(timers.mock.calls.filter(({ arguments: [, ms] }) => ms === 5).length, 2)
})

test("a job whose state the service cannot read is not waited for", async () => {
  const job = { id: "a", status: "unknown", finished_at: null, error: { detail: "It cannot be read." } }
  const client = new Client({ baseUrl: "http://host", fetch: async () => new Response(JSON.stringify(job)) })
  await assert.rejects(client.wait("a", { timeoutMs: 100 }), JobFailed)
})

test("what is no id of a job leads to no other place", async () => {
  const client = new Client({ baseUrl: "http://host", fetch: () => assert.fail("it asked") })
  for (const id of ["", "../healthz", "a/b", "a?b"]) {
    for (const call of [client.job(id), client.wait(id), client.cancel(id), client.delete(id), client.download(id)]) {
      await assert.rejects(call, NotFound)
    }
  }
})

test("an upload that is broken off leaves nothing at the service, unless it is to go on", async () => {
  for (const resume of [undefined, { get: () => null, set: () => {}, remove: () => {} }]) {
    const asked = []
    const stop = new AbortController()
    const fetch = async (url, { method }) => {
      asked.push(`${method} ${new URL(url).pathname}`)
      return new Response(null, { status: 201, headers: { Location: "/uploads/u" } })
    }
    const sending = { resume, signal: stop.signal, onProgress: () => stop.abort() }
    const client = new Client({ baseUrl: "http://host", fetch: (url, call) => (call.signal.throwIfAborted(), fetch(url, call)) })
    await assert.rejects(client.upload(new Uint8Array(9), sending), { name: "AbortError" })
    assert.deepEqual(asked, ["POST /uploads", ...(resume ? [] : ["DELETE /uploads/u"])])
  }
})

test("a path is no video", async () => {
  const client = new Client({ baseUrl: "http://host", fetch: () => assert.fail("it was sent") })
  await assert.rejects(client.submit("clip.mp4"), /openAsBlob/)
})

test("a quota that comes back tomorrow is not waited for", () => {
  const tomorrow = new QuotaExceeded("used up", {}, 40_000)
  assert.throws(() => new Patience().pause(tomorrow, 30_000), tomorrow)
  assert.throws(() => new Patience().pause(new Unreachable("away"), 0), Unreachable)
})

test("a call goes on once somebody has signed in again, however long the service is busy", async () => {
  const answers = [problem("unauthorized", 401), ...Array(2).fill(0).map(() => problem("queue-full", 429, { "Retry-After": "0" }))]
  const said = []
  const client = new Client({
    fetch: async () => answers.shift() ?? new Response("[]"),
    onSignedOut: async (failure) => said.push(failure.name),
    onRetry: (failure) => said.push(failure.name),
  })
  assert.deepEqual(await client.workers(), [])
  assert.deepEqual(said, ["Unauthorized", "QueueFull", "QueueFull"])
  answers.push(problem("queue-full", 429))
  await assert.rejects(new Client({ fetch: async () => answers.shift(), patienceMs: 0 }).workers(), { name: "QueueFull" })
})

test("what is sent beside an upload or an address: options, and a mask in a form", async () => {
  const asked = []
  const fetch = async (url, { body, headers }) => {
    asked.push([url, body instanceof FormData ? [...body.keys()] : body && JSON.parse(body), headers["Content-Type"]])
    return new Response("{}")
  }
  const client = new Client({ fetch })
  const mask = new Blob(["png"])
  await client.submitUpload("u", { factor: 3 }, { mask, filename: "a.mp4" })
  await client.submitUrl("https://host/a.mp4", { factor: 3 }, { mask })
  await client.submitUrl("https://host/a.mp4", { factor: 3 })
  assert.deepEqual(asked, [
    ["/jobs?factor=3&upload=u&filename=a.mp4", ["mask"], undefined],
    ["/jobs?factor=3&source_url=https%3A%2F%2Fhost%2Fa.mp4", ["mask"], undefined],
    ["/jobs", { factor: 3, source_url: "https://host/a.mp4" }, "application/json"],
  ])
})

test("no message shows a secret", async () => {
  const said = []
  for (const options of [
    { baseUrl: "http://alice:s3/cret@host" },
    { baseUrl: "ftp://alice:s3cret@host" },
    { baseUrl: "http://alice:s3%cret@host" },
    { baseUrl: "http://alice:s3cret@127.0.0.1:9" },
    { baseUrl: "http://127.0.0.1:9", token: "s3cret\u0000token" },
    { baseUrl: "http://alice:s3cret@127.0.0.1:9", token: "s3cret" },
  ]) {
    await assert.rejects(
      async () => new Client(options).jobs(),
      (error) => {
        said.push(inspect(error)) // with what caused it
        return error instanceof ClientError
      },
    )
  }
  assert.equal(said.length, 6)
  assert.ok(!said.join().includes("s3"), said.join("\n"))
})
