// Elements and texts. Whatever comes from data or from a model becomes a text node here, never markup.

const SVG = "http://www.w3.org/2000/svg";

export function el(name, attributes, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(key, value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Characters that are not seen, or that change the order of those around them.
const UNSEEN = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff])/u;

// A text as nodes: each character that is not seen stands there by its number.
export function literal(text) {
  return text.split(UNSEEN).map((part, i) => {
    if (i % 2 === 0) return part;
    const code = part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return el("span", { class: "unseen", title: "a character that is not seen" }, `U+${code}`);
  });
}

const LONG = 20000;

// A block of model text; a very long one is cut until its button is pressed. `mark` makes nodes of a text.
export function block(text, { label, mark = literal } = {}) {
  const pre = el("pre", { class: "text", tabindex: "0", role: "region", "aria-label": label ?? "text" });
  if (text === "") return filled(pre, {}, [el("span", { class: "faint" }, "(empty)")]);
  if (text.length <= LONG) return filled(pre, {}, mark(text));
  const all = el("button", {
    type: "button",
    click: () => {
      pre.replaceChildren(...[mark(text)].flat(4));
      all.remove();
    },
  }, `Show all ${number(text.length)} characters`);
  return el("div", {}, filled(pre, {}, mark(text.slice(0, LONG))), all);
}

export function number(value, digits = 0) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// 3 significant digits, for losses and learning rates.
export function significant(value) {
  return value === null || value === undefined ? "–" : Number(value.toPrecision(3)).toString();
}

export function percent(share) {
  return share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)} %`;
}

// A rate with its interval and counts, or a dash: no number without n and interval.
export function rate(measured) {
  if (!measured || !measured.n) return "–";
  const [low, high] = measured.interval.map((end) => (100 * end).toFixed(1));
  return `${percent(measured.accuracy)} [${low}, ${high}] ${measured.correct}/${measured.n}`;
}

export function share(count, total) {
  return total && count !== null && count !== undefined ? `${number(count)} of ${number(total)}` : "–";
}

// A table that may be wider than the page; the first cell of a row is its header.
export function table(caption, header, rows, { hidden = false } = {}) {
  const head = el("tr", {}, header.map((text) => el("th", { scope: "col" }, text)));
  const body = rows.map((cells) =>
    el("tr", {}, cells.map((cell, i) => el(i ? "td" : "th", i ? { class: breadth(cell) } : { scope: "row" }, cell)))
  );
  const made = el("table", {}, el("caption", { class: hidden ? "unseen-caption" : "" }, caption));
  made.append(el("thead", {}, head), el("tbody", {}, body));
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption }, made);
}

// Numbers stay on one line; a long text gets room.
function breadth(cell) {
  return typeof cell !== "string" ? null : cell.length <= 34 ? "short" : "long";
}

export function more(summary, ...children) {
  return el("details", { "data-key": summary }, el("summary", {}, summary), ...children);
}

export function choice(label, name, values, chosen, onchange) {
  const options = values.map(([value, text]) =>
    el("option", { value, selected: String(value) === String(chosen ?? "") }, text)
  );
  return el("label", { class: "field" }, el("span", {}, label), el("select", { name, change: (event) => onchange(event.target.value) }, options));
}

// A file for the user to save, made here.
export function save(name, parts, type) {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
