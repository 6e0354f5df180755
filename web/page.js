// The page: what people do with it, and its start.

import { isGone } from "./api.js";
import { cancel, followJobs, lose, remove, restore, retry, start } from "./jobs.js";
import { $, notify } from "./dom.js";
import { choiceOf } from "./form.js";
import { add, copy, onChange, selected, setOptions, shrink, tryAgainInTime } from "./pictures.js";
import { render } from "./render.js";
import { showServer } from "./server.js";
import * as words from "./words.js";

const TICK_MS = 1000;

const form = $("draft");

form.addEventListener("input", ({ target }) => setOptions({ ...selected.options, ...choiceOf(target) }));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  start(selected);
});
document.addEventListener("keydown", (event) => {
  const { target, key, repeat } = event;
  const inForm = target === document.body || (form.contains(target) && !target.closest("button"));
  if (key !== "Enter" || repeat || !inForm || form.hidden || $("go").disabled) return;
  event.preventDefault();
  form.requestSubmit();
});
const actions = { remove, cancel, retry, shrink, again: (item) => copy(item) };
$("panel").addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  if (pressed && event.detail > 1) event.preventDefault(); // a double click means one button, not what has come in its place
  else actions[pressed?.dataset.do]?.(selected);
});
$("download").addEventListener("click", async ({ target }) => {
  const item = selected;
  if (await isGone(target.href)) lose(item); // of which the browser itself says nothing
});

$("pick").addEventListener("change", ({ target }) => {
  add([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", ({ clipboardData }) => take(clipboardData));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  take(event.dataTransfer);
});

function take(data) {
  const said = data.files.length ? "" : words.noFile(data);
  if (said) notify(said);
  add([...data.files]);
}

onChange(render);
render();
showServer();
restore();
setInterval(() => {
  followJobs();
  tryAgainInTime();
}, TICK_MS);
