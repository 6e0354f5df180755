// The jobs of the service that the pictures become: sent, followed, cancelled, and found again after a reload.

import * as api from "./api.js";
import { forget, keep, kept } from "./keep.js";
import { viewOf } from "./panel.js";
import { changed, copy, drop, fail, failOrWait, items, newItem, select, selected } from "./pictures.js";
import { requestOf } from "./plans.js";
import { server, showServer } from "./server.js";

const follower = new api.Follower(onJob, onJobProblem);

// sending

export async function start(item) {
  item.stop?.abort();
  item.stop = new AbortController();
  item.sent = 0;
  item.problem = null;
  item.request ??= requestOf(item);
  if (!item.later?.sending) item.later = null; // that was for its plan
  changed();
  try {
    await remember(item);
    const job = await api.submit(item.id, item.file, item.request, (share) => { item.sent = share; changed(); }, item.stop.signal);
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
  const { id, at, name, file, options, request, job } = item;
  item.over = api.FINAL.includes(job?.status);
  try {
    await keep({ id, at, name, file, options, request, over: item.over });
  } catch (error) {
    console.warn("This browser keeps nothing, so that a reload would lose the pictures.", error);
  }
}

// following

/** Call it now and then: the selected picture's job is followed most closely. */
export function followJobs() {
  const active = items.filter((item) => viewOf(item) === "active" && item.sent === null && !item.later);
  active.sort((a, b) => (b === selected) - (a === selected) || (a.job?.position ?? 0) - (b.job?.position ?? 0));
  follower.follow(active.map(({ id }) => id));
}

/** The pictures that were sent before the page was reloaded. */
export async function restore() {
  const records = await kept();
  for (const record of records.sort((a, b) => a.at - b.at)) {
    const item = newItem({ ...record, asked: true });
    items.push(item);
    follower.ask(item.id);
  }
  if (items.length && !selected) select(items.at(-1));
}

function onJob(job) {
  const item = items.find(({ id }) => id === job.id);
  if (!item || api.FINAL.includes(item.job?.status)) return;
  const finished = api.FINAL.includes(job.status);
  item.fresh = job.status === "succeeded" && !item.asked;
  Object.assign(item, { job, note: "", asked: false });
  if (job.status === "failed") item.problem = problemOf(job.error);
  if (finished && !item.over) remember(item);
  changed();
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
  changed();
}

/** The server does not know this job: a result that it has removed since, or one that was lost with a restart. */
async function forgotten(item, problem) {
  await forget(item.id);
  if (item.over) return drop(item);
  Object.assign(item, { job: null, asked: false });
  problem.message = "The server does not know this picture any more, or has never got all of it. Send it again.";
  return fail(item, problem, () => start(item));
}

// ending

/** What is still being sent has made no job yet; what has just been sent will have, which `start` then cancels. */
export async function cancel(item) {
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

/** Of what was being sent; the server may have got it all the same, and only its response was lost. */
async function giveUp(item) {
  item.later = null;
  forget(item.id);
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
  forget(item.id);
  drop(item);
}

/** The result cannot be loaded. */
export function lose(item) {
  if (item?.job?.result) fail(item, new api.Problem("The server no longer has this result."));
}
