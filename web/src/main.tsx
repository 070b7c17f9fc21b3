import "./styles/tokens.css"
import "./styles/base.css"
import { render } from "preact"
import { App } from "./App"
import { language } from "./languages"
import { follow } from "./jobs"
import { readSession } from "./session"

document.documentElement.lang = language
const root = document.getElementById("page")
if (root) render(<App />, root)
void readSession()
follow()
