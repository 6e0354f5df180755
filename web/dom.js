// Small things that all parts of the page need of the document.

export const $ = (id) => document.getElementById(id);

export function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

export function make(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}
