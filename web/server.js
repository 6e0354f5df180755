// What the server says of itself, and what follows from it for the page.

import { health } from "./api.js";
import { $, setText } from "./panel.js";

const STARTING_MS = 2000;

/** The last response of /health; null while there is none. */
export let server = null;

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
    ?? `Ready, on a ${/^cuda/.test(server.device) ? "GPU" : "CPU"}`);
  if (server) showLimits();
  if (state !== "healthy" && state !== "degraded") setTimeout(showServer, STARTING_MS);
}

function showLimits() {
  setText($("limits"), `PNG, JPEG, WebP, BMP, TIFF, AVIF, HEIC or GIF, up to ${server.max_image_size_mb} MB. It goes to this server and to nobody else.`);
  $("model").hidden = !server.models?.upscale_x4_anime?.loaded;
  $("strength").hidden = !server.models?.face_restoration?.loaded;
  const missing = server.models?.face_restoration?.reason;
  setText($("faces-note"), missing ? `Found, but not restored on this server: ${missing}` : "Where there are any");
}
