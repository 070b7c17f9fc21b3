import { useEffect } from "preact/hooks"
import { useSignal } from "@preact/signals"
import "./Choice.css"
import {
  defaultOf,
  extra,
  given,
  groups,
  meaning,
  PURPOSES,
  purpose,
  rate,
  readOptions,
  setExtra,
  slower,
  stretched,
  unmarked,
  type Option,
  type Purpose,
} from "../choice"
import { clips, isOpen } from "../clips"
import { labelOf, number, t } from "../languages"
import { Dots } from "./Dots"
import { Trouble } from "./Trouble"

const RATES = ["48", "50", "59.94", "60", "90", "120", "144", "240"]
const SLOWER = [2, 3, 4, 5, 6, 7, 8]

/** What is to become of the clips. */
export function Choice() {
  return (
    <section class="wishes" aria-label={t("choice.label")}>
      <fieldset class="purposes">
        <legend>{t("choice.label")}</legend>
        {PURPOSES.map((each) => (
          <PurposeCard key={each} of={each} />
        ))}
      </fieldset>
      {purpose.value === "rate" && <Rate />}
      {purpose.value === "slow" && <Slow />}
      {purpose.value === null && <Given />}
      {unmarked.value && !clips.value.some((clip) => isOpen(clip) && clip.mask.value) && <p class="detail">{t("choice.unmarked")}</p>}
      <Options />
    </section>
  )
}

function PurposeCard({ of }: { of: Purpose }) {
  return (
    <label class="purpose">
      <input type="radio" name="purpose" checked={purpose.value === of} onChange={() => (purpose.value = of)} />
      <span>
        <b>{t(`purpose.${of}`)}</b>
        <small>{t(`purpose.${of}.why`)}</small>
      </span>
    </label>
  )
}

function Rate() {
  return (
    <label class="detail">
      {t("choice.rate")}
      <input
        list="rates"
        inputMode="decimal"
        value={rate.value}
        onInput={(event) => (rate.value = event.currentTarget.value.trim().replace(",", "."))}
      />
      <datalist id="rates">
        {RATES.map((each) => (
          <option key={each} value={each} />
        ))}
      </datalist>
    </label>
  )
}

/** What a job was made with, until a purpose is chosen. */
function Given() {
  return (
    <p class="detail">
      {t("choice.given")} <Dots of={Object.entries(given.value).map(([name, value]) => `${labelOf(name)}: ${value}`)} />
    </p>
  )
}

function Slow() {
  return (
    <div class="detail">
      <fieldset class="steps">
        <legend>{t("choice.slower")}</legend>
        {SLOWER.map((each) => (
          <label key={each}>
            <input type="radio" name="slower" checked={slower.value === each} onChange={() => (slower.value = each)} />
            <span>{number(each)}×</span>
          </label>
        ))}
      </fieldset>
      <label class="check">
        <input type="checkbox" checked={stretched.value} onChange={(event) => (stretched.value = event.currentTarget.checked)} />
        {t("choice.stretched")}
      </label>
    </div>
  )
}

/** All other options, folded. Which there are, the service says. */
function Options() {
  const error = useSignal<unknown>(undefined)
  const count = Object.keys(extra.value).length

  useEffect(() => {
    if (count) void readOptions()
  }, [count])

  function open(event: Event): void {
    const tell = (reason: unknown): void => void (error.value = reason)
    if ((event.currentTarget as HTMLDetailsElement).open) void readOptions(tell).then(() => tell(undefined), tell)
  }

  return (
    <details class="options" onToggle={open}>
      <summary>
        {t("choice.more")} {count > 0 && <span class="count">{t("choice.changed", { n: count })}</span>}
      </summary>
      {error.value !== undefined && <Trouble of={error.value} />}
      <div class="groups">
        {groups.value.map(([group, options]) => (
          <fieldset key={group}>
            <legend>{t(`group.${group}`)}</legend>
            {options.map((option) => (
              <Field key={option.name} option={option} />
            ))}
          </fieldset>
        ))}
      </div>
      {count > 0 && (
        <button class="quiet" onClick={() => (extra.value = {})}>
          {t("choice.reset")}
        </button>
      )}
    </details>
  )
}

function Field({ option }: { option: Option }) {
  const { name } = option
  const value = extra.value[name] ?? ""
  const hint = `hint-${name}`
  const set = (event: Event) => setExtra(name, (event.currentTarget as HTMLInputElement | HTMLSelectElement).value.trim())
  if (name === "metadata") return <Metadata />
  return (
    <div class="field">
      <label>
        {labelOf(name)}
        {option.enum || option.type === "boolean" ? (
          <select value={value} onInput={set} aria-describedby={hint}>
            <option value="">{t("choice.default", { value: worded(defaultOf(name)) })}</option>
            {(option.enum ?? ["true", "false"])
              .filter((each) => each !== defaultOf(name))
              .map((each) => (
                <option key={each} value={each}>
                  {worded(each)}
                </option>
              ))}
          </select>
        ) : (
          <input
            value={value}
            placeholder={defaultOf(name)}
            inputMode={option.type === "integer" ? "numeric" : option.type === "number" ? "decimal" : undefined}
            list={option.examples && `list-${name}`}
            onInput={set}
            aria-describedby={hint}
          />
        )}
      </label>
      {option.examples && (
        <datalist id={`list-${name}`}>
          {option.examples.map((each) => (
            <option key={each} value={each} />
          ))}
        </datalist>
      )}
      <p id={hint} class="hint" lang="en">
        {meaning(option)}
      </p>
    </div>
  )
}

/** Texts with names, one a line; the API takes them as JSON. */
function Metadata() {
  const text = useSignal("")
  const value = extra.value.metadata ?? ""
  if (jsonOf(text.value) !== value) text.value = linesOf(value) // set back, or those of a job
  const set = (event: Event): void => {
    text.value = (event.currentTarget as HTMLTextAreaElement).value
    setExtra("metadata", jsonOf(text.value))
  }
  return (
    <div class="field">
      <label>
        {labelOf("metadata")}
        <textarea rows={2} value={text} onInput={set} placeholder="user = 42" aria-describedby="hint-metadata" />
      </label>
      <p id="hint-metadata" class="hint">
        {t("choice.metadata")}
      </p>
    </div>
  )
}

function jsonOf(lines: string): string {
  const pairs = lines.split("\n").map((line) => line.split(/=(.*)/s).map((part) => part.trim()))
  const named = pairs.flatMap(([name, value = ""]) => (name ? [[name, value]] : []))
  return named.length ? JSON.stringify(Object.fromEntries(named)) : ""
}

function linesOf(json: string): string {
  return json && Object.entries(JSON.parse(json) as Record<string, string>).map((pair) => pair.join(" = ")).join("\n")
}

function worded(value: string): string {
  return value === "true" ? t("choice.yes") : value === "false" ? t("choice.no") : value
}
