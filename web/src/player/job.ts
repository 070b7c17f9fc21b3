/** What the player wants to know of a job that has succeeded; a job of the API has more. */
export interface Finished {
  id: string
  options: { speed?: string | null; codec?: string | null }
  input: { average_rate?: string }
  output?: Output | null
  links: Record<string, string>
}

export interface Output {
  filename: string
  media_type: string
  size_bytes: number
  frames: number
  frame_rate: string
}
