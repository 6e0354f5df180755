// Two pictures in the same place under a slider, from the whole down to single pixels.

const CLOSEST = 4; // screen pixels for one of the result, and times the whole
const SIDEWAYS_PX = 4; // of a movement, before it moves the slider
const NARROW_PX = 190; // of a picture, in which the two tags would be in each other's way
const STEP = 2; // percent, for an arrow key
const ZOOM_STEP = 1.25;
const CLICK_PX = 5; // that a pointer may move in a click
const CLICK_MS = 250; // in which a second click makes it a double click
const SPOT_SHARE = 0.8; // of the frame, for a spot that is looked at
const WHOLE = { left: 0, top: 0, width: 1, height: 1 };

export class Viewer {
  #size = { width: 1, height: 1 }; // of the result, in pixels
  #scale = 1; // CSS pixels for one of the result
  #center = { x: 0.5, y: 0.5 }; // the point of the picture that is in the middle, as shares
  #fitted = true;
  #split = 0.5; // share of the visible picture that shows the original
  #fresh = false; // a result that nobody has seen yet
  #pointers = new Map();
  #gesture = null;
  #click = 0; // the timer of one that may become a double click
  #spot = WHOLE; // the part that the slider is on, in shares of the picture
  #back = null; // the view before a spot was looked at

