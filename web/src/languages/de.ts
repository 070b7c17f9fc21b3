import type { Key } from "./en"

export const de: Record<Key, string> = {
  "nav.new": "Neu",
  "nav.jobs": "Aufträge",
  "nav.workers": "Rechner",
  "nav.api": "API",
  "nav.label": "Ansichten",
  "nav.skip": "Zum Inhalt",
  "nav.sign-out": "Abmelden",
  "sign-in.title": "Anmelden",
  "sign-in.why": "Dieser Dienst verlangt einen Schlüssel. Wer ihn betreibt, macht Schlüssel mit „dain keys add“.",
  "sign-in.key": "Schlüssel",
  "sign-in.do": "Anmelden",
  "sign-in.kept": "Der Browser behält ihn, bis er geschlossen wird oder Sie sich abmelden.",
  "new.title": "Mehr Bilder, ruhige Bewegung",
  "new.lead": "Legen Sie ein Video hier ab. Sie sehen, was daraus wird, bevor etwas gerechnet wird.",
  "jobs.title": "Aufträge",
  "workers.title": "Rechner",
  "trouble.unreachable": "Der Dienst antwortet nicht. Sobald er es tut, geht es hier von selbst weiter.",
  "trouble.unknown": "In dieser Seite ging etwas schief: {what}",
  "trouble.no-view": "Unter dieser Adresse ist nichts.",
}
