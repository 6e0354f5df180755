// The page: what people do with it, and its start.

import { head } from "./api.js";
import { advance } from "./batch.js";
import { take, takeDropped } from "./intake.js";
import { cancel, followJobs, lose, remove, restore, retry, start } from "./jobs.js";
import { $, TARGETS, viewOf } from "./panel.js";
import { copy, items, onChange, selected, setOptions, tryAgainInTime } from "./pictures.js";
import { render } from "./render.js";
import { showServer } from "./server.js";

const REPLANNED = ["enhance_faces", "fit", "model"]; // fields on which size or time depend
const TICK_MS = 1000;

const form = $("draft");

form.addEventListener("input", ({ target }) => {
  const { elements } = form;
  const options = {
    target_resolution: elements.target_resolution.value,
    enhance_faces: elements.enhance_faces.checked,
    face_strength: elements.face_strength.value,
    fit: elements.fit.checked ? "exact" : "passes",
    output_format: elements.output_format.value,
    quality: elements.quality.value,
    model: elements.model.value,
  };
  setOptions(options, REPLANNED.includes(target.name));
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  start(selected);
});
const actions = { remove, cancel, retry, again: (item) => copy(item) };
$("panel").addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  if (pressed && event.detail > 1) event.preventDefault(); // a double click means one button, not what has come in its place
  else actions[pressed?.dataset.do]?.(selected);
});
$("download").addEventListener("click", async ({ target }) => {
  const item = selected;
  if ((await head(target.href))?.status === 404) lose(item); // of which the browser itself says nothing
});

$("pick").addEventListener("change", ({ target }) => {
  take([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", ({ clipboardData }) => take([...clipboardData.files]));
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
  takeDropped(event.dataTransfer);
});

for (const target of TARGETS) {
  const row = $("size-row").content.firstElementChild.cloneNode(true);
  row.id = `size-${target}`;
  row.querySelector("input").value = target;
  row.querySelector("b").textContent = target;
  $("sizes").append(row);
}
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
showServer();
restore();
setInterval(() => {
  followJobs();
  tryAgainInTime();
}, TICK_MS);
