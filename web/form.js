// The panel's form: what can be chosen for a draft, what each choice gives and how long it takes.

import { $, setText } from "./dom.js";
import { canStart, chosen, chosenWith, isFast, leastSeconds, modelsIn, planOf, SIZES } from "./plans.js";
import { canRestoreFaces } from "./server.js";
import * as words from "./words.js";

const form = $("draft");

for (const size of SIZES) {
  const row = $("size-row").content.firstElementChild.cloneNode(true);
  row.id = `size-${size}`;
  row.querySelector("input").value = size;
  row.querySelector("b").textContent = words.sizeName(size);
  $("sizes").append(row);
}

/** What a change of that input chooses: one option, so that the page goes on choosing the others. */
export function choiceOf({ name, type, value, checked }) {
  return { [name]: type === "checkbox" ? checked : value };
}

export function showDraft(item) {
  const { options, later } = item;
  const choice = chosen(item);
  for (const size of SIZES) showSize(item, size, choice?.size === size);
  showExact(item, choice);
  showModels(item, choice);
  const { elements } = form;
  elements.enhance_faces.checked = options.enhance_faces && canRestoreFaces();
  elements.face_strength.value = options.face_strength;
  elements.face_strength.disabled = !options.enhance_faces;
  setText($("strength-note"), options.enhance_faces ? `${Math.round(options.face_strength * 100)} % restored` : "Faces stay as they are");
  elements.output_format.value = options.output_format;
  elements.quality.value = options.quality;
  elements.quality.disabled = options.output_format === "png";
  setText($("quality-note"), options.output_format === "png" ? "PNG loses nothing" : `${options.quality} of 100`);
  $("go").disabled = !canStart(item);
  setText($("estimate"), later ? `${later.message} ${again(later)}` : estimate(item, choice));
}

/** When the server will be asked again. */
export function again({ at }) {
  return at < Infinity ? `Asking again in ${Math.max(Math.ceil((at - Date.now()) / 1000), 0)} s.` : "Asking again…";
}

function showSize(item, size, isChosen) {
  const row = $(`size-${size}`);
  const choice = chosenWith(item, { size });
  const plan = item.plan && (choice?.plan ?? planOf(item, size));
  row.querySelector("input").checked = isChosen;
  row.querySelector("input").disabled = Boolean(plan) && !choice;
  row.title = plan?.possible ? [`In passes of ${words.passes(plan.upscaling_strategy)}`, ...plan.warnings].join(". ") : "";
  setText(row.querySelector(".result"), choice ? words.size(plan.upscaled_size) : "");
  setText(row.querySelector("small"), noteOf(item, size, plan, choice));
}

function noteOf(item, size, plan, choice) {
  if (choice) return words.about(choice.seconds);
  if (plan) return words.reason(size, leastSeconds(item, plan), item.plan.timeout_seconds);
  return item.later ? "" : "…";
}

/** Offered where it makes a difference: not for factors, nor where whole passes do not reach the target, or reach just it. */
function showExact(item, choice) {
  const target = choice?.plan.target_resolution;
  const [passes, exact] = ["passes", "exact"].map((fit) => target
    && item.plan.sizes.find((plan) => plan.target_resolution === target && plan.fit === fit));
  $("exact").hidden = !target || !passes.possible || !exact.possible || passes.total_scale === exact.total_scale;
  form.elements.exact.checked = Boolean(item.options.exact);
  if ($("exact").hidden) return;
  const other = choice.plan === exact ? passes : exact;
  setText($("exact-note"), `${words.size(exact.upscaled_size)}, else ${words.size(passes.upscaled_size)}`);
  $("exact").title = `${words.size(other.upscaled_size)}: ${words.about(other.predicted_seconds[choice.model])}`;
}

/** Photograph or drawing, and fast or best, where the server has both. */
function showModels(item, choice) {
  const loaded = item.plan ? modelsIn(item.plan) : [];
  const has = (kind) => loaded.some((name) => name.startsWith(kind));
  $("kind").hidden = !(has("photo") && has("anime"));
  form.elements.kind.value = item.options.kind;
  const ways = ["fast", "best"].map((speed) => chosenWith(item, { speed, size: choice?.size }));
  $("speed").hidden = !choice || !ways.every(Boolean);
  if ($("speed").hidden) return;
  form.elements.speed.value = isFast(choice.model) ? "fast" : "best";
  ways.forEach(({ seconds }, index) => setText($(["fast-note", "best-note"][index]), words.about(seconds)));
}

function estimate({ plan }, choice) {
  if (!plan) return "…";
  if (!choice) return "No size is possible.";
  return `Takes ${words.about(choice.seconds)}${words.queued(plan)}`;
}
