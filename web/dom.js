// Small things that all parts of the page need of the document.

const NOTICE_MS = 8000;

export const $ = (id) => document.getElementById(id);

export function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

/** Say it for a while, at the bottom of the page. */
export function notify(text) {
  const notice = $("notice");
  notice.textContent = $("announcer").textContent = text;
  notice.hidden = false;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => { notice.hidden = true; }, NOTICE_MS);
}

export function make(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}
