// All results in one zip file, made in this browser: straight onto the disk where it can, else in the browser's own store first.

import * as api from "./api.js";
import { notify } from "./dom.js";
import { lose } from "./jobs.js";
import { changed, items } from "./pictures.js";
import * as words from "./words.js";
import * as zip from "./zip.js";

const NAME = "upscaled.zip";

/** While one is made: how many pictures are in it, of how many. */
export let packing = null;

export async function downloadAll() {
  if (packing) return packing.stop.abort();
  const stop = new AbortController();
  packing = { done: 0, of: 0, stop };
  changed();
  try {
    await pack(stop.signal);
  } catch (error) {
    if (!stop.signal.aborted && error.name !== "AbortError") notify(`There is no zip file. ${error.message}`);
  }
  packing = null;
  changed();
  return undefined;
}

async function pack(signal) {
  const files = await results(signal);
  packing.of = files.length;
  if (!files.length) return;
  const bytes = zip.sizeOf(files);
  if (bytes > zip.MOST_BYTES) throw new Error(`It would have ${words.bytes(bytes)}, and one takes up to 4 GB: remove some of the pictures.`);
  const target = await openTarget();
  try {
    const archive = new zip.Zip(target.write);
    for (const { name, url } of files) {
      await archive.add(name, await api.download(url, signal));
      packing.done += 1;
      changed();
    }
    await archive.end();
  } catch (error) {
    await target.abort();
    throw error;
  }
  await target.close();
  notify(`${words.count(files.length, "picture is", "pictures are")} in ${NAME}.`);
}

/** Where they are, how large, and their names in the file; those that the server does not have any more are lost. */
async function results(signal) {
  const done = items.filter(({ job }) => job?.status === "succeeded");
  const names = zip.distinct(done.map(({ name, job }) => words.resultName(name, job.result)));
  const files = [];
  for (const [index, item] of done.entries()) {
    const { url } = item.job.result;
    try {
      files.push({ name: names[index], url, size: await api.sizeOf(url, signal) });
    } catch (problem) {
      if (problem.status !== 404) throw problem;
      lose(item);
    }
  }
  return files;
}

/** A file of the disk, which the person chooses, where the browser lets a page write one; it needs a click not long ago. */
async function openTarget() {
  if (window.showSaveFilePicker && navigator.userActivation?.isActive) {
    const handle = await window.showSaveFilePicker({ suggestedName: NAME, types: [{ accept: { "application/zip": [".zip"] } }] });
    const stream = await handle.createWritable();
    return { write: (part) => stream.write(part), close: () => stream.close(), abort: () => stream.abort() };
  }
  const parts = [];
  return { write: (part) => void parts.push(part), close: () => give(new Blob(parts, { type: "application/zip" })), abort: () => {} };
}

function give(blob) {
  const link = document.createElement("a");
  link.download = NAME;
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // not before the browser has begun
}
