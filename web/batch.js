// All pictures at once: started one after another, counted, cancelled, and given the same settings.

import { downloadAll, packing } from "./archive.js";
import { $, setText } from "./dom.js";
import { cancel, remove, start, wait } from "./jobs.js";
import { shareOf, viewOf } from "./panel.js";
import { items, selected, shareOptions } from "./pictures.js";
import { canStart, chosen, secondsOf } from "./plans.js";
import * as words from "./words.js";

const AHEAD = 2; // jobs of ours that wait at the server, which other people use, too

const bar = $("all");
const are = (...views) => items.filter((item) => views.includes(viewOf(item)));
const startable = () => are("draft").filter((item) => !item.plan || canStart(item));
const actions = {
  start: () => startable().forEach((item) => wait(item)),
  cancel: () => are("active").forEach((item) => item.cancelled || cancel(item)),
  settings: shareOptions,
  download: downloadAll,
  clear: () => are("done").forEach(remove),
};

bar.addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  if (pressed && event.detail <= 1) actions[pressed.dataset.do](); // a double click means one button
});

/** Send the next of those that wait, if it is time: one at a time, and no more than the server has a use for. Call it after every change. */
export function advance() {
  const active = are("active");
  const sent = active.filter(({ queued }) => !queued);
  if (sent.some(({ sent: share, later }) => share !== null || later)) return; // or the server has no place just now
  if (sent.filter(({ job }) => job?.status !== "processing").length >= AHEAD) return;
  const next = active.find((item) => item.queued && item.plan);
  if (!next) return;
  if (canStart(next)) start(next);
  else wait(next, false);
}

export function showAll() {
  const [drafts, active, done] = [startable(), are("active"), are("done")];
  bar.hidden = items.length < 2;
  if (bar.hidden) return;
  const others = drafts.filter((item) => item !== selected && differ(item.options, selected?.options));
  show("settings", drafts.includes(selected) && others.length);
  show("start", drafts.length > 1);
  show("cancel", active.length > 1);
  show("clear", done.length && !active.length && !packing);
  show("download", done.length > 1, packing ? "Stop" : "Download all");
  bar.querySelector("[data-do=download]").classList.toggle("primary", drafts.length < 2 && !active.length);
  const share = shareOfAll();
  const progress = bar.querySelector(".bar");
  progress.hidden = !active.length;
  progress.style.setProperty("--share", share);
  progress.setAttribute("aria-valuenow", Math.floor(share * 100));
  setText(bar.querySelector("p"), said(drafts, active, done));
}

function show(name, shown, text = "") {
  const button = bar.querySelector(`[data-do=${name}]`);
  if (!shown && button === document.activeElement) bar.querySelector("p").focus(); // not thrown back to the top of the page
  button.hidden = !shown;
  if (text) setText(button, text);
}

const differ = (one, other) => Boolean(other) && JSON.stringify(one) !== JSON.stringify(other);

function said(drafts, active, done) {
  if (packing) return packing.done ? `Packing ${packing.done} of ${packing.of}` : "Packing";
  const time = active.length ? left(active) : drafts.reduce((sum, item) => sum + secondsOf(item), 0);
  const parts = active.length || done.length ? [`${progressOfAll()} done`] : [words.count(items.length, "picture", "pictures")];
  if (failed().length) parts.push(`${failed().length} failed`);
  if (active.length && time) parts.push(`${words.about(time)} left`);
  else if (drafts.length > 1 && time) parts.push(words.about(time));
  return parts.join(", ");
}

const failed = () => are("failed").filter(({ problem }) => problem); // and not cancelled

/** "3 of 10", of those that were started. */
export function progressOfAll() {
  return `${are("done").length} of ${are("active", "done").length + failed().length}`;
}

/** What the server says of its own, and what is to be sent after that. */
function left(active) {
  const unsent = active.filter(({ job }) => !job).reduce((sum, item) => sum + secondsOf(item), 0);
  return unsent + Math.max(0, ...active.map(({ job }) => job?.eta_seconds ?? 0));
}

/** A picture counts as much as the pixels that are made of it. */
function shareOfAll() {
  const parts = are("active", "done").map((item) => {
    const size = item.job?.plan.upscaled_size ?? (item.plan && chosen(item)?.plan.upscaled_size) ?? { width: 1, height: 1 };
    return { pixels: size.width * size.height, share: viewOf(item) === "done" ? 1 : (item.job ? shareOf(item) : 0) };
  });
  const all = parts.reduce((sum, { pixels }) => sum + pixels, 0);
  return all ? parts.reduce((sum, { pixels, share }) => sum + pixels * share, 0) / all : 0;
}
