import { Refused, Unreachable } from "../api"
import { isKey, language, t } from "../languages"
import { Unreadable } from "../upload"
import type { Problem } from "../types"

/** An error as sentences: what was wrong, and what to do. */
export function Trouble({ of: error }: { of: unknown }) {
  if (error instanceof Refused) return <ProblemText of={error.problem} />
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

/** An error as one sentence. */
export function sentence(error: unknown): string {
  if (error instanceof Unreachable) return t("trouble.unreachable")
  if (error instanceof Unreadable) return t("trouble.unreadable")
  if (error instanceof Refused) return error.problem.detail
  return t("trouble.unknown", { what: String(error) })
}
