import { language, number } from "../languages"

/** Minutes, seconds and hundredths: 1:03.25. */
export function clock(seconds: number): string {
  const hundredths = Math.round(seconds * 100)
  const two = (value: number): string => String(value).padStart(2, "0")
  return `${Math.floor(hundredths / 6000)}:${two(Math.floor(hundredths / 100) % 60)}.${two(hundredths % 100)}`
}

/** 1.2 GB, in the browser's language. */
export function bytes(count: number): string {
  const power = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), 4)
  const unit = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"][power]
  return new Intl.NumberFormat(language, {
    style: "unit",
    unit,
    unitDisplay: "short",
    maximumFractionDigits: power > 1 ? 1 : 0,
  }).format(count / 1000 ** power)
}

/** 63 %. */
export function percent(share: number): string {
  return `${number(share * 100)} %`
}
