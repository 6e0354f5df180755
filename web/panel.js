// What the panel says of one picture, in each of its states.

import { $, make, setText } from "./dom.js";
import { again, showDraft } from "./form.js";
import * as words from "./words.js";

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

function factsOf({ job, file, natural, madeFrom }) {
  const size = job?.plan.original_size ?? natural;
  const larger = job ? ` → ${words.size(job.plan.upscaled_size)}` : `, ${words.bytes(file.size)}`;
  const made = madeFrom && !job ? `, made smaller from ${words.size(madeFrom)}` : "";
  return (size ? words.size(size) + larger : words.bytes(file.size)) + made;
}

/** Between 0 and 1: of the sending, or of the work. */
export const shareOf = ({ sent, job }) => sent ?? job?.progress ?? 0;

/** Whether nothing of it is on its way to the server, or being made there. */
export const rests = ({ sent, job }) => sent === null && job?.status !== "processing";

function showActive(item) {
  const share = shareOf(item);
  const waiting = Boolean(item.later) || rests(item);
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

function showDone({ id, name, request, job: { result } }) {
  if ($("report").dataset.of === id) return;
  $("report").dataset.of = id;
  const { original_size: original, upscaled_size: upscaled, upscaling_strategy: strategy } = result;
  $("download").href = result.url;
  $("download").download = words.resultName(name, result);
  const rows = {
    Before: words.size(original),
    After: words.size(upscaled),
    Enlarged: `${+result.total_scale.toFixed(2)}×` + (strategy.length > 1 ? ` (${words.passes(strategy)})` : ""),
    Faces: words.faces(result, request?.enhance_faces ?? true),
    Format: { jpeg: "JPEG", png: "PNG", webp: "WebP" }[result.format] ?? result.format,
    Time: result.cached ? "none: the server had it" : words.took(result.processing_time),
  };
  $("report").replaceChildren(...Object.entries(rows).flatMap(([term, value]) => [make("dt", term), make("dd", value)]));
  $("warnings").replaceChildren(...result.warnings.map((warning) => make("li", warning)));
}

function showFailed({ problem, job, plan, natural }) {
  const px = problem?.details?.smallerPx;
  $("shrink").hidden = !px;
  if (px) setText($("shrink"), words.shrink(px, natural));
  $("problem").classList.toggle("calm", !problem);
  setText($("problem"), problem ? problem.message : "Cancelled. Nothing was kept.");
  setText($("reference"), problem?.requestId ? `${problem.code}, request ${problem.requestId}` : "");
  setText($("retry"), problem ? "Try again" : "Upscale again");
  $("retry").hidden = Boolean(problem) && !job && !problem.again;
  $("other").hidden = !job && !plan || Boolean(px);
}
