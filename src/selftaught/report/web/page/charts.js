// Charts as SVG, each with a table of its numbers beside it.

import { el, more, svg, table } from "./dom.js";

const LEFT = 52;
const RIGHT = 16;
const TOP = 14;
const BOTTOM = 44;

// Redrawn at the width that there is, so that letters keep their size on a phone.
const observer = new ResizeObserver((entries) => {
  for (const entry of entries) entry.target.draw?.(entry.contentRect.width);
});

function drawn(draw, label) {
  const place = el("div", { class: "drawing" });
  let last = 0;
  place.draw = (width) => {
    const whole = Math.round(Math.max(280, Math.min(width, 920)));
    if (whole === last) return;
    last = whole;
    const made = draw(whole);
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", label);
    place.replaceChildren(made);
  };
  place.draw(720);
  observer.observe(place);
  return place;
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const all = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) all.push(Number(value.toPrecision(12)));
  return all;
}

function axes(width, height, x, y, { xTicks, yTicks, xLabel, yText }) {
  const parts = [];
  for (const value of yTicks) {
    parts.push(svg("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    parts.push(svg("text", { class: "tick", x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, yText(value)));
  }
  for (const value of xTicks)
    parts.push(svg("text", { class: "tick", x: x(value), y: height - BOTTOM + 20, "text-anchor": "middle" }, String(value)));
  parts.push(svg("text", { class: "axis", x: (LEFT + width - RIGHT) / 2, y: height - 4, "text-anchor": "middle" }, xLabel));
  return parts;
}

// Lines with bands. `series`: [{ name, points: [{ x, y, low, high, text }] }]; null for a y that is not known.
export function lineChart({ title, series, xLabel, yText, yRange, marks = true, tables, tall = false }) {
  const hidden = new Set();
  const points = series.flatMap((line) => line.points.filter((point) => point.y !== null));
  if (!points.length) return el("p", { class: "faint" }, `${title}: nothing to draw yet.`);
  const xs = points.map((point) => point.x);
  const ys = points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const [y0, y1] = yRange ?? padded(Math.min(...ys), Math.max(...ys));
  const draw = (width) => {
    const height = Math.round(Math.min(tall ? 420 : 340, Math.max(240, width * 0.5)));
    const x = (value) => LEFT + 10 + ((value - x0) / (x1 - x0 || 1)) * (width - LEFT - RIGHT - 20);
    const y = (value) => height - BOTTOM - ((value - y0) / (y1 - y0 || 1)) * (height - TOP - BOTTOM);
    const whole = ticks(x0, x1, width < 500 ? 5 : 10).filter(Number.isInteger);
    const parts = axes(width, height, x, y, { xTicks: whole, yTicks: ticks(y0, y1, 5), xLabel, yText });
    series.forEach((line, i) => {
      if (!hidden.has(line.name)) parts.push(drawnLine(line, i, x, y, marks));
    });
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, parts);
  };
  const place = drawn(draw, `${title}; the table below has the numbers`);
  return el("figure", {}, el("figcaption", {}, title), place, legend(series, hidden, place), more(`${title}: the numbers`, tables));
}

// Of a line: after eight colours they come again, dashed.
function tint(i) {
  return i < 8 ? `c${i}` : `c${i % 8} dashed${i < 16 ? "" : " short"}`;
}

function padded(low, high) {
  const room = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

function drawnLine(line, i, x, y, marks) {
  const known = line.points.filter((point) => point.y !== null);
  const group = svg("g", { class: `series ${tint(i)}` });
  const banded = known.filter((point) => point.low !== undefined);
  if (banded.length > 1) {
    const upper = banded.map((point) => `${x(point.x)},${y(point.high)}`);
    const lower = banded.map((point) => `${x(point.x)},${y(point.low)}`).reverse();
    group.append(svg("polygon", { class: "band", points: [...upper, ...lower].join(" ") }));
  } else {
    for (const point of banded)
      group.append(svg("line", { class: "whisker", x1: x(point.x), x2: x(point.x), y1: y(point.low), y2: y(point.high) }));
  }
  group.append(svg("polyline", { class: "line", points: known.map((point) => `${x(point.x)},${y(point.y)}`).join(" ") }));
  if (marks)
    for (const point of known)
      group.append(svg("circle", { class: "mark", cx: x(point.x), cy: y(point.y), r: 4 }, svg("title", {}, `${line.name}, ${point.x}: ${point.text}`)));
  return group;
}

// A button for each line, which hides it or shows it again.
function legend(series, hidden, place) {
  if (series.length < 2) return null;
  return el("div", { class: "legend", role: "group", "aria-label": "Lines" }, series.map((line, i) => {
    const button = el("button", {
      type: "button",
      class: tint(i),
      "aria-pressed": "true",
      click: () => {
        if (!hidden.delete(line.name)) hidden.add(line.name);
        button.setAttribute("aria-pressed", String(!hidden.has(line.name)));
        redraw(place);
      },
    }, el("span", { class: "swatch", "aria-hidden": "true" }), line.name);
    return button;
  }));
}

function redraw(place) {
  const width = place.clientWidth;
  place.draw(width > 300 ? width - 1 : 281);
}

// Of the parts of a bar: the first stands out.
function tone(i) {
  return i === 0 ? "c3" : `c${[7, 5, 2, 6, 4, 1][(i - 1) % 6]}`;
}

// A bar for each row, of parts that add up. `rows`: [{ name, parts: [{ name, value }] }].
export function barChart({ title, rows, unit, digits = 0, tables }) {
  const names = [...new Set(rows.flatMap((row) => row.parts.map((part) => part.name)))];
  const most = Math.max(...rows.map((row) => row.parts.reduce((sum, part) => sum + part.value, 0)), 0);
  if (!most) return el("p", { class: "faint" }, `${title}: nothing to draw yet.`);
  const draw = (width) => {
    const left = 96;
    const height = rows.length * 32 + 30;
    const x = (value) => left + (value / most) * (width - left - RIGHT);
    const parts = ticks(0, most, width < 500 ? 4 : 8).map((value) => [
      svg("line", { class: "rule", x1: x(value), x2: x(value), y1: 0, y2: height - 26 }),
      svg("text", { class: "tick", x: x(value), y: height - 8, "text-anchor": "middle" }, value.toLocaleString("en")),
    ]);
    rows.forEach((row, i) => {
      parts.push(svg("text", { class: "tick", x: left - 8, y: i * 32 + 19, "text-anchor": "end" }, row.name));
      let sum = 0;
      for (const part of row.parts) {
        if (!part.value) continue;
        const text = `${row.name}, ${part.name}: ${part.value.toLocaleString("en", { maximumFractionDigits: digits })} ${unit}`;
        const at = { x: x(sum), y: i * 32 + 3, width: Math.max(1, x(sum + part.value) - x(sum) - 1), height: 24 };
        parts.push(svg("rect", { class: `bar ${tone(names.indexOf(part.name))}`, rx: 2, ...at }, svg("title", {}, text)));
        sum += part.value;
      }
    });
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, parts);
  };
  const keys = names.map((name, i) => el("li", { class: tone(i) }, el("span", { class: "swatch", "aria-hidden": "true" }), name));
  return el("figure", {}, el("figcaption", {}, title), drawn(draw, `${title}; the table below has the numbers`), el("ul", { class: "legend" }, keys), more(`${title}: the numbers`, tables));
}

export function numbers(title, header, rows) {
  return table(title, header, rows, { hidden: true });
}
