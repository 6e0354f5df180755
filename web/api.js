// The service's public HTTP interface: requests, their errors in words, and following a job to its end.
// Every path is relative to the page's own, since a proxy may serve both under a path that the service does not know.

export const FINAL = ["succeeded", "failed", "canceled"];
const SILENT_MS = 5000; // after which a stream of events is helped out by asking
const POLL_MS = 2500;
const PREVIEW_PX = 4096; // of pictures that the browser cannot show: all the pixels of most telephones

/** Something that went wrong, in a sentence for a person; `retrySeconds` where it may go right later. */
export class Problem extends Error {
  constructor(message, { status = 0, code = "", requestId = "", field = "", retrySeconds = null, details = {} } = {}) {
    super(message);
    Object.assign(this, { status, code, requestId, field, retrySeconds, details });
  }
}

// For responses that are not the service's own, such as a proxy's; its own bring their sentence with them.
const SENTENCES = {
  401: "The server wants a key, and did not get one that it knows.",
  403: "The server, or something in front of it, does not allow this.",
  413: "The file is too large for the server.",
  429: "These are too many requests at once.",
  502: "Something in front of the server cannot reach it.",
  503: "The server is busy, or starting.",
  504: "The server took too long.",
};

let locked = null; // the problem, once the server has wanted a key and got none: it asks for one when the page is loaded again

/** A request; resolves to the JSON response, or rejects with a `Problem`. `onSent` hears the share of the body that has gone out. */
export function call(method, path, { file = null, headers = {}, onSent = null, signal = null } = {}) {
  if (locked) return Promise.reject(locked); // or the browser would ask for a key each time
  if (signal?.aborted) return Promise.reject(stopped());
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how much of a body has been sent
    request.open(method, path);
    request.responseType = "json";
    if (file) request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    if (onSent) request.upload.onprogress = ({ loaded, total }) => onSent(loaded / total);
    request.onload = () => (request.status < 400 && request.response ? resolve(request.response) : reject(problemOf(request.status, request.response, request.getResponseHeader("Retry-After"))));
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(stopped());
    signal?.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

const stopped = () => new Problem("Stopped.", { code: "aborted" });
const unreachable = () => new Problem("The server cannot be reached.", { code: "unreachable", retrySeconds: 5 });

function problemOf(status, response, pause) {
  const body = response ?? {}; // null where it is no JSON
  const message = status === 401 ? SENTENCES[401] : body.error ?? SENTENCES[status];
  const retryAfter = parseInt(pause, 10);
  const problem = new Problem(message ?? `The server answered ${status}, and did not say why.`, {
    status,
    code: body.code ?? "",
    requestId: body.request_id ?? "",
    field: body.field ?? "",
    retrySeconds: Number.isNaN(retryAfter) ? null : retryAfter,
    details: body,
  });
  if (problem.status === 401) locked = problem;
  return problem;
}

/** GET /health, whose body tells the state while the status is 503, too. */
export async function health() {
  const response = await fetch("health");
  return response.json();
}

/** What each size would be for a picture of that width and height. */
export const plan = (asked) => call("GET", `plan?${query(asked)}`);

/** The picture as the browser can show it, and its upright size. */
export async function preview(file) {
  const response = await send(`preview?max_px=${PREVIEW_PX}`, file);
  const [width, height] = response.headers.get("X-Upscale-Original-Size").split("x").map(Number);
  return { blob: await response.blob(), size: { width, height } };
}

/** A small picture, made at once. */
export const upscale = async (file, options, signal) => (await send(`upscale?${query(options)}`, file, signal)).blob();

const send = (path, file, signal = null) =>
  respond(path, { method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream", Accept: "image/*" }, signal });

/** The bytes of a result. */
export const download = async (url, signal) => (await respond(url, { signal })).blob();

/** How many they are. */
export const sizeOf = async (url, signal = null) => Number((await respond(url, { method: "HEAD", signal })).headers.get("Content-Length"));

async function respond(path, request) {
  if (locked) throw locked;
  const response = await fetch(path, request).catch((error) => {
    throw request.signal?.aborted ? error : unreachable();
  });
  if (!response.ok) throw problemOf(response.status, await response.json().catch(() => null), response.headers.get("Retry-After"));
  return response;
}

/** The same id may be sent twice, so that a lost connection makes no second job. */
export const submit = (id, file, options, onSent, signal) =>
  call("PUT", `jobs/${id}?${query(options)}`, { file, onSent, signal, headers: { Prefer: "respond-async" } });

export const getJob = (id) => call("GET", `jobs/${id}`);
export const cancelJob = (id) => call("POST", `jobs/${id}/cancel`);

function query(options) {
  return new URLSearchParams(Object.entries(options).filter(([, value]) => value !== ""));
}

/** Where the file of a result is, as seen from this page. */
export const fileOf = ({ url }) => `files/${url.split("/").pop()}`;

/** An id that nobody guesses; crypto.randomUUID is missing where the page does not come over TLS. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Tells what becomes of jobs: of one by its stream of events (browsers allow six connections a server, not more), of the others,
 * and of that one where the stream breaks or a proxy holds it back, by asking.
 */
export class Follower {
  #source = null;
  #streamed = null;
  #heard = new Map(); // by id, when
  #asking = new Set();

  constructor(onJob, onProblem) {
    this.onJob = onJob;
    this.onProblem = onProblem;
  }

  /** Call it now and then, with the ids of all unfinished jobs, the one to be streamed first. */
  follow(ids) {
    if (ids[0] !== this.#streamed) this.#stream(ids[0]);
    for (const id of ids) {
      const patience = id === this.#streamed ? SILENT_MS : POLL_MS;
      if (!this.#heard.has(id)) this.#heard.set(id, Date.now());
      if (Date.now() - this.#heard.get(id) > patience) this.ask(id);
    }
  }

  async ask(id) {
    if (this.#asking.has(id)) return;
    this.#asking.add(id);
    try {
      this.#hear(await getJob(id));
    } catch (problem) {
      this.onProblem(id, problem);
    } finally {
      this.#heard.set(id, Date.now());
      this.#asking.delete(id);
    }
  }

  #stream(id) {
    this.#source?.close();
    this.#streamed = id;
    this.#source = id && !locked ? new EventSource(`jobs/${id}/events`) : null;
    for (const status of ["starting", "processing", ...FINAL]) {
      this.#source?.addEventListener(status, ({ data }) => this.#hear(JSON.parse(data)));
    }
  }

  #hear(job) {
    this.#heard.set(job.id, Date.now());
    if (FINAL.includes(job.status) && job.id === this.#streamed) this.#stream(undefined); // or it would connect again
    this.onJob(job);
  }
}
