// Figures as people say them.

export const FORMATS = "PNG, JPEG, WebP, BMP, TIFF, AVIF, HEIC or GIF";

export const size = ({ width, height }) => `${width} × ${height}`;

export function bytes(count) {
  if (count < 1e6) return `${Math.max(Math.round(count / 1e3), 1)} KB`;
  return count < 1e9 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e9).toFixed(1)} GB`;
}

/** A time that was measured: "9.4 s", "2 min 5 s". */
export function took(seconds) {
  if (seconds < 0.1) return "less than 0.1 s";
  return seconds < 10 ? `${seconds.toFixed(1)} s` : whole(seconds);
}

/** A time that is expected, in no more detail than it deserves. */
export function about(seconds) {
  if (seconds < 1.5) return "about a second";
  const step = seconds < 30 ? 1 : seconds < 300 ? 5 : 60;
  return `about ${whole(Math.round(seconds / step) * step)}`;
}

/** Of what waits before it, the end of a sentence. */
export const queued = ({ queue_seconds: seconds }) => (seconds >= 1 ? `, after ${about(seconds)} in the queue` : "");

export function whole(seconds) {
  const rounded = Math.round(seconds);
  if (rounded < 90) return `${rounded} s`;
  const minutes = Math.floor(rounded / 60);
  if (minutes < 60) return rounded % 60 ? `${minutes} min ${rounded % 60} s` : `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Of a zoom. */
export const percent = (share) => `${share < 0.1 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;

export const count = (number, one, many) => (number === 1 ? `1 ${one}` : `${number} ${many}`);

/** What the file of a result is called on the disk of whoever downloads it. */
export const resultName = (name, { upscaled_size: { width, height }, url }) =>
  `${name.replace(/\.\w{1,5}$/, "")}-${width}x${height}.${url.split(".").pop()}`;

export const passes = (scales) => scales.map((scale) => `${scale}×`).join(", then ");

// What a server does without, by the name of the model that is missing.
const WITHOUT = {
  face_restoration: "face restoration",
  face_detection: "face restoration",
  face_parsing: "soft edges of faces",
  upscale_x4_anime: "a model for drawings",
  upscale_x4_photo_fast: "fast photographs",
  upscale_x4_anime_fast: "fast drawings",
  upscale_x2: "a quick 2×",
};

/** What a server that is degraded cannot do, the gravest of it, as the end of a sentence. */
export function lacks({ status, models, workers }) {
  if (status !== "degraded") return "";
  if (workers.some(({ state }) => state === "lost" || state === "absent")) return ", with a part out of use";
  const missing = Object.keys(WITHOUT).filter((name) => models[name]?.loaded === false);
  return `, without ${WITHOUT[missing[0]] ?? "all its models"}`;
}

/** The operator's reasons for it. */
export function whyDegraded(server) {
  if (server?.status !== "degraded") return "";
  const reasons = [...server.workers, ...Object.values(server.models)].map(({ reason }) => reason).filter(Boolean);
  return reasons.join(". ");
}

/** What a button says that makes a picture of that size smaller. */
export function shrink(px, { width, height }) {
  if (px >= Math.max(width, height)) return "Make the file smaller first";
  return `Make it ${px} px ${width < height ? "high" : "wide"} first`;
}

export function faces({ faces_detected: found, faces_enhanced: restored }, asked) {
  if (!asked) return "as they were";
  if (!found) return "none found";
  return `${found} found, ${restored ? "restored" : "not restored"}`;
}

export const sizeName = (size) => size.replace("x", "×");

/** Why that size is not possible: it is none of the server's, or takes longer than the server allows. */
export function reason(size, seconds, limit) {
  if (seconds < Infinity) return `Takes ${about(seconds)}, over the server's ${whole(limit)}`;
  return size.endsWith("x") ? "Too large for the server" : "The picture is as large already";
}

/** What was given instead of a file, if it was anything. */
export function noFile(data) {
  const text = ["text/uri-list", "text/plain", "text/html"].map((type) => data.getData(type).trim()).find(Boolean);
  if (!text) return "";
  return /^(https?|data|blob|file):/i.test(text) ? "That is a link: save the picture and drop the file." : "That is text: drop or paste the file of a picture.";
}

/** Where the type alone tells that the server will not take it, why. */
export function unsupported({ name, type }) {
  const ending = /\.(svg|jxl|dng|cr2|nef|arw|raw|psd|pdf|mp4|mov)$/i.exec(name)?.[1];
  if (/^image\/(png|jpeg|webp|bmp|x-ms-bmp|tiff|avif|heic|heif|gif)$/.test(type) || (!type && !ending)) return "";
  const kind = (/\.(\w{1,5})$/.exec(name)?.[1] ?? type.split("/").pop()).toUpperCase();
  return `${kind} is none of the formats that the server takes: save it as ${FORMATS}, and try again.`;
}
