import { t } from "../languages"

export function New() {
  return (
    <>
      <h1>{t("new.title")}</h1>
      <p class="lead">{t("new.lead")}</p>
    </>
  )
}
