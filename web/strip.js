// Around the picture on the stage: the strip of all of them, and what is told to those who listen.

import { $, doing, shareOf, viewOf } from "./panel.js";

let announced = "";
let shown = null; // the selected one, when the strip was last shown

/** A button for each picture, and the first one for another. */
export function showStrip(items, selected, select) {
  const list = $("strip").querySelector("ul");
  $("strip").hidden = !items.length;
  while (list.children.length > items.length + 1) list.lastChild.remove();
  while (list.children.length < items.length + 1) list.append($("tile").content.cloneNode(true));
  [null, ...items].forEach((item, index) => showTile(list.children[index].firstElementChild, item, selected, select));
  if (selected !== shown) list.querySelector("[aria-current=true]").scrollIntoView({ block: "nearest", inline: "nearest" });
  shown = selected;
}

function showTile(button, item, selected, select) {
  const view = viewOf(item);
  const share = view === "active" ? shareOf(item) : 0;
  const state = view === "failed" && !item.problem ? "cancelled" : view;
  const says = { empty: "Another picture", draft: "not started", active: `${Math.floor(share * 100)} %`, done: "done" }[state] ?? state;
  button.onclick = () => select(item);
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
export function announce(item, view) {
  document.title = view === "active" && item.job ? `${Math.floor(item.job.progress * 100)} % – Upscale` : "Upscale";
  if (!item) return;
  const quarter = Math.floor((item.job?.progress ?? 0) * 4) * 25;
  const said = view === "active" ? `${doing(item)}${quarter ? `: ${quarter} %` : ""}`
    : view === "done" ? `${item.name} is done`
    : view === "draft" ? `${item.name}. ${item.later?.message ?? $("estimate").textContent}` : $("problem").textContent;
  if (said !== announced) $("announcer").textContent = announced = said;
}
