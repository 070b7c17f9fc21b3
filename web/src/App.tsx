import { useEffect } from "preact/hooks"
import { session, signOut, trouble } from "./session"
import { t, type Key } from "./languages"
import { route } from "./router"
import { Mark } from "./parts/Mark"
import { Trouble } from "./parts/Trouble"
import { Job } from "./views/Job"
import { Jobs } from "./views/Jobs"
import { Missing } from "./views/Missing"
import { New } from "./views/New"
import { SignIn } from "./views/SignIn"
import { Workers } from "./views/Workers"

const LINKS: [path: string, key: Key][] = [
  ["", "nav.new"],
  ["jobs", "nav.jobs"],
  ["workers", "nav.workers"],
]

export function App() {
  const here = LINKS.find(([path]) => path === (route.value[0] ?? ""))
  useEffect(() => void (trouble.value = undefined), [route.value]) // it was of another view
  useEffect(() => {
    document.title = here ? `${t(here[1])} · DAIN` : "DAIN"
  }, [here])

  return (
    <>
      <a class="skip" href="#content" onClick={toContent}>
        {t("nav.skip")}
      </a>
      <Header />
      <main id="content" tabIndex={-1}>
        {trouble.value !== undefined && <Trouble of={trouble.value} />}
        {session.value === null && <SignIn />}
        {session.value && <View />}
      </main>
      <footer>
        <a href="/docs">{t("nav.api")}</a>
      </footer>
    </>
  )
}

/** The view of the address. */
function View() {
  const [name, id, ...rest] = route.value
  if (rest.length) return <Missing />
  switch (name) {
    case undefined:
      return <New />
    case "jobs":
      return id ? <Job id={id} /> : <Jobs />
    case "workers":
      return id ? <Missing /> : <Workers />
    default:
      return <Missing />
  }
}

function Header() {
  const here = route.value[0] ?? ""
  return (
    <header class="head">
      <a class="mark" href="#/">
        <Mark /> dain
      </a>
      {session.value && (
        <nav aria-label={t("nav.label")}>
          {LINKS.map(([path, key]) => (
            <a key={path} href={`#/${path}`} aria-current={path === here ? "page" : undefined}>
              {t(key)}
            </a>
          ))}
          {session.value.keyed && (
            <button class="plain" onClick={() => void signOut()}>
              {t("nav.sign-out")}
            </button>
          )}
        </nav>
      )}
    </header>
  )
}

/** The link is no address of a view, so it moves the focus by itself. */
function toContent(event: Event): void {
  event.preventDefault()
  document.getElementById("content")?.focus()
}
