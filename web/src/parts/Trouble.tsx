import { Refused, Unreachable } from "../api"
import { t } from "../languages"

/** An error as a sentence: what was wrong and what to do. The service's own sentences are English. */
export function Trouble({ of: error }: { of: unknown }) {
  return (
    <p class="trouble" role="alert">
      {sentence(error)}
    </p>
  )
}

export function sentence(error: unknown): string {
  if (error instanceof Unreachable) return t("trouble.unreachable")
  if (error instanceof Refused) return error.problem.detail
  return t("trouble.unknown", { what: String(error) })
}
