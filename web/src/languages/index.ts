// The page's texts. en.ts has the keys; the other tables have the same, or do not compile.
import { de } from "./de"
import { en, type Key } from "./en"
import { zh } from "./zh"

export type { Key }

const TABLES: Record<string, Record<Key, string>> = { en, de, zh }

/** The first of the browser's languages that there is a table for. */
export const language = navigator.languages.map((name) => name.split("-")[0] ?? "").find((name) => name in TABLES) ?? "en"
const table = TABLES[language] ?? en

/** The text of `key`, with what stands in braces replaced: t("jobs.count", { n: 3 }). */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  return table[key].replace(/\{(\w+)\}/g, (whole, name: string) => {
    const value = values[name]
    return value === undefined ? whole : typeof value === "number" ? number(value) : value
  })
}

/** Whether there is a text of this name: for names that the service may have more of than this page knows. */
export function isKey(key: string): key is Key {
  return key in en
}

/** The name of an option of the API. */
export function labelOf(option: string): string {
  const key = `option.${option}`
  return isKey(key) ? t(key) : option
}

export function number(value: number, digits = 0): string {
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value)
}
