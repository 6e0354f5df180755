// How pictures come in: chosen, pasted, or dropped, with all that is in a folder.

import { notify } from "./dom.js";
import { add } from "./pictures.js";
import * as words from "./words.js";

const UNREADABLE = { name: "", type: "" }; // the disk does not give it
const KNOWN = /\.(png|jpe?g|webp|bmp|tiff?|avif|hei[cf]|gif)$/i;

/** Take them; of several, those that are no pictures are counted, where one alone is told what it is. */
export function take(files, fromFolder = false) {
  const pictures = files.length > 1 || fromFolder ? files.filter(isPicture) : files;
  const others = files.length - pictures.length;
  add(pictures);
  if (!files.length && fromFolder) notify("The folder is empty.");
  else if (!pictures.length && others) notify(`No picture among ${words.count(others, "file", "files")}.`);
  else if (others) notify(`${words.count(pictures.length, "picture", "pictures")} added, ${words.count(others, "other file", "other files")} left out.`);
}

/** What was pasted or dropped. */
export async function takeFrom(data) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean); // now: the list is empty later
  const files = [...data.files];
  const said = files.length ? "" : words.noFile(data);
  if (said) notify(said);
  if (!entries.some(({ isDirectory }) => isDirectory)) return take(files);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return take(found, true);
}

/** The files in a folder and those below it, in the order of their names, without hidden ones. */
async function walk(entry, found) {
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) return void found.push(await promised((...both) => entry.file(...both)).catch(() => UNREADABLE));
  const reader = entry.createReader();
  const children = [];
  for (let some = await more(reader); some.length; some = await more(reader)) children.push(...some); // some hundred at a time
  children.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  for (const child of children) await walk(child, found);
}

const promised = (act) => new Promise((resolve, reject) => act(resolve, reject));
const more = (reader) => promised((...both) => reader.readEntries(...both));

const isPicture = ({ name, type }) => (type || KNOWN.test(name)) && !words.unsupported({ name, type });
