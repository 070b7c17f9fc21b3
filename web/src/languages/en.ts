export const en = {
  // the frame of all views
  "nav.new": "New",
  "nav.jobs": "Jobs",
  "nav.workers": "Workers",
  "nav.api": "API",
  "nav.label": "Views",
  "nav.skip": "Skip to the content",
  "nav.sign-out": "Sign out",
  // sign-in
  "sign-in.title": "Sign in",
  "sign-in.why": "This service asks for a key. Whoever runs it makes keys with “dain keys add”.",
  "sign-in.key": "Key",
  "sign-in.do": "Sign in",
  "sign-in.kept": "This browser keeps it until it is closed, or you sign out.",
  // the start
  "new.title": "More frames, smoother motion",
  "new.lead": "Drop a clip. See what it becomes before anything is computed.",
  // the list of jobs
  "jobs.title": "Jobs",
  // the list of workers
  "workers.title": "Workers",
  // troubles
  "trouble.unreachable": "The service does not answer. This page goes on by itself as soon as it does.",
  "trouble.unknown": "Something went wrong in this page: {what}",
  "trouble.no-view": "There is nothing at this address.",
} as const

export type Key = keyof typeof en
