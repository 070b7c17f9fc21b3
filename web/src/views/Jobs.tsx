import { t } from "../languages"

export function Jobs() {
  return <h1>{t("jobs.title")}</h1>
}
