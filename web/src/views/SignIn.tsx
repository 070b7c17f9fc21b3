import { useSignal } from "@preact/signals"
import { hasEnded, signIn } from "../session"
import { t } from "../languages"
import { Trouble } from "../parts/Trouble"

/** Asks for a key. */
export function SignIn() {
  const error = useSignal<unknown>(undefined)

  async function submit(event: SubmitEvent): Promise<void> {
    event.preventDefault()
    const token = new FormData(event.currentTarget as HTMLFormElement).get("token")
    error.value = undefined
    try {
      await signIn(String(token).trim())
    } catch (reason) {
      error.value = reason
    }
  }

  return (
    <form class="sign-in" onSubmit={(event) => void submit(event)}>
      <h1>{t("sign-in.title")}</h1>
      <p>{t(hasEnded() ? "sign-in.ended" : "sign-in.why")}</p>
      <label>
        {t("sign-in.key")}
        <input name="token" type="password" autocomplete="current-password" placeholder="dain_…" required autofocus />
      </label>
      {error.value !== undefined && <Trouble of={error.value} />}
      <button>{t("sign-in.do")}</button>
      <p class="soft">{t("sign-in.kept")}</p>
    </form>
  )
}
