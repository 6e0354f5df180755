// The list of pictures, one of which is selected: each is a draft first, with what the server plans for it.

import * as api from "./api.js";
import { keep, note } from "./keep.js";
import { TARGETS, viewOf } from "./panel.js";
import { server, showServer } from "./server.js";
import * as words from "./words.js";

const NO_USE = [400, 413]; // the same request would get the same response
const STALE_MS = 15000; // after which a plan's waiting time is asked for again
const LONGEST_PAUSE_SECONDS = 30; // between two tries of what the server cannot take just now

export const items = [];
export let selected = null; // an item; null: the invitation to choose a picture
let usual = { // as last chosen
  target_resolution: "4k", enhance_faces: true, face_strength: "1", fit: "passes", output_format: "", quality: "95", model: "",
};
let listener = () => {};

/** From now on, `render` is called after every change. */
export function onChange(render) {
  listener = render;
}

/** Whoever changes a picture says so. */
export function changed() {
  listener();
}

// the list

export async function add(files) {
  const added = files.map((file) => newItem({ id: api.newId(), name: file.name || "pasted.png", file }));
  items.push(...added);
  if (added.length) select(added[0]);
  for (const item of added) await read(item);
}

/** `at` is its place among the others after a reload. */
export function newItem({ id, name, file, options, at = after(items.at(-1)), draft = true, queued = false, over = false, resent = false, kept = false }) {
  const item = { id, name, file, options: { ...usual, ...options }, at, draft, queued, over, resent, kept, asked: !draft, job: null, plans: {}, plannedAt: 0, problem: null, later: null, sent: null, note: "" };
  preview(item);
  return item;
}

let latest = 0;

function after(item) {
  latest = Math.max(Date.now(), (item?.at ?? 0) + 1, latest + 1);
  return latest;
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
  changed();
}

export function select(item) {
  selected = item;
  if (viewOf(item) === "draft" && item.plannedAt && Date.now() - item.plannedAt > STALE_MS) planAll(item);
  changed();
}

export function drop(item) {
  const index = items.indexOf(item);
  if (index < 0) return;
  items.splice(index, 1);
  item.stop?.abort();
  if (item === selected) select(items[index] ?? items.at(-1) ?? null);
  if (item.url) URL.revokeObjectURL(item.url);
  changed();
}

/** The same picture once more, as a draft. */
export function copy(item, then = planAll) {
  const next = items[items.indexOf(item) + 1];
  const at = next && (item.at + next.at) / 2;
  const made = newItem({ id: api.newId(), name: item.name, file: item.file, options: item.options, at });
  items.splice(items.indexOf(item) + 1, 0, made);
  keep(made).then(changed);
  select(made);
  return then(made);
}

/** For the selected picture, and for those that are added from now on. */
export function setOptions(options, replanned) {
  usual = { ...options };
  setOptionsOf(selected, options, replanned);
}

/** For all drafts, what was chosen for the selected one. */
export async function shareOptions() {
  const { options } = selected;
  const others = items.filter((item) => item !== selected && viewOf(item) === "draft");
  for (const item of others) await setOptionsOf(item, { ...options }, true);
}

async function setOptionsOf(item, options, replanned) {
  item.options = options;
  note(item);
  if (replanned) item.plans = {};
  changed();
  if (replanned) await planAll(item);
}

/** Of the size that was chosen; undefined while it is asked for. */
export const planOf = ({ plans, options }) => plans[options.target_resolution];

// the plans

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
  if (!items.includes(item)) return undefined; // removed meanwhile
  keep(item).then(changed);
  return planAll(item);
}

/** Ask for each target what it would give; that of the chosen one first tells whether the picture is any good. */
export async function planAll(item) {
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
  changed();
}

/** What that size would be, or why it cannot be; throws what is wrong with all sizes, or with the server. */
async function planOne(item, target, stop) {
  try {
    item.plans[target] = await api.plan(item.file, { ...item.options, target_resolution: target }, stop.signal);
  } catch (problem) {
    if (problem.code !== "image_too_large" && !problem.field && !problem.details.predicted_seconds) throw problem;
    item.plans[target] = { error: words.reason(problem, server?.limits?.[target], item.options.fit) };
  }
  changed();
}

// what went wrong

export function fail(item, problem, again = null) {
  Object.assign(item, { problem, later: null });
  problem.again = NO_USE.includes(problem.status) ? null : again;
  if (problem.status === 401) problem.again = () => location.reload();
  changed();
}

/** Where the server can be asked again later, that is done, by and by, and the picture stays a draft, or on its way. */
export function failOrWait(item, problem, again, sending = false) {
  if (problem.code === "unreachable" && server) showServer();
  if (problem.retrySeconds === null) return fail(item, problem, again);
  const tries = (item.later?.tries ?? 0) + 1;
  const seconds = Math.max(problem.retrySeconds, Math.min(2 ** tries, LONGEST_PAUSE_SECONDS));
  item.later = { message: problem.message, again, sending, tries, at: Date.now() + 1000 * seconds };
  changed();
}

export function tryAgainInTime() {
  for (const { later } of items) {
    if (!later || later.at > Date.now()) continue;
    later.at = Infinity; // it is being tried
    later.again();
  }
  if (selected?.later) changed();
}
