// The grid: a row for each problem, a cell for each iteration.

import { choice, el, number, table } from "./dom.js";
import { go, linkTo } from "./route.js";
import { attemptsOf, runOf } from "./source.js";

const ROWS = 200;
const ROWS_OF_A_TABLE = 25;

function statesOf(run) {
  return {
    s: ["solved", "●", "solved"],
    h: ["hinted", "◐", `solved ${attemptsOf(run).alone}`],
    u: ["unsolved", "○", "unsolved"],
    "-": ["none", "·", "not sampled"],
  };
}

function patternsOf(run) {
  const { first, alone } = attemptsOf(run);
  return [
    ["", "all"],
    ["gained", "gained, first to last"],
    ["lost", "lost, first to last"],
    ["changed", "changed at any time"],
    ["always", "always solved"],
    ["hint", `solved ${alone}, ever`],
    ["never", `never solved ${first === "first attempt" ? "in the first attempt" : first}`],
  ];
}

export async function problemsView(source, values) {
  const runs = source.runs();
  const run = runOf(runs, values.run);
  const grid = await source.grid(run.name);
  const splits = ["train", "dev", "test", "extrapolation"].filter((name) => grid.some((row) => row.split === name));
  const split = splits.includes(values.split) ? values.split : splits[0];
  const all = grid.filter((row) => row.split === split);
  const classes = [...new Set(all.map((row) => row.class))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const rows = all.filter((row) => (!values.class || row.class === values.class) && fits(row.states, values));
  const page = Math.min(Math.max(1, Number(values.page) || 1), Math.max(1, Math.ceil(rows.length / ROWS)));
  const set = (name) => (value) => go("problems", { ...values, run: run.name, split, page: "", [name]: value }, { replace: true });
  const pickRun = runs.length > 1 && choice("Run", "run", runs.map((one) => [one.name, one.name]), run.name, set("run"));
  const title = el("h1", { tabindex: "-1" }, "Problems");
  if (!splits.length) return { title: "Problems", node: el("div", {}, title, pickRun && el("div", { class: "fields" }, pickRun), el("p", {}, `Nothing is sampled yet in ${run.name}.`)) };
  const fields = [
    pickRun,
    choice("Split", "split", splits.map((name) => [name, name]), split, set("split")),
    classes.length > 1 && choice("Class", "class", [["", "all"], ...classes.map((name) => [name, name])], values.class, set("class")),
    choice("Which", "which", patternsOf(run), values.which, set("which")),
  ];
  const node = el("div", {},
    title,
    el("p", { class: "lead" }, `Which problems of ${split} were solved in which iteration, ${run.name}`),
    el("form", { class: "fields", submit: (event) => event.preventDefault() }, fields),
    narrowed(values, run, split),
    key(run, split),
    rows.length ? [changes(all, run, split, values), gridTable(rows.slice((page - 1) * ROWS, page * ROWS), run, split), pages(rows.length, page, values)] : el("p", {}, `None of ${number(all.length)} problems is so.`)
  );
  return { title: "Problems", node };
}

function narrowed(values, run, split) {
  const at = values.gained ? `gained in iteration ${values.gained}` : values.lost ? `lost in iteration ${values.lost}` : "";
  if (!at) return null;
  return el("p", {}, `Only problems ${at}. `, el("a", { href: linkTo("problems", { run: run.name, split }) }, "Show all"));
}

function known(states) {
  return [...states].filter((state) => state !== "-");
}

// Whether the problem was solved without a hint at an iteration and not when it was sampled last before it.
export function isGained(states, n) {
  const before = known(states.slice(0, n)).pop();
  return states[n] === "s" && before !== undefined && before !== "s";
}

export function isLost(states, n) {
  const before = known(states.slice(0, n)).pop();
  return states[n] !== "s" && states[n] !== "-" && states[n] !== undefined && before === "s";
}

function fits(states, values) {
  if (values.gained && !isGained(states, Number(values.gained))) return false;
  if (values.lost && !isLost(states, Number(values.lost))) return false;
  const seen = known(states);
  const [first, last] = [seen[0], seen[seen.length - 1]];
  if (values.which === "gained") return first !== "s" && last === "s";
  if (values.which === "lost") return first === "s" && last !== "s";
  if (values.which === "changed") return new Set(seen).size > 1;
  if (values.which === "always") return seen.every((state) => state === "s");
  if (values.which === "hint") return seen.includes("h");
  if (values.which === "never") return !seen.includes("s");
  return true;
}

function key(run, split) {
  const states = statesOf(run);
  const shown = split === "train" ? ["s", "h", "u", "-"] : ["s", "u", "-"];
  return el("ul", { class: "key" }, shown.map((state) => el("li", {}, el("span", { class: `state ${states[state][0]}`, "aria-hidden": "true" }, states[state][1]), ` ${states[state][2]}`)));
}

function iterationsOf(rows) {
  const most = Math.max(...rows.map((row) => row.states.length));
  return [...Array(most).keys()].filter((n) => rows.some((row) => (row.states[n] ?? "-") !== "-"));
}

function changes(all, run, split, values) {
  const counts = iterationsOf(all).map((n) => {
    const link = (name, count) => (count ? el("a", { href: linkTo("problems", { run: run.name, split, class: values.class, [name]: n }) }, number(count)) : "0");
    const of = (state) => all.filter((row) => row.states[n] === state).length;
    const gained = all.filter((row) => isGained(row.states, n)).length;
    const lost = all.filter((row) => isLost(row.states, n)).length;
    const sampled = all.filter((row) => (row.states[n] ?? "-") !== "-").length;
    const hinted = split === "train" ? [number(of("h"))] : [];
    return [String(n), number(sampled), number(of("s")), ...hinted, number(of("u")), link("gained", gained), link("lost", lost)];
  });
  const header = ["iteration", "sampled", "solved", ...(split === "train" ? [attemptsOf(run).alone] : []), "unsolved", "gained", "lost"];
  return table("Problems by iteration; gained and lost against the last time that the problem was sampled", header, counts);
}

function gridTable(rows, run, split) {
  const iterations = iterationsOf(rows);
  const withClass = new Set(rows.map((row) => row.class)).size > 1;
  const tables = [];
  for (let start = 0; start < rows.length; start += ROWS_OF_A_TABLE) tables.push(gridPart(rows.slice(start, start + ROWS_OF_A_TABLE), { iterations, run, split, start, withClass }));
  const grids = el("div", { class: "grids", keydown: move }, tables);
  grids.querySelector("a")?.setAttribute("tabindex", "0");
  return [el("p", { class: "faint small" }, "Arrow keys move in the grid, Enter opens."), grids];
}

function gridPart(rows, { iterations, run, split, start, withClass }) {
  const states = statesOf(run);
  const head = el("tr", {}, el("th", { scope: "col" }, "problem"), withClass && el("th", { scope: "col" }, "class"), iterations.map((n) => el("th", { scope: "col" }, String(n))));
  const body = rows.map((row) => el("tr", {},
    el("th", { scope: "row" }, cell(linkTo("problem", { run: run.name, id: row.id }), row.id)),
    withClass && el("td", {}, row.class),
    iterations.map((n) => {
      const [name, sign, text] = states[row.states[n] ?? "-"];
      const link = cell(linkTo("problem", { run: run.name, id: row.id, iteration: n }), sign);
      link.setAttribute("aria-label", `${row.id}, iteration ${n}: ${text}`);
      return el("td", { class: `state ${name}` }, link);
    })
  ));
  const caption = el("caption", { class: "unseen-caption" }, `Problems of ${split} by iteration, from number ${start + 1}`);
  return el("div", { class: "wide" }, el("table", { class: "grid" }, caption, el("thead", {}, head), el("tbody", {}, body)));
}

function cell(href, text) {
  return el("a", { href, tabindex: "-1" }, text);
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// One cell of the grid is in the order of Tab; arrow keys say which.
function move(event) {
  const moved = MOVES[event.key];
  const link = event.target.closest("a");
  if (!moved || !link) return;
  const links = [...event.currentTarget.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("a")]);
  const row = links.findIndex((cells) => cells.includes(link));
  const next = links[row + moved[0]]?.[links[row].indexOf(link) + moved[1]];
  if (!next) return;
  event.preventDefault();
  link.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
}

function pages(total, page, values) {
  const last = Math.ceil(total / ROWS);
  if (last < 2) return el("p", { class: "faint" }, `${number(total)} problems`);
  const link = (n, text, rel) => (n >= 1 && n <= last ? el("a", { href: linkTo("problems", { ...values, page: n }), rel }, text) : el("span", { class: "faint" }, text));
  return el("nav", { class: "pages", "aria-label": "Pages" }, link(page - 1, "Previous", "prev"), el("span", {}, `page ${page} of ${last}, ${number(total)} problems`), link(page + 1, "Next", "next"));
}
