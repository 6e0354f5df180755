// What is shown: the picture on the stage, the panel, the strip of all pictures, and what is told to those who listen.

import { progressOfAll, showAll } from "./batch.js";
import { $, setText } from "./dom.js";
import { lose } from "./jobs.js";
import { doing, rests, shareOf, showPanel, viewOf } from "./panel.js";
import { items, select, selected } from "./pictures.js";
import { Region } from "./region.js";
import { Viewer } from "./viewer.js";
import * as words from "./words.js";

const viewer = new Viewer($("viewer"), { onZoom: showZoom, onLost: () => lose(selected), onSpot: (point) => region.make(selected, point) });
const region = new Region(viewer);
const ZOOM_BY = 1.5; // with a button
let announced = "";
let running = 0; // the most pictures that have been under way together, since there was none
let shown = null; // the selected one, when the strip was last shown

export function render() {
  const view = viewOf(selected);
  const section = showSection(view);
  if (selected) {
    showPanel(section, view, selected);
    showPicture(selected);
  }
  $("tools").hidden = $("viewer").hidden;
  region.check(view === "draft" && selected.natural ? selected : null);
  showStrip();
  showAll();
  announce(selected, view);
}

/** Show the panel's part for that state; the focus goes with it, not to the top of the page. */
function showSection(view) {
  const sections = [...$("panel").children];
  const part = sections.find((section) => section.dataset.for === view);
  const changed = document.body.dataset.view !== view;
  const hadFocus = changed && $("panel").contains(document.activeElement);
  document.body.dataset.view = view;
  $("empty").hidden = view !== "empty";
  $("panel").hidden = view === "empty";
  if (view === "empty") $("viewer").hidden = $("blank").hidden = true;
  for (const section of sections) section.hidden = section !== part;
  if (hadFocus) (part?.querySelector("h2") ?? $("pick")).focus();
  return part;
}

function showPicture(item) {
  const result = item.job?.result;
  const size = result?.upscaled_size ?? item.natural;
  $("blank").hidden = Boolean(size) || (item.natural === undefined && !item.problem);
  $("viewer").hidden = !size;
  $("faces").hidden = !result?.faces?.length;
  if (!size) return;
  const { fresh } = item;
  item.fresh = false;
  viewer.show({ before: item.natural && item.url, after: result?.url, size, original: result?.original_size, faces: result?.faces, fresh });
}

function showZoom({ fitted, real, share }) {
  setText($("zoom"), words.percent(share));
  $("fit").setAttribute("aria-pressed", fitted);
  $("real").setAttribute("aria-pressed", real);
}

$("closer").onclick = () => viewer.step(ZOOM_BY);
$("farther").onclick = () => viewer.step(1 / ZOOM_BY);
$("fit").onclick = () => viewer.fit();
$("real").onclick = () => viewer.real();
$("faces").onclick = () => {
  const outlined = $("viewer").classList.toggle("with-faces");
  $("faces").setAttribute("aria-pressed", outlined);
};

/** A button for each picture, and the first one for another. */
function showStrip() {
  const list = $("strip").querySelector("ul");
  $("strip").hidden = !items.length;
  while (list.children.length > items.length + 1) list.lastChild.remove();
  while (list.children.length < items.length + 1) list.append($("tile").content.cloneNode(true));
  [null, ...items].forEach((item, index) => showTile(list.children[index].firstElementChild, item));
  if (selected !== shown) list.querySelector("[aria-current=true]").scrollIntoView({ block: "nearest", inline: "nearest" });
  shown = selected;
}

function showTile(button, item) {
  const view = viewOf(item);
  const share = view === "active" ? shareOf(item) : 0;
  const state = view === "failed" && !item.problem ? "cancelled" : view;
  const active = item && rests(item) ? "waits" : `${Math.floor(share * 100)} %`;
  const says = { empty: "Add pictures", draft: "not started", active, done: "done" }[state] ?? state;
  button.onclick = () => (item ? select(item) : $("pick").click());
  button.dataset.state = state;
  button.style.setProperty("--share", share);
  button.setAttribute("aria-label", item ? `${item.name}: ${says}` : says);
  button.title = item ? `${item.name}: ${says}` : says;
  button.setAttribute("aria-current", item === selected);
  const image = button.querySelector("img");
  if (!item?.natural) image.removeAttribute("src");
  else if (image.src !== item.url) image.src = item.url;
}

/** For those who listen: what may be done, every change of state, and each quarter of the way. */
function announce(item, view) {
  const active = items.filter((one) => viewOf(one) === "active" && !one.asked).length;
  document.title = active > 1 ? `${progressOfAll()} – Upscale`
    : view === "active" && item.job ? `${Math.floor(item.job.progress * 100)} % – Upscale` : "Upscale";
  const ended = running > 1 && !active; // the last one of several
  running = active && Math.max(running, active);
  if (ended) $("announcer").textContent = announced = `${progressOfAll()} pictures are done`;
  if (ended || !item) return;
  const quarter = Math.floor((item.job?.progress ?? 0) * 4) * 25;
  const said = view === "active" ? `${doing(item)}${quarter ? `: ${quarter} %` : ""}`
    : view === "done" ? `${item.name} is done`
    : view === "draft" ? `${item.name}. ${item.later?.message ?? $("estimate").textContent}` : $("problem").textContent;
  if (said !== announced) $("announcer").textContent = announced = said;
}
