// What the panel says of one picture, in each of its states.

import * as words from "./words.js";

export const TARGETS = ["2k", "4k", "8k"];
export const $ = (id) => document.getElementById(id);
const form = $("draft");

/** "empty", "draft", "active", "done" or "failed". */
export function viewOf(item) {
  if (!item) return "empty";
  if (item.problem || item.job?.status === "canceled") return "failed";
  if (item.cancelled && !item.job && item.sent === null) return "failed";
  if (item.queued || item.sent !== null || item.later?.sending || ["starting", "processing"].includes(item.job?.status)) return "active";
  if (item.job?.status === "succeeded") return "done";
  return item.asked ? "active" : "draft";
}

/** Fill the part of the panel that is for that state. */
export function showPanel(section, view, item) {
  setText(section.querySelector("h2"), item.name);
  setText(section.querySelector(".facts"), factsOf(item));
  ({ draft: showDraft, active: showActive, done: showDone, failed: showFailed })[view](item);
}

function factsOf({ job, file, plans, natural }) {
  const size = job?.plan.original_size ?? Object.values(plans).find((plan) => plan.original_size)?.original_size ?? natural;
  const larger = job ? ` → ${words.size(job.plan.upscaled_size)}` : `, ${words.bytes(file.size)}`;
  return size ? words.size(size) + larger : words.bytes(file.size);
}

function showDraft({ options, plans, later }) {
  for (const target of TARGETS) showSize(target, plans, options.target_resolution === target, later);
  const { elements } = form;
  elements.enhance_faces.checked = options.enhance_faces;
  elements.face_strength.value = options.face_strength;
  elements.face_strength.disabled = !options.enhance_faces;
  setText($("strength-note"), options.enhance_faces ? `${Math.round(options.face_strength * 100)} % restored` : "Faces stay as they are");
  elements.fit.checked = options.fit === "exact";
  elements.model.value = options.model;
  elements.output_format.value = options.output_format;
  elements.quality.value = options.quality;
  elements.quality.disabled = options.output_format === "png";
  setText($("quality-note"), options.output_format === "png" ? "PNG loses nothing" : `${options.quality} of 100`);
  const plan = plans[options.target_resolution];
  $("go").disabled = !plan || Boolean(plan.error);
  setText($("estimate"), later ? `${later.message} ${again(later)}` : estimate(plan));
}

function again({ at }) {
  return at < Infinity ? `Asking again in ${Math.max(Math.ceil((at - Date.now()) / 1000), 0)} s.` : "Asking again…";
}

function showSize(target, plans, chosen, later) {
  const plan = plans[target];
  const row = $(`size-${target}`);
  row.querySelector("input").checked = chosen;
  row.querySelector("input").disabled = Boolean(plan?.error);
  setText(row.querySelector(".result"), plan?.upscaled_size ? words.size(plan.upscaled_size) : "");
  setText(row.querySelector("small"), plan ? plan.error ?? sizeNote(plan, sameAs(target, plans)) : later ? "" : "Asking the server…");
}

/** The smaller target that gives the same size, if there is one. */
function sameAs(target, plans) {
  const width = (name) => plans[name]?.upscaled_size?.width;
  return TARGETS.slice(0, TARGETS.indexOf(target)).find((smaller) => width(smaller) === width(target));
}

function sizeNote({ upscaling_strategy: passes, predicted_seconds: seconds, warnings }, same) {
  if (same) return `The same as ${same}, unless the size is to be exact`;
  return [`${words.passes(passes)} · ${words.about(seconds)}`, ...warnings].join(". ");
}

function estimate(plan) {
  if (!plan) return "…";
  if (plan.error) return "This size is not possible.";
  const own = `Takes ${words.about(plan.predicted_seconds)}`;
  return plan.queue_seconds >= 1 ? `${own}, after ${words.about(plan.queue_seconds)} in the queue` : own;
}

/** Between 0 and 1: of the sending, or of the work. */
export const shareOf = ({ sent, job }) => sent ?? job?.progress ?? 0;

function showActive(item) {
  const share = shareOf(item);
  const waiting = Boolean(item.later) || (item.sent === null && item.job?.status !== "processing");
  setText($("percent"), waiting ? "Waiting" : `${Math.floor(share * 100)} %`);
  $("bar").style.setProperty("--share", waiting ? 0 : share);
  $("bar").classList.toggle("waiting", waiting);
  if (waiting) $("bar").removeAttribute("aria-valuenow");
  else $("bar").setAttribute("aria-valuenow", Math.floor(share * 100));
  setText($("doing"), doing(item));
  setText($("left"), [item.resent && "Sent again, since the server was restarted.", item.note || left(item)].filter(Boolean).join(" "));
}

export function doing({ queued, sent, job, cancelled, later, over }) {
  if (queued) return "Will be sent after those before it";
  if (cancelled) return "Cancelling";
  if (later) return later.message;
  if (sent !== null) return sent < 1 ? "Sending the picture" : "The server looks at it";
  if (!job) return over ? "Asking the server for the result" : "Asking the server what became of it";
  if (job.status === "processing") return "Making it larger";
  return job.position ? `${words.count(job.position, "picture", "pictures")} before this one` : "Next in line";
}

function left({ sent, job, later }) {
  if (later) return again(later);
  if (sent !== null || !job || job.eta_seconds === null) return "";
  const time = words.about(job.eta_seconds);
  return job.status === "processing" ? `${time[0].toUpperCase()}${time.slice(1)} left` : `Done in ${time}`;
}

function showDone({ id, name, options, job: { result } }) {
  if ($("report").dataset.of === id) return;
  $("report").dataset.of = id;
  const { original_size: original, upscaled_size: upscaled, upscaling_strategy: strategy } = result;
  $("download").href = result.url;
  $("download").download = words.resultName(name, result);
  const rows = {
    Before: words.size(original),
    After: words.size(upscaled),
    Enlarged: `${+result.total_scale.toFixed(2)}×` + (strategy.length > 1 ? ` (${words.passes(strategy)})` : ""),
    Faces: words.faces(result, options.enhance_faces),
    Format: { jpeg: "JPEG", png: "PNG", webp: "WebP" }[result.format] ?? result.format,
    Time: result.cached ? "none: the server had it" : words.took(result.processing_time),
  };
  $("report").replaceChildren(...Object.entries(rows).flatMap(([term, value]) => [make("dt", term), make("dd", value)]));
  $("warnings").replaceChildren(...result.warnings.map((warning) => make("li", warning)));
}

function showFailed({ problem, job, plans }) {
  $("problem").classList.toggle("calm", !problem);
  setText($("problem"), problem ? problem.message : "Cancelled. Nothing was kept.");
  setText($("reference"), problem?.requestId ? `${problem.code}, request ${problem.requestId}` : "");
  setText($("retry"), problem ? "Try again" : "Upscale again");
  $("retry").hidden = Boolean(problem) && !job && !problem.again;
  $("other").hidden = !job && !Object.keys(plans).length;
}

export function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

function make(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}
