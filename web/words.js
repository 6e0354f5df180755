// Figures as people say them.

export const size = ({ width, height }) => `${width} × ${height}`;

export const bytes = (count) => (count < 1e6 ? `${Math.max(Math.round(count / 1e3), 1)} KB` : `${(count / 1e6).toFixed(1)} MB`);

/** A time that was measured: "9.4 s", "2 min 5 s". */
export function took(seconds) {
  if (seconds < 0.1) return "less than 0.1 s";
  return seconds < 10 ? `${seconds.toFixed(1)} s` : whole(seconds);
}

/** A time that is expected, in no more detail than it deserves. */
export function about(seconds) {
  if (seconds < 1.5) return "about a second";
  return `about ${whole(seconds > 30 ? Math.round(seconds / 5) * 5 : seconds)}`;
}

function whole(seconds) {
  const rounded = Math.round(seconds);
  if (rounded < 90) return `${rounded} s`;
  const minutes = Math.floor(rounded / 60);
  if (minutes < 60) return rounded % 60 ? `${minutes} min ${rounded % 60} s` : `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export const count = (number, one, many) => (number === 1 ? `1 ${one}` : `${number} ${many}`);

/** What the file of a result is called on the disk of whoever downloads it. */
export const resultName = (name, { upscaled_size: { width, height }, url }) =>
  `${name.replace(/\.[^.]+$/, "")}-${width}x${height}.${url.split(".").pop()}`;

export const passes = (scales) => scales.map((scale) => `${scale}×`).join(", then ");

export function faces({ faces_detected: found, faces_enhanced: restored }, asked) {
  if (!asked) return "as they were";
  if (!found) return "none found";
  return `${found} found, ${restored ? "restored" : "not restored"}`;
}

/** Why one of the sizes is not possible; `limits` are the server's for it, `fit` what was asked for. */
export function reason({ code, message, details }, limits, fit) {
  if (code === "deadline_exceeded" && details.predicted_seconds) {
    return `Would take ${about(details.predicted_seconds)}; the server allows ${whole(details.timeout_seconds)}`;
  }
  if (code !== "image_too_large") return message;
  const side = Math.max(details.width, details.height);
  const exact = fit !== "exact" && side < limits?.target_px ? ". Exact size would reach it" : "";
  return `Takes pictures of up to ${details.max_input_px} px a side; this has ${side}${exact}`;
}

/** Where the type alone tells that the server will not take it, why. */
export function unsupported({ name, type }) {
  const ending = /\.(svg|jxl|dng|cr2|nef|arw|raw|psd|pdf|mp4|mov)$/i.exec(name)?.[1];
  if (/^image\/(png|jpeg|webp|bmp|x-ms-bmp|tiff|avif|heic|heif|gif)$/.test(type) || (!type && !ending)) return "";
  const kind = (/\.(\w{1,5})$/.exec(name)?.[1] ?? type.split("/").pop()).toUpperCase();
  return `${kind} is none of the formats that the server takes: save it as PNG, JPEG, WebP, BMP, TIFF, AVIF, HEIC or GIF, and try again.`;
}
