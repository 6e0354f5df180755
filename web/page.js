// The page: what people do with it, and its start.

import { sizeOf } from "./api.js";
import { advance } from "./batch.js";
import { take, takeFrom } from "./intake.js";
import { cancel, followJobs, lose, remove, restore, retry, start } from "./jobs.js";
import { $ } from "./dom.js";
import { choiceOf } from "./form.js";
import { viewOf } from "./panel.js";
import { copy, items, onChange, selected, setOptions, shrink, tryAgainInTime } from "./pictures.js";
import { render } from "./render.js";

const TICK_MS = 1000;

const form = $("draft");

form.addEventListener("input", ({ target }) => setOptions({ ...selected.options, ...choiceOf(target) }));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  start(selected);
});
document.addEventListener("keydown", (event) => {
  const { target, key, repeat } = event;
  const isMeant = target === document.body || target.closest("#viewer") || (form.contains(target) && !target.closest("button"));
  if (key !== "Enter" || repeat || !isMeant || form.hidden || $("go").disabled) return;
  event.preventDefault();
  form.requestSubmit();
});
const actions = { remove, cancel, retry, shrink, again: (item) => copy(item) };
$("panel").addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  if (pressed && event.detail > 1) event.preventDefault(); // a double click means one button, not what has come in its place
  else actions[pressed?.dataset.do]?.(selected);
});
$("download").addEventListener("click", ({ target }) => {
  const item = selected;
  sizeOf(target.href).catch(({ status }) => status === 404 && lose(item)); // of which the browser itself says nothing
});

$("pick").addEventListener("change", ({ target }) => {
  take([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", ({ clipboardData }) => takeFrom(clipboardData));
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
  takeFrom(event.dataTransfer);
});

/** The browser asks before it leaves the page, as long as it does not keep all that is there. */
function askBeforeLoss() {
  const losing = items.some((item) => !item.kept && ["draft", "active"].includes(viewOf(item)));
  window[losing ? "addEventListener" : "removeEventListener"]("beforeunload", ask);
}

const ask = (event) => event.preventDefault();

onChange(() => {
  render();
  advance();
  askBeforeLoss();
});
render();
restore();
setInterval(() => {
  followJobs();
  tryAgainInTime();
}, TICK_MS);
