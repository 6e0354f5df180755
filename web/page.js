// The page: a list of pictures, one of which is on the stage. Each is a draft, then a job of the service.

import * as api from "./api.js";
import { forget, keep, kept } from "./keep.js";
import { $, showPanel, TARGETS, viewOf } from "./panel.js";
import { server, showServer } from "./server.js";
import { announce, showStrip } from "./strip.js";
import { Viewer } from "./viewer.js";
import * as words from "./words.js";

const REPLANNED = ["enhance_faces", "fit", "model"]; // fields on which size or time depend
const NO_USE = [400, 413]; // what is answered so would be answered so again
const STALE_MS = 15000; // after which a plan's waiting time is asked for again
const TICK_MS = 1000;
const LONGEST_PAUSE_SECONDS = 30; // between two tries of what the server cannot take just now

const form = $("draft");
const items = [];
let selected = null; // an item; null: the invitation to choose a picture
let usual = { // as last chosen
  target_resolution: "4k", enhance_faces: true, face_strength: "1", fit: "passes", output_format: "", quality: "95", model: "",
};

const viewer = new Viewer($("viewer"), { onZoom: showZoom, onLost: () => lose(selected) });
const follower = new api.Follower(onJob, onJobProblem);

// pictures come in

async function add(files) {
  const added = [];
  for (const file of files) {
    const item = newItem({ id: api.newId(), name: file.name || "pasted.png", file });
    added.push(item);
    items.push(item);
  }
  if (added.length) select(added[0]);
  for (const item of added) await read(item);
}

function newItem({ id, name, file, options, at = Date.now(), over = false, asked = false }) {
  const item = { id, name, file, options: { ...usual, ...options }, at, over, asked, job: null, plans: {}, plannedAt: 0, problem: null, later: null, sent: null, note: "" };
  preview(item);
  return item;
}

/** `natural` is the size that the browser finds, null where it cannot show such a picture. */
async function preview(item) {
  const image = new Image();
  image.src = item.url = URL.createObjectURL(item.file);
  try {
    await image.decode();
    item.natural = { width: image.naturalWidth, height: image.naturalHeight };
  } catch {
    URL.revokeObjectURL(item.url);
    item.url = item.natural = null; // the server will say what is wrong with it
  }
  render();
}

/** Copy the file into memory, so that it stays what it is, and refuse what is known to fail. */
async function read(item) {
  const { file } = item;
  const maxMb = server?.max_image_size_mb ?? Infinity;
  const reason = words.unsupported({ name: item.name, type: file.type })
    || (file.size > maxMb * 2 ** 20 && `The file has ${words.bytes(file.size)}; the server takes up to ${maxMb} MB.`);
  if (reason) return fail(item, new api.Problem(reason));
  try {
    item.file = new Blob([await file.arrayBuffer()], { type: file.type });
  } catch {
    return fail(item, new api.Problem("The file cannot be read. Was it moved, or is it a folder?"));
  }
  return planAll(item);
}

/** Ask for each target what it would give; that of the chosen one first tells whether the picture is any good. */
async function planAll(item) {
  item.stop?.abort();
  const stop = (item.stop = new AbortController());
  item.plannedAt = Date.now();
  const chosen = item.options.target_resolution;
  try {
    await planOne(item, chosen, stop);
    await Promise.all(TARGETS.filter((target) => target !== chosen).map((target) => planOne(item, target, stop)));
  } catch (problem) {
    if (stop.signal.aborted) return;
    stop.abort(); // the other sizes are asked for again with this one
    failOrWait(item, problem, () => planAll(item));
    return;
  }
  item.later = null;
  if (item.plans[chosen].error) {
    item.options.target_resolution = TARGETS.findLast((target) => !item.plans[target].error) ?? chosen;
  }
  render();
}

/** What that size would be, or why it cannot be; throws what is wrong with all sizes, or with the server. */
async function planOne(item, target, stop) {
  try {
    item.plans[target] = await api.plan(item.file, { ...item.options, target_resolution: target }, stop.signal);
  } catch (problem) {
    if (problem.code !== "image_too_large" && !problem.field && !problem.details.predicted_seconds) throw problem;
    item.plans[target] = { error: words.reason(problem, server?.limits?.[target], item.options.fit) };
  }
  render();
}

// jobs

