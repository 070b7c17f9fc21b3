import { t } from "../languages"

export function Workers() {
  return <h1>{t("workers.title")}</h1>
}
