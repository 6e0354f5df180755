// A spot of a draft, made before the whole: cut out of the original in the browser, sent alone, and shown in its place.

import * as api from "./api.js";
import { cut } from "./convert.js";
import { $, setText } from "./dom.js";
import { chosen, requestOf } from "./plans.js";
import * as words from "./words.js";

const SIDE_PX = 256; // of the spot, in pixels of the original
const LEAST_PX = 48; // where that would take longer than
const SECONDS = 6;
const MARGIN_PX = 12; // around it, which is made and not shown: the network sees the picture go on there
const MAX_SCALE = 16; // of a request

export class Region {
  #of = null; // what is made, or shown: the picture and its settings
  #stop = new AbortController();
  #url = "";

  constructor(viewer) {
    this.viewer = viewer;
    $("spot-close").onclick = () => this.#close();
    document.addEventListener("keydown", ({ key }) => key === "Escape" && this.#of && this.#close());
  }

  /** Call it with the draft that is seen, or null: what is shown of another, or with other settings, ends. */
  check(item) {
    $("spot").hidden = !item;
    if (this.#of && (!item || this.#of !== keyOf(item))) this.#close();
  }

  /** Make the spot around that point, which is in shares of the picture, in place of one that is being made. */
  async make(item, point) {
    const choice = chosen(item);
    if (!choice) return;
    this.#end();
    this.#of = keyOf(item);
    const { signal } = this.#stop;
    const { inner, outer } = boxesAround(point, item.natural, choice.seconds);
    const box = shares(inner, item.natural);
    this.viewer.placeSpot(box);
    this.#say(`Making this spot, ${words.about((choice.seconds * areaOf(outer)) / areaOf(item.natural))}${words.queued(item.plan)}…`);
    try {
      const scale = Math.min(+choice.plan.total_scale.toFixed(4), MAX_SCALE);
      const made = await api.upscale(await cut(item, outer), { ...requestOf(item), target_resolution: "", fit: "", scale }, signal);
      if (signal.aborted) return;
      this.#url = URL.createObjectURL(made);
      await this.viewer.fillSpot(box, this.#url, shares(outer, item.natural), scale);
      this.#say(`This spot at ${words.sizeName(choice.size)}`);
    } catch (problem) {
      if (signal.aborted) return;
      this.viewer.clearSpot();
      this.#say(problem.message);
    }
  }

  #say(text) {
    setText($("spot-says"), text);
    $("announcer").textContent = text;
    $("spot-close").hidden = !text;
    $("spot").classList.add("used");
  }

  #end() {
    this.#stop.abort();
    this.#stop = new AbortController();
    URL.revokeObjectURL(this.#url);
  }

  #close() {
    this.#end();
    this.#of = null;
    this.viewer.clearSpot();
    this.#say("");
  }
}

const keyOf = (item) => `${item.id} ${JSON.stringify(requestOf(item))}`;

const areaOf = ({ width, height }) => width * height;

/** A spot that takes few seconds, within the picture, and the same with its margins. */
function boxesAround({ x, y }, { width, height }, seconds) {
  const affordable = Math.sqrt((SECONDS / seconds) * width * height) - 2 * MARGIN_PX;
  const side = Math.round(Math.min(Math.max(affordable, LEAST_PX), SIDE_PX));
  const [left, spotWidth] = span(x * width, side, width);
  const [top, spotHeight] = span(y * height, side, height);
  const inner = { left, top, width: spotWidth, height: spotHeight };
  const outer = { left: Math.max(left - MARGIN_PX, 0), top: Math.max(top - MARGIN_PX, 0) };
  outer.width = Math.min(left + spotWidth + MARGIN_PX, width) - outer.left;
  outer.height = Math.min(top + spotHeight + MARGIN_PX, height) - outer.top;
  return { inner, outer };
}

/** Start and length of a side around that middle, within the picture's. */
function span(middle, side, whole) {
  const length = Math.min(side, whole);
  return [Math.round(Math.min(Math.max(middle - length / 2, 0), whole - length)), length];
}

const shares = (box, { width, height }) => ({
  left: box.left / width, top: box.top / height, width: box.width / width, height: box.height / height,
});