async function start(item) {
  item.stop?.abort();
  item.stop = new AbortController();
  item.sent = 0;
  item.problem = null;
  if (!item.later?.sending) item.later = null; // that was for its plan
  render();
  try {
    await remember(item);
    const job = await api.submit(item.id, item.file, item.options, (share) => { item.sent = share; render(); }, item.stop.signal);
    item.sent = item.later = null;
    onJob(job);
    if (item.cancelled) cancel(item);
  } catch (problem) {
    item.sent = null;
    if (item.cancelled) giveUp(item);
    else failOrWait(item, problem, () => start(item), true);
  }
}

async function remember(item) {
  const { id, at, name, file, options, job } = item;
  item.over = api.FINAL.includes(job?.status);
  try {
    await keep({ id, at, name, file, options, over: item.over });
  } catch (error) {
    console.warn("This browser keeps nothing, so that a reload would lose the pictures.", error);
  }
}

function onJob(job) {
  const item = items.find(({ id }) => id === job.id);
  if (!item || api.FINAL.includes(item.job?.status)) return;
  const finished = api.FINAL.includes(job.status);
  item.fresh = job.status === "succeeded" && !item.asked;
  Object.assign(item, { job, note: "", asked: false });
  if (job.status === "failed") item.problem = problemOf(job.error);
  if (finished && !item.over) remember(item);
  render();
}

function problemOf(error) {
  return new api.Problem(error?.error ?? "The server did not say why.", { code: error?.code, requestId: error?.request_id });
}

function onJobProblem(id, problem) {
  const item = items.find((one) => one.id === id);
  if (!item) return;
  if (problem.status === 404) forgotten(item, problem);
  else item.note = `${problem.message} Trying again…`;
  if (problem.code === "unreachable" && server) showServer();
  render();
}

/** The server does not know this job: a result that it has removed since, or one that was lost with a restart. */
async function forgotten(item, problem) {
  await forget(item.id);
  if (item.over) return drop(item);
  Object.assign(item, { job: null, asked: false });
  problem.message = "The server does not know this picture any more, or has never got all of it. Send it again.";
  return fail(item, problem, () => start(item));
}

/** What is still being sent has made no job yet; what has just been sent will have, which `start` then cancels. */
async function cancel(item) {
  item.cancelled = true;
  if (item.later && item.sent === null) return giveUp(item);
  if (item.sent !== null && item.sent < 1) item.stop.abort();
  render();
  if (item.sent !== null) return;
  try {
    onJob(await api.cancelJob(item.id));
  } catch (problem) {
    Object.assign(item, { cancelled: false, note: problem.message });
    render();
  }
}

/** Of what was being sent; the server may have got it all the same, and only its answer was lost. */
async function giveUp(item) {
  item.later = null;
  forget(item.id);
  render();
  try {
    await api.cancelJob(item.id);
  } catch (problem) {
    if (problem.status !== 404) console.warn("The server may still be at it.", problem);
  }
}

// what went wrong

function fail(item, problem, again = null) {
  Object.assign(item, { problem, later: null });
  problem.again = NO_USE.includes(problem.status) ? null : again;
  if (problem.status === 401) problem.again = () => location.reload();
  render();
}

/** Where the server can be asked again later, that is done, by and by, and the picture stays a draft, or on its way. */
function failOrWait(item, problem, again, sending = false) {
  if (problem.code === "unreachable" && server) showServer();
  if (problem.retrySeconds === null) return fail(item, problem, again);
  const tries = (item.later?.tries ?? 0) + 1;
  const seconds = Math.max(problem.retrySeconds, Math.min(2 ** tries, LONGEST_PAUSE_SECONDS));
  item.later = { message: problem.message, again, sending, tries, at: Date.now() + 1000 * seconds };
  render();
}

function tryAgainInTime() {
  for (const { later } of items) {
    if (!later || later.at > Date.now()) continue;
    later.at = Infinity; // it is being tried
    later.again();
  }
  if (selected?.later) render();
}

function retry(item) {
  const again = item.problem?.again;
  item.problem = null;
  if (again) return again();
  return copy(item, (made) => start(made));
}

/** The same picture once more, as a draft. */
function copy(item, then = planAll) {
  const made = newItem({ id: api.newId(), name: item.name, file: item.file, options: item.options });
  items.splice(items.indexOf(item) + 1, 0, made);
  select(made);
  return then(made);
}