  constructor(root, { onZoom, onLost, onSpot }) {
    this.root = root;
    this.onZoom = onZoom;
    this.onSpot = onSpot;
    [this.before, this.after] = root.querySelectorAll(".canvas > img");
    this.made = root.querySelector(".spot img");
    this.canvases = root.querySelectorAll(".canvas");
    this.faces = root.querySelector(".faces");
    this.divider = root.querySelector(".divider");
    this.after.addEventListener("load", () => this.#loaded());
    this.after.addEventListener("error", onLost);
    new ResizeObserver(() => this.#layout()).observe(root);
    root.addEventListener("pointerdown", (event) => this.#down(event));
    root.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) root.addEventListener(end, (event) => this.#up(event));
    root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    root.addEventListener("dblclick", (event) => this.#double(event));
    root.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show the original alone, or beside the result; `size` is the result's, the faces' boxes are in pixels of the original. */
  show({ before, after = null, size, original = size, faces = [], fresh = false }) {
    const other = this.before.getAttribute("src") !== before || this.after.getAttribute("src") !== after;
    this.#size = size;
    setSource(this.before, before);
    if (!other) return;
    this.clearSpot();
    this.root.classList.toggle("alone", !before || !after);
    this.root.classList.add("loading");
    setSource(this.after, after);
    this.#split = before ? (fresh ? 1 : 0.5) : 0;
    this.#fresh = fresh && Boolean(before);
    this.faces.style.setProperty("--w", original.width);
    this.faces.style.setProperty("--h", original.height);
    this.faces.replaceChildren(...faces.map(({ box }) => outline(box)));
    this.fit();
  }

  /** The result is there: wipe it in from the right if it is new. */
  #loaded() {
    this.root.classList.remove("loading");
    if (!this.#fresh) return;
    this.#fresh = false;
    this.root.getBoundingClientRect(); // so that the next change is a transition
    this.root.classList.add("revealing");
    this.divider.addEventListener("transitionend", () => this.root.classList.remove("revealing"), { once: true });
    this.#setSplit(0.5);
  }

  // a spot that is made before the whole

  /** Outline that part, `box` in shares of the picture. */
  placeSpot(box) {
    this.root.classList.remove("made");
    this.root.classList.add("spotted");
    for (const [name, share] of Object.entries(box)) this.root.style.setProperty(`--spot-${name}`, `${share * 100}%`);
    this.#spot = WHOLE;
    this.#layout();
  }

  /** Show the picture of it, which reaches over the part by its margins, under the slider, and closely; `finer` is its scale. */
  async fillSpot(box, url, outer, finer) {
    this.made.src = url;
    await this.made.decode();
    if (this.made.getAttribute("src") !== url) return; // closed meanwhile
    Object.assign(this.made.style, {
      width: `${(outer.width / box.width) * 100}%`, height: `${(outer.height / box.height) * 100}%`,
      left: `${((outer.left - box.left) / box.width) * 100}%`, top: `${((outer.top - box.top) / box.height) * 100}%`,
    });
    this.#spot = box;
    this.#split = 0.5;
    this.root.classList.add("made");
    this.#back ??= { scale: this.#scale, center: { ...this.#center }, fitted: this.#fitted };
    const { clientWidth, clientHeight } = this.root;
    const filling = SPOT_SHARE * Math.min(clientWidth / box.width / this.#size.width, clientHeight / box.height / this.#size.height);
    this.#center = { x: box.left + box.width / 2, y: box.top + box.height / 2 };
    this.#scale = Math.max(Math.min(filling, finer / devicePixelRatio), this.#fitScale);
    this.#fitted = this.#scale === this.#fitScale;
    this.#layout();
  }

  /** The whole again, as it was seen before. */
  clearSpot() {
    this.root.classList.remove("spotted", "made");
    this.made.removeAttribute("src");
    this.#spot = WHOLE;
    if (this.#back) [this.#scale, this.#center, this.#fitted] = [this.#back.scale, this.#back.center, this.#back.fitted];
    this.#back = null;
    this.#layout();
  }

  fit() {
    this.#back = null;
    this.#fitted = true;
    this.#center = { x: 0.5, y: 0.5 };
    this.#layout();
  }

  /** One pixel of the result on one of the screen. */
  real(event = null) {
    this.#zoom(1 / devicePixelRatio, event);
  }

  /** By one step, in or out. */
  step(factor) {
    this.#zoom(this.#scale * factor);
  }

  #double(event) {
    clearTimeout(this.#click);
    if (this.divider.contains(event.target)) return;
    if (this.#fitted) this.real(event);
    else this.fit();
  }

  get #fitScale() {
    return Math.min(this.root.clientWidth / this.#size.width, this.root.clientHeight / this.#size.height);
  }

  /** Set the scale; what is under the pointer, else in the middle, stays where it is. */
  #zoom(scale, event = null) {
    const real = 1 / devicePixelRatio;
    const least = Math.min(this.#fitScale, real);
    const isFit = Math.abs(scale / this.#fitScale - 1) < 0.001; // steps in and out again make no rounder figures
    const wanted = isFit ? this.#fitScale : Math.min(Math.max(scale, least), Math.max(CLOSEST * Math.max(real, this.#fitScale), this.#scale));
    const { x, y } = this.#fromMiddle(event);
    const change = 1 / this.#scale - 1 / wanted;
    this.#center.x += (x * change) / this.#size.width;
    this.#center.y += (y * change) / this.#size.height;
    this.#scale = wanted;
    this.#fitted = wanted === this.#fitScale;
    this.#back = null;
    this.#layout();
  }

  #fromMiddle(event) {
    if (!event) return { x: 0, y: 0 };
    const box = this.root.getBoundingClientRect();
    return { x: event.clientX - box.left - box.width / 2, y: event.clientY - box.top - box.height / 2 };
  }

  #layout() {
    const { clientWidth, clientHeight } = this.root;
    if (!clientWidth || !clientHeight) return;
    if (this.#fitted) this.#scale = this.#fitScale;
    const width = this.#size.width * this.#scale;
    const height = this.#size.height * this.#scale;
    this.#center.x = within(this.#center.x, clientWidth / 2 / width);
    this.#center.y = within(this.#center.y, clientHeight / 2 / height);
    const left = clientWidth / 2 - this.#center.x * width;
    const top = clientHeight / 2 - this.#center.y * height;
    for (const { style } of this.canvases) {
      style.width = `${width}px`;
      style.height = `${height}px`;
      style.transform = `translate(${left}px, ${top}px)`;
    }
    const seen = {
      left: inside(left + this.#spot.left * width, clientWidth),
      right: inside(left + (this.#spot.left + this.#spot.width) * width, clientWidth),
      top: inside(top + this.#spot.top * height, clientHeight),
      bottom: inside(top + (this.#spot.top + this.#spot.height) * height, clientHeight),
    };
    const set = (name, value) => this.root.style.setProperty(name, `${value}px`);
    set("--left", seen.left);
    set("--right", clientWidth - seen.right);
    set("--top", seen.top);
    set("--bottom", clientHeight - seen.bottom);
    set("--split", seen.left + this.#split * (seen.right - seen.left));
    this.divider.setAttribute("aria-valuenow", Math.round(this.#split * 100));
    this.divider.setAttribute("aria-valuetext", `${Math.round(this.#split * 100)} % original`);
    this.root.classList.toggle("zoomed", !this.#fitted);
    this.root.classList.toggle("narrow", seen.right - seen.left < NARROW_PX);
    const share = this.#scale * devicePixelRatio;
    this.onZoom({ fitted: this.#fitted, real: Math.abs(share - 1) < 0.001, share });
  }

  #splitAt(clientX) {
    const box = this.root.getBoundingClientRect();
    const left = parseFloat(this.root.style.getPropertyValue("--left"));
    const right = box.width - parseFloat(this.root.style.getPropertyValue("--right"));
    this.#setSplit((clientX - box.left - left) / (right - left));
  }

  #setSplit(share) {
    this.#split = Math.min(Math.max(share, 0), 1);
    this.#layout();
  }

  // pointers: one moves the slider, or the picture where it is larger than its frame; two zoom

  #down(event) {
    if (event.button !== 0) return;
    clearTimeout(this.#click);
    this.root.classList.remove("revealing");
    this.root.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, event);
    const onDivider = this.divider.contains(event.target);
    if (this.#pointers.size === 2) this.#gesture = { kind: "pinch", spread: this.#spread(), scale: this.#scale };
    else if (onDivider) this.#gesture = { kind: "split" };
    else if (this.#fitted && !this.root.classList.contains("alone")) this.#gesture = { kind: "press", at: event };
    else this.#gesture = { kind: "pan", at: event };
    if (onDivider) this.divider.focus();
  }

  #move(event) {
    const last = this.#pointers.get(event.pointerId);
    if (!last || !this.#gesture) return;
    this.#pointers.set(event.pointerId, event);
    if (this.#gesture.kind === "press" && isSideways(this.#gesture.at, event)) this.#gesture = { kind: "split" };
    if (this.#gesture.kind === "split") this.#splitAt(event.clientX);
    else if (this.#gesture.kind === "pan") this.#pan(last.clientX - event.clientX, last.clientY - event.clientY);
    else if (this.#gesture.kind === "pinch") this.#pinch();
  }

  #up(event) {
    if (this.#gesture?.kind === "split" && event.type === "pointerup") this.#splitAt(event.clientX);
    this.#pointers.delete(event.pointerId);
    this.#clicked(event);
    this.#gesture = this.#pointers.size === 1 ? { kind: "pan" } : null;
  }

  /** A click on the original alone, which no second one follows, means that spot. */
  #clicked(event) {
    const from = this.#gesture?.at;
    const moved = from && Math.hypot(event.clientX - from.clientX, event.clientY - from.clientY);
    if (event.type !== "pointerup" || !(moved <= CLICK_PX) || !this.root.classList.contains("alone")) return;
    const { x, y } = this.#fromMiddle(event);
    const spot = { x: this.#center.x + x / this.#scale / this.#size.width, y: this.#center.y + y / this.#scale / this.#size.height };
    if (within(spot.x, 0) !== spot.x || within(spot.y, 0) !== spot.y) return;
    this.#click = setTimeout(() => this.onSpot(spot), CLICK_MS);
  }

  #pinch() {
    const [first, second] = this.#pointers.values();
    const middle = { clientX: (first.clientX + second.clientX) / 2, clientY: (first.clientY + second.clientY) / 2 };
    this.#zoom((this.#gesture.scale * this.#spread()) / this.#gesture.spread, middle);
  }

  #spread() {
    const [first, second] = this.#pointers.values();
    return Math.hypot(first.clientX - second.clientX, first.clientY - second.clientY);
  }

  #pan(x, y) {
    this.#center.x += x / this.#scale / this.#size.width;
    this.#center.y += y / this.#scale / this.#size.height;
    this.#layout();
  }

  #wheel(event) {
    if (this.#fitted && event.deltaY > 0) return; // it cannot be smaller: the wheel scrolls the page
    event.preventDefault();
    this.#zoom(this.#scale * Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), event);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = event.target === this.divider ? this.#slide(event) : this.#steer(event);
    if (!act) return;
    event.preventDefault();
    act();
  }

  #slide({ key, shiftKey }) {
    const step = (shiftKey ? 5 * STEP : STEP) / 100;
    const to = {
      ArrowLeft: this.#split - step, ArrowDown: this.#split - step, PageDown: this.#split - 0.1, Home: 0,
      ArrowRight: this.#split + step, ArrowUp: this.#split + step, PageUp: this.#split + 0.1, End: 1,
    }[key];
    return to === undefined ? null : () => this.#setSplit(to);
  }

  #steer({ key }) {
    return {
      ArrowLeft: () => this.#pan(-60, 0), ArrowRight: () => this.#pan(60, 0),
      ArrowUp: () => this.#pan(0, -60), ArrowDown: () => this.#pan(0, 60),
      "+": () => this.step(ZOOM_STEP), "=": () => this.step(ZOOM_STEP), "-": () => this.step(1 / ZOOM_STEP),
      0: () => this.fit(), 1: () => this.real(), p: () => this.onSpot({ ...this.#center }),
    }[key];
  }
}

/** No closer to an edge than that share; in the middle where the picture is smaller than its frame. */
function within(share, margin) {
  return margin > 0.5 ? 0.5 : Math.min(Math.max(share, margin), 1 - margin);
}

/** The nearest place in a frame of that length. */
const inside = (place, length) => Math.min(Math.max(place, 0), length);

/** Whether it is the slider that is meant, not the page that a finger scrolls, nor a click. */
function isSideways(from, to) {
  const x = Math.abs(to.clientX - from.clientX);
  return x > SIDEWAYS_PX && x > Math.abs(to.clientY - from.clientY);
}

function setSource(image, url) {
  if (!url) image.removeAttribute("src");
  else if (image.getAttribute("src") !== url) image.src = url;
}

function outline([left, top, right, bottom]) {
  const face = document.createElement("div");
  for (const [name, value] of Object.entries({ left, top, width: right - left, height: bottom - top })) {
    face.style.setProperty(`--${name}`, value);
  }
  return face;
}
