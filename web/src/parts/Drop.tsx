import { useSignal } from "@preact/signals"
import "./Drop.css"
import { addFiles, addUrl, asked, isNone } from "../clips"
import { t } from "../languages"
import { filesIn } from "../files"

/** Where clips are dropped, chosen, or named by a URL. The whole window takes what is dropped: see `files.ts`. */
export function Drop({ small }: { small: boolean }) {
  return (
    <section class={small ? "drop small" : "drop"} aria-label={t("drop.label")}>
      {!small && <Strip />}
      <p class="drop-say">{asked.value ? t("drop.again", { name: asked.value }) : t(small ? "drop.more" : "drop.say")}</p>
      <div class="drop-ways">
        <Choose label={t("drop.files")} />
        <Choose label={t("drop.folder")} folder quiet />
      </div>
      <p class="drop-none" role="status">{isNone.value && t("drop.none")}</p>
      <Url />
    </section>
  )
}

function Choose({ label, folder = false, quiet = false }: { label: string; folder?: boolean; quiet?: boolean }) {
  function take(event: Event): void {
    const input = event.currentTarget as HTMLInputElement
    addFiles(filesIn(input.files ?? []))
    input.value = ""
  }

  return (
    <label class={quiet ? "button quiet" : "button"}>
      <input class="unseen" type="file" multiple {...(folder && { webkitdirectory: true })} onChange={take} />
      {label}
    </label>
  )
}

function Url() {
  const wrong = useSignal(false)

  function take(event: SubmitEvent): void {
    event.preventDefault()
    const form = event.currentTarget as HTMLFormElement
    const url = String(new FormData(form).get("url")).trim()
    wrong.value = !/^https?:\/\/[^/]+\/./.test(url)
    if (wrong.value) return
    addUrl(url)
    form.reset()
  }

  return (
    <form class="drop-url" onSubmit={take} noValidate>
      <label>
        <span class="unseen">{t("drop.url")}</span>
        <input name="url" type="url" placeholder={t("drop.url")} aria-invalid={wrong.value} aria-describedby="url-wrong" />
      </label>
      <button class="quiet">{t("drop.fetch")}</button>
      <p id="url-wrong" role="alert">
        {wrong.value && t("drop.url-wrong")}
      </p>
    </form>
  )
}

/** A piece of film: between the source's frames are those that are made. */
function Strip() {
  return (
    <svg class="drop-strip" viewBox="0 0 324 56" aria-hidden="true">
      {Array.from({ length: 9 }, (_, n) => (
        <rect key={n} x={n * 36 + 2} y={n % 2 ? 8 : 4} width={32} height={n % 2 ? 40 : 48} rx="5" class={n % 2 ? "between" : "frame"} />
      ))}
      {Array.from({ length: 9 }, (_, n) => (
        <circle key={n} cx={n * 36 + 11 + n * 1.75} cy={34 - 14 * Math.sin((n / 8) * Math.PI)} r="4" class={n % 2 ? "ball between-ball" : "ball"} />
      ))}
    </svg>
  )
}
