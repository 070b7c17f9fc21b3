import { addFiles, clips, isOpen, start } from "../clips"
import { t } from "../languages"
import { may } from "../session"
import { takeDrops } from "../files"
import { go } from "../router"
import { Choice } from "../parts/Choice"
import { ClipCard } from "../parts/ClipCard"
import { Drop } from "../parts/Drop"

takeDrops((files) => {
  go("")
  addFiles(files)
})

/** Clips, and what is to become of them. */
export function New() {
  const open = clips.value.filter(isOpen)
  if (!may("submit")) return <p class="lead">{t("new.may-not")}</p>
  return (
    <>
      <h1>{t("new.title")}</h1>
      <p class="lead">{t("new.lead")}</p>
      <Drop small={clips.value.length > 0} />
      <Choice />
      {open.length > 1 && (
        <p class="start-all">
          <button onClick={() => open.forEach((clip) => void start(clip))}>{t("clip.start-all", { n: open.length })}</button>
        </p>
      )}
      <section class="list" aria-label={t("clip.label")}>
        {clips.value.map((clip) => (
          <ClipCard key={clip.id} clip={clip} />
        ))}
      </section>
    </>
  )
}
