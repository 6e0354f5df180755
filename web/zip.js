// A zip file, written from its beginning to its end: the files as they are, since pictures do not get smaller.

export const MOST_BYTES = 2 ** 32 - 2; // beyond which the format needs fields that not every reader knows
const NAME_BYTES = 255; // of a file, on most disks
const UTF8 = 1 << 11;
const VERSION = 20;
const UNIX = 3 << 8;
const MODE = 0o100644 * 2 ** 16;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit += 1) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

/** The CRC-32 of all the bytes so far. */
export function crc32(bytes, before = 0) {
  let crc = ~before;
  for (let index = 0; index < bytes.length; index += 1) crc = TABLE[(crc ^ bytes[index]) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

export class Zip {
  #entries = [];
  #offset = 0;

  /** `write` takes each part of the file, in order. */
  constructor(write) {
    this.write = write;
  }

  async add(name, blob, date = new Date()) {
    let crc = 0;
    const reader = blob.stream().getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) crc = crc32(part.value, crc);
    const entry = { name: new TextEncoder().encode(name), crc, size: blob.size, date, offset: this.#offset };
    this.#entries.push(entry);
    await this.#put(fields([4, 0x04034b50], ...common(entry)), entry.name, blob);
  }

  async end() {
    const start = this.#offset;
    for (const entry of this.#entries) {
      const { name, offset } = entry;
      await this.#put(fields([4, 0x02014b50], [2, UNIX | VERSION], ...common(entry), [2, 0], [2, 0], [2, 0], [4, MODE], [4, offset]), name);
    }
    const count = this.#entries.length;
    await this.#put(fields([4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, this.#offset - start], [4, start], [2, 0]));
  }

  async #put(...parts) {
    for (const part of parts) {
      await this.write(part);
      this.#offset += part.size ?? part.length;
    }
  }
}

/** What the head of a file and its place in the directory have in common. */
function common({ name, crc, size, date }) {
  const time = (date.getHours() << 11) | (date.getMinutes() << 5) | (date.getSeconds() >> 1);
  const day = ((date.getFullYear() - 1980) << 9) | ((date.getMonth() + 1) << 5) | date.getDate();
  return [[2, VERSION], [2, UTF8], [2, 0], [2, time], [2, day], [4, crc], [4, size], [4, size], [2, name.length], [2, 0]];
}

/** Numbers of that many bytes, the lowest first. */
function fields(...numbers) {
  return Uint8Array.from(numbers.flatMap(([bytes, value]) => Array.from({ length: bytes }, (_, place) => Math.floor(value / 256 ** place) & 0xff)));
}

/** The size of such a file with these names and sizes. */
export function sizeOf(files) {
  return files.reduce((sum, { name, size }) => sum + 76 + 2 * new TextEncoder().encode(name).length + size, 22);
}

/** Names that every system takes, no two of which are the same where capitals are not told apart. */
export function distinct(names) {
  const taken = new Set();
  return names.map((name) => {
    const safe = name.normalize("NFC").replace(/[\\/:*?"<>|\p{Cc}]/gu, "_").replace(/^[. ]+/, "") || "picture";
    const [, stem, ending = ""] = /^(.*?)(\.\w+)?$/.exec(safe);
    let free = fitting(stem, ending);
    for (let number = 2; taken.has(free.toLowerCase()); number += 1) free = fitting(stem, ` (${number})${ending}`);
    taken.add(free.toLowerCase());
    return free;
  });
}

/** Both together, without the middle of what is too long for a file: its end tells the size. */
function fitting(stem, ending) {
  const letters = [...stem];
  const bytes = () => new TextEncoder().encode(letters.join("") + ending).length;
  while (bytes() > NAME_BYTES) letters.splice(letters.length >> 1, 1);
  return letters.join("") + ending;
}
