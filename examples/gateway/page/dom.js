// Elements, and numbers for people.

const SVG = "http://www.w3.org/2000/svg";

export const find = (id) => document.getElementById(id);

function make(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined));
  return element;
}

/** An element with attributes and children. Texts are texts, never markup. */
export const html = (name, attributes = {}, ...children) =>
  make(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) =>
  make(document.createElementNS(SVG, name), attributes, children);

const counts = new Intl.NumberFormat("en");

/** A whole number or a real one, in groups of three digits. */
export const number = (value) => counts.format(value);

/** 1 KiB is 1,024 bytes. */
export function bytes(value) {
  const power = value < 1_024 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), 3);
  const scaled = value / 1_024 ** power;
  const shown = power === 0 ? value : Number(scaled.toPrecision(scaled < 1_000 ? 3 : 4));
  return `${shown} ${["bytes", "KiB", "MiB", "GiB"][power]}`;
}

export const seconds = (millis) => `${(millis / 1_000).toFixed(millis < 10_000 ? 2 : 1)} s`;

/** The width for a picture in `element`. */
export const widthOf = (element) => Math.min(Math.max(element.clientWidth, 260), 640);

/** Announces a text to screen readers. */
export function announce(text) {
  find("status").textContent = text;
}

export const sleep = (millis) => new Promise((done) => setTimeout(done, millis));
