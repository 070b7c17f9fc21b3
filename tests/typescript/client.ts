// Submits CLIP to the service at URL, waits for it, and writes the result to RESULT.

import { readFile, writeFile } from "node:fs/promises"

import createClient from "openapi-fetch"

import type { components, paths } from "./api.js"

type Job = components["schemas"]["JobView"]

const [url, clip, result] = process.argv.slice(2) as [string, string, string]
const client = createClient<paths>({ baseUrl: url })

function checked<T>(answer: { data?: T; error?: components["schemas"]["ProblemDocument"] }): T {
  if (answer.error) throw new Error(answer.error.detail)
  return answer.data as T
}

async function submit(): Promise<Job> {
  const video = await readFile(clip)
  const form = new FormData()
  form.set("file", new Blob([video]), "clip.mp4")
  form.set("target_fps", "60")
  return checked(await client.POST("/jobs", { body: {}, bodySerializer: () => form }))
}

async function over(job: Job): Promise<Job> {
  while (job.finished_at === null || job.finished_at === undefined) {
    const params = { path: { job_id: job.id }, query: { wait: 25 } }
    job = checked(await client.GET("/jobs/{job_id}", { params }))
  }
  return job
}

const job = await over(await submit())
if (job.status !== "succeeded") throw new Error(job.status)
const params = { path: { job_id: job.id } }
const file = checked(await client.GET("/jobs/{job_id}/result", { params, parseAs: "arrayBuffer" }))
await writeFile(result, Buffer.from(file as unknown as ArrayBuffer))

const { error } = await client.GET("/jobs/{job_id}", { params: { path: { job_id: "none" } } })
if (error?.type !== "urn:dain:problem:job-not-found") throw new Error(JSON.stringify(error))
