// The list of pictures, one of which is selected: each is a draft first, with what the server plans for it.

import * as api from "./api.js";
import { look, makeSmaller, showByServer, smallerPx } from "./convert.js";
import { keep, note } from "./keep.js";
import { viewOf } from "./panel.js";
import { isStale, obstacle, plan } from "./plans.js";
import { answered, server, showServer } from "./server.js";
import * as words from "./words.js";

const NO_USE = [400, 413]; // the same request would get the same response
const LONGEST_PAUSE_SECONDS = 30; // between two tries of what the server cannot take just now

export const items = [];
export let selected = null; // an item; null: the invitation to choose a picture
let usual = { // as last chosen; no size and no speed: the page chooses
  size: "", speed: "", kind: "photo", exact: false, enhance_faces: true, face_strength: "1", output_format: "", quality: "95",
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

/** `at` is its place among the others after a reload; `request` what was asked for, once it has been. */
export function newItem({
  id, name, file, options, request = null, at = after(items.at(-1)), madeFrom = null, draft = true, queued = false, taken = false, over = false, resent = false, kept = false,
}) {
  const item = {
    id, name, file, options: { ...usual, ...options }, request, at, madeFrom, draft, queued, taken, over, resent, kept,
    asked: !draft, job: null, plan: null, plannedAt: 0, problem: null, later: null, sent: null, note: "",
  };
  looking = looking.then(() => look(item));
  item.looked = looking.then(changed);
  if (!draft) see(item).catch(() => {}); // the stage says so
  return item;
}

let looking = Promise.resolve(); // one after another, since each is as large as its pixels meanwhile
let latest = 0;

function after(item) {
  latest = Math.max(Date.now(), (item?.at ?? 0) + 1, latest + 1);
  return latest;
}

/** What the browser cannot show, the server shows, or says what is wrong with it. */
async function see(item) {
  await item.looked;
  if (item.natural) return;
  try {
    await showByServer(item);
  } catch (problem) {
    item.natural = null;
    throw problem;
  } finally {
    changed();
  }
}

export function select(item) {
  selected = item;
  if (viewOf(item) === "draft" && isStale(item)) planItem(item);
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
export function copy(item, then = consider) {
  const next = items[items.indexOf(item) + 1];
  const at = next && (item.at + next.at) / 2;
  const made = newItem({ id: api.newId(), name: item.name, file: item.file, options: item.options, madeFrom: item.madeFrom, at });
  items.splice(items.indexOf(item) + 1, 0, made);
  keep(made).then(changed);
  select(made);
  return then(made);
}

/** For the selected picture, and for those that are added from now on. */
export function setOptions(options) {
  usual = { ...options };
  setOptionsOf(selected, options);
}

/** For all drafts, what was chosen for the selected one. */
export function shareOptions() {
  const drafts = items.filter((item) => viewOf(item) === "draft");
  for (const item of drafts) setOptionsOf(item, { ...selected.options });
}

function setOptionsOf(item, options) {
  const replanned = options.enhance_faces !== item.options.enhance_faces;
  item.options = options;
  note(item);
  if (replanned) planItem(item);
  changed();
}

/** A copy of fewer pixels takes the picture's place. */
export async function shrink(item) {
  const px = item.problem.details.smallerPx;
  item.problem = null;
  changed();
  if (!(await makeSmaller(item, px, maxBytes()))) return fail(item, new api.Problem("The browser cannot make this picture small enough."));
  keep(item).then(changed);
  return planItem(item);
}

const maxBytes = () => (server?.max_image_size_mb ?? Infinity) * 2 ** 20;

// the plans

/** Copy the file into memory, so that it stays what it is, and refuse what is known to fail. */
async function read(item) {
  const { file } = item;
  const reason = words.unsupported({ name: item.name, type: file.type });
  if (reason) return fail(item, new api.Problem(reason));
  try {
    item.file = new Blob([await file.arrayBuffer()], { type: file.type });
  } catch {
    return fail(item, new api.Problem("The file cannot be read. Was it moved, or is it a folder?"));
  }
  if (!items.includes(item)) return undefined; // removed meanwhile
  keep(item).then(changed);
  return consider(item);
}

/** Whether the server takes it, and what it would make of it. */
export async function consider(item) {
  await Promise.all([item.looked, answered]);
  const { size } = item.file;
  if (size > maxBytes()) return refuse(item, `The file has ${words.bytes(size)}; the server takes up to ${server.max_image_size_mb} MB.`);
  return planItem(item);
}

/** Ask what each size would give. */
async function planItem(item) {
  try {
    await see(item);
    await plan(item);
  } catch (problem) {
    if (item.draft) failOrWait(item, problem, () => planItem(item));
    return;
  }
  if (!item.later?.sending) item.later = null;
  const against = obstacle(item);
  if (against) refuse(item, against.message, against.px);
  else changed();
}

/** It is too large; a copy of at most that many pixels a side would do, if the browser can make one. */
function refuse(item, message, px) {
  fail(item, new api.Problem(message, { details: { smallerPx: smallerPx(item, px) } }));
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
