// The link to a result, and who can open it.
import { useSignal } from "@preact/signals"
import { t } from "../languages"
import { session } from "../session"
import type { Finished } from "./job"

export function Share({ job }: { job: Finished }) {
  const isOpen = useSignal(false)
  const isCopied = useSignal(false)
  const link = `${location.href.split("#")[0]}#/jobs/${job.id}`
  const copy = async (event: Event): Promise<void> => {
    const field = (event.currentTarget as HTMLElement).parentElement!.querySelector("input")!
    field.select()
    try {
      await navigator.clipboard.writeText(link)
      isCopied.value = true
    } catch {
      // Without HTTPS there is no clipboard: the link is selected, to be copied by hand.
    }
  }
  return (
    <div class="share">
      <button class="quiet" aria-expanded={isOpen.value} onClick={() => (isOpen.value = !isOpen.value)}>
        {t("result.share")}
      </button>
      {isOpen.value && (
        <div class="share-link">
          <label>
            {session.value?.keyed ? t("result.share-key", { owner: session.value.owner }) : t("result.share-all")}
            <input readonly value={link} onFocus={(event) => event.currentTarget.select()} />
          </label>
          <button class="quiet" onClick={(event) => void copy(event)}>
            {isCopied.value ? t("result.copied") : t("result.copy")}
          </button>
        </div>
      )}
    </div>
  )
}
