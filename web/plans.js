// What the server would make of a picture of that size, and what is chosen of it: by the person, else by the page.

import * as api from "./api.js";
import { canRestoreFaces, hasCard } from "./server.js";
import * as words from "./words.js";

export const SIZES = ["2x", "4x", "2k", "4k", "8k"];
const PREFERRED = ["4k", "2k", "4x", "2x", "8k"];
const SOON_SECONDS = 35; // "about half a minute": what the page chooses on a CPU ends within that
const STALE_MS = 15000; // after which a plan's waiting time is asked for again

const answers = new Map(); // by what was asked: when, and the promise of the plan

/** Ask what the server would make of the picture, whose size is known; throws what the server, or the way to it, has against it. */
export async function plan(item) {
  const { width, height } = item.natural;
  const asked = { width, height, enhance_faces: wantsFaces(item), ...(item.alpha && { alpha: true }) };
  item.plannedAt = Date.now();
  const answer = await answerTo(asked);
  if (asked.enhance_faces === wantsFaces(item)) item.plan = answer;
}

function answerTo(asked) {
  const key = JSON.stringify(asked);
  const known = answers.get(key);
  if (known && Date.now() - known.at < STALE_MS) return known.promise;
  const promise = api.plan(asked);
  answers.set(key, { at: Date.now(), promise });
  promise.catch(() => answers.delete(key));
  return promise;
}

export const isStale = ({ plannedAt }) => plannedAt > 0 && Date.now() - plannedAt > STALE_MS;

const wantsFaces = ({ options }) => options.enhance_faces && canRestoreFaces();

/** The size and the model that the picture gets: `{ size, model, plan, seconds }`; null while nothing is planned, or possible. */
export function chosen(item) {
  const { size, speed } = item.options;
  const all = possible(item);
  const ofSize = all.filter((choice) => choice.size === size);
  const left = ofSize.length ? ofSize : all;
  const ofSpeed = left.filter(({ model }) => speed && isFast(model) === (speed === "fast"));
  const choices = ofSpeed.length ? ofSpeed : left;
  if (hasCard()) return choices[0] ?? null;
  return choices.find(({ seconds }) => seconds <= SOON_SECONDS)
    ?? choices.reduce((least, choice) => (least && least.seconds <= choice.seconds ? least : choice), null);
}

/** What would be chosen if the person wanted that; null where it is not possible. */
export function chosenWith(item, wanted) {
  const choice = chosen({ ...item, options: { ...item.options, ...wanted } });
  const fits = choice && (!wanted.size || choice.size === wanted.size) && (!wanted.speed || isFast(choice.model) === (wanted.speed === "fast"));
  return fits ? choice : null;
}

export const canStart = (item) => chosen(item) !== null;

/** Why the picture cannot start, and how long a side it may have to: `{ message, px }`; null where it can, or is not planned yet. */
export function obstacle(item) {
  if (!item.plan || canStart(item)) return null;
  const { natural, plan: { sizes, timeout_seconds: limit } } = item;
  const least = Math.min(...sizes.map((plan) => leastSeconds(item, plan)));
  if (least === Infinity) return { message: `The picture is ${words.size(natural)}: too large for every size.` };
  const px = Math.max(natural.width, natural.height) * Math.sqrt(limit / least);
  return { message: `It would take ${words.about(least)}; the server allows ${words.whole(limit)}.`, px };
}

/** With the quickest model for that kind of picture; Infinity where none makes that size. */
export function leastSeconds(item, { predicted_seconds: seconds = {} }) {
  return Math.min(...modelsOf(item).map((model) => seconds[model] ?? Infinity));
}

/** Of the work alone; null while that is not known. */
export const secondsOf = (item) => chosen(item)?.seconds ?? null;

/** The parameters of the request, as the server wants them. */
export function requestOf(item) {
  const choice = chosen(item);
  const { face_strength, output_format, quality } = item.options;
  return { ...(choice && sizeAsked(choice)), enhance_faces: wantsFaces(item), face_strength, output_format, quality };
}

function sizeAsked({ model, plan: { scale, target_resolution, fit } }) {
  return scale ? { scale, model } : { target_resolution, fit, model };
}

/** All that the server can make within its time, what is best to have first. */
function possible(item) {
  const choices = [];
  for (const size of item.plan ? PREFERRED : []) {
    const plan = planOf(item, size);
    for (const model of modelsOf(item)) {
      const seconds = plan.predicted_seconds?.[model];
      if (plan.possible && seconds <= item.plan.timeout_seconds) choices.push({ size, model, plan, seconds });
    }
  }
  return choices;
}

/** The server's plan for that size; a target that whole passes do not reach is made exact. */
export function planOf({ plan: { sizes }, options }, size) {
  if (size.endsWith("x")) return sizes.find(({ scale }) => scale === parseInt(size, 10));
  const [passes, exact] = ["passes", "exact"].map((fit) => sizes.find((one) => one.target_resolution === size && one.fit === fit));
  return exact.possible && (options.exact || !passes.possible) ? exact : passes;
}

/** The models for that kind of picture that the server has, the best first. */
function modelsOf(item) {
  const loaded = modelsIn(item.plan);
  const ofKind = [item.options.kind, `${item.options.kind}_fast`].filter((name) => loaded.includes(name));
  return ofKind.length ? ofKind : loaded.slice(0, 1);
}

/** The names of the models that the server has; none where it can do nothing with the picture. */
export const modelsIn = ({ sizes }) => Object.keys(sizes.find(({ possible }) => possible)?.predicted_seconds ?? {});

export const isFast = (model) => model.endsWith("_fast");
