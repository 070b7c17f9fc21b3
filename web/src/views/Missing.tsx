import { t } from "../languages"

export function Missing() {
  return <p>{t("trouble.no-view")}</p>
}
