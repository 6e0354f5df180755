// The list of pictures, one of which is selected: each is a draft first, with what the server plans for it.

import * as api from "./api.js";
import { look, makeSmaller, showByServer } from "./convert.js";
import { viewOf } from "./panel.js";
import { isStale, modelsIn, plan } from "./plans.js";
import { server, showServer } from "./server.js";
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
  const added = [];
  for (const file of files) {
    const item = newItem({ id: api.newId(), name: file.name || "pasted.png", file });
    added.push(item);
    items.push(item);
  }
  if (added.length) select(added[0]);
  for (const item of added) await read(item);
}

export function newItem({ id, name, file, options, request = null, at = Date.now(), over = false, asked = false }) {
  const item = {
    id, name, file, options: { ...usual, ...options }, request, at, over, asked,
    job: null, plan: null, plannedAt: 0, problem: null, later: null, sent: null, note: "",
  };
  item.looked = look(item).then(changed);
  if (asked) see(item).catch(() => {}); // the stage says so
  return item;
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
export function copy(item, then = planItem) {
  const made = newItem({ id: api.newId(), name: item.name, file: item.file, options: item.options });
  items.splice(items.indexOf(item) + 1, 0, made);
  select(made);
  return then(made);
}

/** For the selected picture, and for those that are added from now on. */
export function setOptions(options) {
  const replanned = options.enhance_faces !== selected.options.enhance_faces;
  selected.options = options;
  usual = { ...options };
  if (replanned) planItem(selected);
  changed();
}

/** A copy of fewer pixels takes the picture's place. */
export async function shrink(item) {
  const { problem } = item;
  item.problem = null;
  changed();
  if (await makeSmaller(item, maxBytes())) return planItem(item);
  return fail(item, new api.Problem("The browser cannot make this picture small enough.", problem));
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
  await item.looked;
  if (file.size > maxBytes()) return fail(item, tooLarge(`The file has ${words.bytes(file.size)}; the server takes up to ${server.max_image_size_mb} MB.`));
  return planItem(item);
}

/** Ask what each size would give. */
export async function planItem(item) {
  try {
    await see(item);
    await plan(item);
  } catch (problem) {
    if (viewOf(item) === "draft") failOrWait(item, problem, () => planItem(item));
    return;
  }
  if (!item.later?.sending) item.later = null;
  if (!modelsIn(item.plan).length) fail(item, tooLarge(`The picture is ${words.size(item.natural)}: too large for every size.`));
  changed();
}

const tooLarge = (message) => new api.Problem(message, { code: "too_large" });

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
