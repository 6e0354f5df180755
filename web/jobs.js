// The jobs of the service that the pictures become: sent, followed, cancelled, and found again after a reload.

import * as api from "./api.js";
import { forget, keep, kept, note, onChangeElsewhere, stateKept } from "./keep.js";
import { viewOf } from "./panel.js";
import { changed, consider, copy, drop, fail, failOrWait, items, newItem, select, selected } from "./pictures.js";
import { requestOf } from "./plans.js";
import { server, showServer } from "./server.js";

const follower = new api.Follower(onJob, onJobProblem);

// sending

export async function start(item) {
  item.stop?.abort();
  item.stop = new AbortController();
  Object.assign(item, { sent: 0, problem: null, draft: false, queued: false, request: item.request ?? requestOf(item) });
  if (!item.later?.sending) item.later = null; // that was for its plan
  changed();
  try {
    await note(item);
    const job = await api.submit(item.id, item.file, item.request, (share) => { item.sent = share; changed(); }, item.stop.signal);
    item.sent = item.later = null;
    onJob(job);
    followJobs(); // a short one is over before the next tick
    if (item.cancelled) cancel(item);
  } catch (problem) {
    item.sent = null;
    if (item.cancelled) giveUp(item);
    else if (problem.status === 409) follow(item); // another tab has sent it, with other settings
    else failOrWait(item, problem, () => start(item), true);
  }
}

/** Once more, since the server has been restarted and lost it; under another id, for that one may be taken: the same id in every tab. */
function resend(item) {
  const { id } = item;
  Object.assign(item, { id: [...id].reverse().join(""), job: null, asked: false, taken: false, resent: true, note: "" });
  keep(item, id).then(changed);
  return start(item);
}

// following

/** Call it now and then: the selected picture's job is followed most closely. */
export function followJobs() {
  const active = items.filter((item) => viewOf(item) === "active" && !item.queued && item.sent === null && !item.later);
  active.sort((a, b) => (b === selected) - (a === selected) || (a.job?.position ?? 0) - (b.job?.position ?? 0));
  follower.follow(active.map(({ id }) => id));
}

/** The pictures that were there before the page was reloaded. */
export async function restore() {
  const restored = (await kept()).map((record) => newItem({ ...record, draft: record.draft ?? false }));
  items.push(...restored);
  if (items.length && !selected) select(items.at(-1));
  for (const item of restored) {
    if (item.draft) await consider(item);
    else await follower.ask(item.id);
  }
}

/** Find out what has become of it. */
function follow(item) {
  Object.assign(item, { draft: false, queued: false, asked: true, problem: null, later: null });
  changed();
  return follower.ask(item.id);
}

onChangeElsewhere(async (id) => {
  const item = items.find((one) => one.id === id);
  if (!item?.kept) return;
  const state = await stateKept(id);
  if (!state) drop(item);
  else if (state.taken && !item.taken && item.sent === null) follow(item);
});

function onJob(job) {
  const item = items.find(({ id }) => id === job.id);
  if (!item || api.FINAL.includes(item.job?.status)) return;
  if (job.error?.code === "interrupted" && !item.resent) return void resend(item);
  item.fresh = job.status === "succeeded" && !item.asked;
  if (job.result) job.result.url = api.fileOf(job.result);
  Object.assign(item, { job, note: "", asked: false });
  if (job.status === "failed") item.problem = problemOf(job.error);
  const over = api.FINAL.includes(job.status);
  if (!item.taken || over !== item.over) {
    Object.assign(item, { taken: true, over });
    note(item);
  }
  changed();
}

function problemOf(error) {
  return new api.Problem(error?.error ?? "The server did not say why.", { code: error?.code, requestId: error?.request_id });
}

function onJobProblem(id, problem) {
  const item = items.find((one) => one.id === id);
  if (!item) return;
  if (problem.status === 404) forgotten(item, problem);
  else if (problem.status === 401) fail(item, problem);
  else item.note = `${problem.message} Trying again…`;
  if (problem.code === "unreachable" && server) showServer();
  changed();
}

/** The server does not know this job: a result that it has removed since, or one that was lost with a restart. */
function forgotten(item, problem) {
  if (item.over) return remove(item);
  if (!item.taken && !item.cancelled) return start(item); // the page was left before the server had all of it
  if (!item.resent && !item.cancelled) return resend(item);
  Object.assign(item, { job: null, asked: false });
  problem.message = "The server does not know this picture any more, or has never got all of it. Send it again.";
  return fail(item, problem, () => start(item));
}

// ending

/** What is still being sent has made no job yet; what has just been sent will have, which `start` then cancels. */
export async function cancel(item) {
  if (item.queued) return wait(item, false);
  item.cancelled = true;
  if (item.later && item.sent === null) return giveUp(item);
  if (item.sent !== null && item.sent < 1) item.stop.abort();
  changed();
  if (item.sent !== null) return;
  try {
    onJob(await api.cancelJob(item.id));
  } catch (problem) {
    Object.assign(item, { cancelled: false, note: problem.message });
    changed();
  }
}

/** Let it wait until it is its turn to be sent, or be a draft again. */
export function wait(item, queued = true) {
  item.queued = queued;
  note(item);
  changed();
}

/** Of what was being sent; the server may have got it all the same, and only its response was lost. */
async function giveUp(item) {
  item.later = null;
  forget(item);
  changed();
  try {
    await api.cancelJob(item.id);
  } catch (problem) {
    if (problem.status !== 404) console.warn("The server may still be at it.", problem);
  }
}

export function retry(item) {
  const again = item.problem?.again;
  item.problem = null;
  if (again) return again();
  return copy(item, (made) => start(made));
}

export function remove(item) {
  forget(item);
  drop(item);
}

/** The result cannot be loaded. */
export function lose(item) {
  if (item?.job?.result) fail(item, new api.Problem("The server no longer has this result."));
}
