import { Unavailable, Unreachable } from "../../../clients/typescript/src/index"
import { isKey, language, t } from "../languages"
import { problemOf } from "../service"
import type { Problem } from "../types"

/** An error as sentences: what was wrong, and what to do. */
export function Trouble({ of: error }: { of: unknown }) {
  const problem = problemOf(error)
  if (problem) return <ProblemText of={problem} />
  return (
    <p class="trouble" role="alert">
      {sentence(error)}
    </p>
  )
}

/** A problem of the service. Its detail is English, with code between backticks; elsewhere what its type says comes first. */
export function ProblemText({ of: problem }: { of: Problem }) {
  const key = `problem.${problem.type.split(":").at(-1) ?? ""}`
  return (
    <div class="trouble" role="alert">
      {language !== "en" && isKey(key) && <p>{t(key)}</p>}
      <p lang="en">{problem.detail.split("`").map((part, index) => (index % 2 ? <code key={index}>{part}</code> : part))}</p>
    </div>
  )
}

/** What a browser throws for a file that was changed or removed. */
const OF_FILES = ["NotReadableError", "NotFoundError"]

/** An error as one sentence. */
export function sentence(error: unknown): string {
  const problem = problemOf(error)
  if (problem) return problem.detail
  if (error instanceof Unreachable || error instanceof Unavailable) return t("trouble.unreachable")
  if (error instanceof DOMException && OF_FILES.includes(error.name)) return t("trouble.unreadable")
  return t("trouble.unknown", { what: String(error) })
}
