// What the server says of itself, and what follows from it for the page.

import { health } from "./api.js";
import { $, setText } from "./dom.js";
import * as words from "./words.js";

const STARTING_MS = 2000;

/** The last response of /health; null while there is none. */
export let server = null;

export const hasCard = () => /^cuda/.test(server?.device ?? "");

/** As long as nothing is known of it, it can. */
export const canRestoreFaces = () => ["face_detection", "face_restoration"].every((name) => server?.models?.[name]?.loaded !== false);

/** Ask how the server is, again and again until it is well. */
export async function showServer() {
  try {
    server = await health();
  } catch {
    server = null;
  }
  const state = server?.status ?? "unreachable";
  $("server").dataset.state = state;
  setText($("server"), { starting: "Loading the models…", draining: "Shutting down", unreachable: "Cannot be reached" }[state]
    ?? `Ready, on a ${hasCard() ? "GPU" : "CPU"}${words.lacks(server)}`);
  $("server").title = words.whyDegraded(server);
  if (server) showLimits();
  if (state !== "healthy" && state !== "degraded") setTimeout(showServer, STARTING_MS);
}

/** Over once the server has said how it is, or cannot be reached. */
export const answered = showServer();

function showLimits() {
  setText($("limits"), `${words.FORMATS}, up to ${server.max_image_size_mb} MB. It goes to this server and to nobody else.`);
  $("strength").hidden = !server.models?.face_restoration?.loaded;
  const canRestore = canRestoreFaces();
  $("draft").elements.enhance_faces.disabled = !canRestore;
  setText($("faces-note"), canRestore ? "Where there are any" : "This server cannot restore faces");
  $("faces-row").title = canRestore ? "" : server.models.face_restoration.reason ?? server.models.face_detection.reason;
}