function remove(item) {
  forget(item.id);
  drop(item);
}

function drop(item) {
  const index = items.indexOf(item);
  if (index < 0) return;
  items.splice(index, 1);
  item.stop?.abort();
  if (item === selected) select(items[index] ?? items.at(-1) ?? null);
  if (item.url) URL.revokeObjectURL(item.url);
  render();
}

// what is shown

function select(item) {
  selected = item;
  if (viewOf(item) === "draft" && item.plannedAt && Date.now() - item.plannedAt > STALE_MS) planAll(item);
  render();
}

function render() {
  const view = viewOf(selected);
  const section = showSection(view);
  if (selected) {
    showPanel(section, view, selected);
    showPicture(selected);
  }
  $("tools").hidden = view !== "done";
  showStrip(items, selected, select);
  announce(selected, view);
}

/** Show the panel's part for that state; the focus goes with it, not to the top of the page. */
function showSection(view) {
  const sections = [...$("panel").children];
  const shown = sections.find((section) => section.dataset.for === view);
  const changed = document.body.dataset.view !== view;
  const hadFocus = changed && $("panel").contains(document.activeElement);
  document.body.dataset.view = view;
  $("empty").hidden = view !== "empty";
  $("panel").hidden = view === "empty";
  if (view === "empty") $("viewer").hidden = $("blank").hidden = true;
  for (const section of sections) section.hidden = section !== shown;
  if (hadFocus) (shown?.querySelector("h2") ?? $("pick")).focus();
  return shown;
}

function showPicture(item) {
  const result = item.job?.result;
  const size = result?.upscaled_size ?? item.natural;
  $("blank").hidden = Boolean(size) || item.natural === undefined;
  $("viewer").hidden = !size;
  $("faces").hidden = !result?.faces?.length;
  if (!size) return;
  const { fresh } = item;
  item.fresh = false;
  viewer.show({ before: item.natural && item.url, after: result?.url, size, original: result?.original_size, faces: result?.faces, fresh });
}

function lose(item) {
  if (item?.job?.result) fail(item, new api.Problem("The server no longer has this result."));
}

function showZoom({ fitted, real }) {
  $("fit").setAttribute("aria-pressed", fitted);
  $("real").setAttribute("aria-pressed", real);
}

// what people do

form.addEventListener("input", ({ target }) => {
  const { elements } = form;
  selected.options = {
    target_resolution: elements.target_resolution.value,
    enhance_faces: elements.enhance_faces.checked,
    face_strength: elements.face_strength.value,
    fit: elements.fit.checked ? "exact" : "passes",
    output_format: elements.output_format.value,
    quality: elements.quality.value,
    model: elements.model.value,
  };
  usual = { ...selected.options };
  if (REPLANNED.includes(target.name)) {
    selected.plans = {};
    planAll(selected);
  }
  render();
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
  if (await api.isGone(target.href)) lose(item); // of which the browser itself says nothing
});

$("fit").onclick = () => viewer.fit();
$("real").onclick = () => viewer.real();
$("faces").onclick = () => {
  const shown = $("viewer").classList.toggle("with-faces");
  $("faces").setAttribute("aria-pressed", shown);
};

$("pick").addEventListener("change", ({ target }) => {
  add([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", ({ clipboardData }) => add([...clipboardData.files]));
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
  add([...event.dataTransfer.files]);
});

// time

function tick() {
  const active = items.filter((item) => viewOf(item) === "active" && item.sent === null && !item.later);
  active.sort((a, b) => (b === selected) - (a === selected) || (a.job?.position ?? 0) - (b.job?.position ?? 0));
  follower.follow(active.map(({ id }) => id));
  tryAgainInTime();
}

/** The pictures that were sent before the page was reloaded. */
async function restore() {
  const records = await kept();
  for (const record of records.sort((a, b) => a.at - b.at)) {
    const item = newItem({ ...record, asked: true });
    items.push(item);
    follower.ask(item.id);
  }
  if (items.length && !selected) select(items.at(-1));
}

for (const target of TARGETS) {
  const row = $("size-row").content.firstElementChild.cloneNode(true);
  row.id = `size-${target}`;
  row.querySelector("input").value = target;
  row.querySelector("b").textContent = target;
  $("sizes").append(row);
}
render();
showServer();
restore();
setInterval(tick, TICK_MS);
