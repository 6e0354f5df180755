// A sentence that comes and goes, where nothing else on the page would say it.

import { $ } from "./panel.js";

const SHOWN_MS = 10_000;
let timer = 0;

export function notify(text) {
  clearTimeout(timer);
  $("notice").textContent = text;
  timer = setTimeout(() => { $("notice").textContent = ""; }, SHOWN_MS);
}
