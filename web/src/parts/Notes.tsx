import "./Notes.css"
import { isKey, language, number, t } from "../languages"
import type { Note } from "../types"
import { fraction } from "../choice"

const MOST = 4

/** What did not come through, or was found: each sentence once. */
export function Notes({ of: notes }: { of: Note[] }) {
  const texts = [...new Set(notes.map((note) => note.text))]
  if (!texts.length) return null
  const items = texts.map((text) => {
    const same = notes.filter((note) => note.text === text)
    return <NoteItem key={text} code={same[0]?.code ?? ""} text={text} times={same.flatMap(({ time }) => (time ? [fraction(time)] : []))} />
  })
  return (
    <>
      <ul class="notes">{items.slice(0, MOST)}</ul>
      {items.length > MOST && (
        <details class="notes-more">
          <summary>{t("notes.more", { n: items.length - MOST })}</summary>
          <ul class="notes">{items.slice(MOST)}</ul>
        </details>
      )}
    </>
  )
}

/** The service's sentence is English. Elsewhere what the code says comes first. */
function NoteItem({ code, text, times }: { code: string; text: string; times: number[] }) {
  const key = `note.${code}`
  const own = language !== "en" && isKey(key) ? t(key) : undefined
  return (
    <li>
      {own && `${own} `}
      <span lang="en" class={own && "soft"}>
        {text}
      </span>
      {times.length > 0 && <span class="soft"> ({times.slice(0, 5).map((time) => number(time, 2)).join(", ")} s{times.length > 5 && ", …"})</span>}
    </li>
  )
}
