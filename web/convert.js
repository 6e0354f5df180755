// Pictures that the browser cannot show, which the server then does, pictures that are too large, which the browser makes smaller, and parts of pictures.

import * as api from "./api.js";

const SEEN_PX = 64; // of a copy on which transparency is looked for
const SMALLER_PX = [3840, 2560, 1920, 1280, 960, 640]; // long sides
const JPEG_QUALITY = 0.95;
const WITHOUT_ALPHA = /^image\/(jpeg|bmp|x-ms-bmp)$/;

/** Find out how the browser shows the picture: `natural` is its upright size, left out where the browser cannot. */
export async function look(item) {
  item.url = URL.createObjectURL(item.file);
  try {
    const image = await imageAt(item.url);
    const size = { width: image.naturalWidth, height: image.naturalHeight };
    Object.assign(item, { natural: size, alpha: !WITHOUT_ALPHA.test(item.file.type) && hasAlpha(image) });
  } catch {
    URL.revokeObjectURL(item.url);
    item.url = null;
  }
}

/** Let the server show what the browser cannot; throws what it says of the picture. */
export async function showByServer(item) {
  const { blob, size } = await api.preview(item.file);
  Object.assign(item, { natural: size, url: URL.createObjectURL(blob), alpha: blob.type === "image/png" });
}

function hasAlpha(image) {
  const context = new OffscreenCanvas(SEEN_PX, SEEN_PX).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, SEEN_PX, SEEN_PX);
  return context.getImageData(0, 0, SEEN_PX, SEEN_PX).data.some((value, index) => index % 4 === 3 && value < 255);
}

/** The long side, of at most that many pixels, that a smaller copy of it would have; null where it cannot have one here. */
export function smallerPx({ natural, url }, most = Infinity) {
  if (!natural || !url) return null;
  return Math.min(SMALLER_PX.find((px) => px <= most) ?? SMALLER_PX.at(-1), Math.max(natural.width, natural.height));
}

/** Make the picture smaller, in place; false where no copy has few enough bytes. */
export async function makeSmaller(item, most, maxBytes) {
  const image = await imageAt(item.url);
  const type = item.alpha ? "image/png" : "image/jpeg";
  for (const px of [most, ...SMALLER_PX.filter((less) => less < most)]) {
    const canvas = scaled(image, item.natural, px);
    const file = await encoded(canvas, type);
    if (!file || file.size > maxBytes) continue;
    URL.revokeObjectURL(item.url);
    const natural = { width: canvas.width, height: canvas.height };
    Object.assign(item, { file, natural, url: URL.createObjectURL(file), madeFrom: item.madeFrom ?? item.natural, plan: null });
    return true;
  }
  return false;
}

/** Halved as often as possible first: one step of more than that would leave out pixels. */
function scaled(image, { width, height }, px) {
  const share = Math.min(px / Math.max(width, height), 1);
  const target = { width: Math.max(Math.round(width * share), 1), height: Math.max(Math.round(height * share), 1) };
  let source = image;
  let size = { width: image.naturalWidth, height: image.naturalHeight };
  do {
    const isLast = size.width <= 2 * target.width;
    size = isLast ? target : { width: Math.ceil(size.width / 2), height: Math.ceil(size.height / 2) };
    source = drawn(source, size);
  } while (size !== target);
  return source;
}

function drawn(source, { width, height }) {
  const canvas = canvasOf(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  return canvas;
}

/** That picture, decoded; throws where the browser cannot. */
async function imageAt(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

/** What is on a canvas, as a file; null where the browser has no memory for it. */
const encoded = (canvas, type) => new Promise((resolve) => { canvas.toBlob(resolve, type, JPEG_QUALITY); });

/** A part of the picture's own pixels, as PNG; the box is in pixels of its size. */
export async function cut({ url, natural }, { left, top, width, height }) {
  const image = await imageAt(url);
  const ratio = image.naturalWidth / natural.width; // below 1 where the server shows less than all pixels
  const canvas = canvasOf(width, height);
  canvas.getContext("2d").drawImage(image, left * ratio, top * ratio, width * ratio, height * ratio, 0, 0, width, height);
  return encoded(canvas, "image/png");
}
