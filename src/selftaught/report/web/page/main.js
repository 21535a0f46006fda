// What is shown follows from the address; keys do what links and fields do.

import { el } from "./dom.js";
import { problemView } from "./problem.js";
import { problemsView } from "./problems.js";
import { VIEWS, linkTo, routeOf } from "./route.js";
import { runsView } from "./runs.js";
import { samplesView } from "./samples.js";
import { openSource } from "./source.js";

const SHOW = { runs: runsView, problems: problemsView, problem: problemView, samples: samplesView };
const POLL_MS = 5000;

const main = document.getElementById("main");
const help = document.getElementById("help");
const live = document.getElementById("live");
let source = null;
let shown = null;
let turn = 0;

async function render() {
  const mine = (turn += 1);
  const route = routeOf(location.hash);
  let view;
  try {
    view = await SHOW[route.view](source, route.values);
  } catch (error) {
    view = { title: "Not shown", node: el("div", {}, el("h1", { tabindex: "-1" }, "Not shown"), el("p", { class: "notice" }, error.message)) };
    if (!(error instanceof Error) || error instanceof TypeError) console.error(error);
  }
  if (mine !== turn) return; // another address has been asked for meanwhile
  const which = route.view === "runs" ? Boolean(route.values.run) : route.view === "problem" ? route.values.id : null;
  const isSame = shown?.view === route.view && shown.which === which;
  const kept = isSame ? stateOfPage() : null;
  main.replaceChildren(view.node);
  document.title = `${view.title} – selftaught`;
  navigation(route);
  if (kept) restore(kept);
  else arrive();
  main.dataset.ready = String(mine);
  shown = { view: route.view, which };
}

function arrive() {
  if (shown !== null) main.querySelector("h1")?.focus({ preventScroll: true });
  window.scrollTo(0, 0);
  for (const column of main.querySelectorAll(".column.opened")) {
    const row = column.parentElement;
    row.scrollLeft = column.offsetLeft - row.offsetLeft - (row.clientWidth - column.clientWidth) / 2;
  }
}

// Of a view that is drawn again: what is open, where the focus is, how far it is scrolled.
function stateOfPage() {
  const active = document.activeElement;
  return {
    open: new Set([...main.querySelectorAll("details[open]")].map((node) => node.dataset.key)),
    focus: main.contains(active) && (active.id || active.name) ? `[${active.id ? "id" : "name"}="${CSS.escape(active.id || active.name)}"]` : null,
    scroll: window.scrollY,
  };
}

function restore({ open, focus, scroll }) {
  for (const node of main.querySelectorAll("details")) node.open = open.has(node.dataset.key);
  if (focus) main.querySelector(focus)?.focus({ preventScroll: true });
  window.scrollTo(0, scroll);
}

function navigation(route) {
  const here = route.view === "problem" ? "problems" : route.view;
  document.getElementById("views").replaceChildren(
    ...VIEWS.map(([view, text]) => el("a", { href: viewFrom(route, view), "aria-current": view === here ? "page" : null }, text))
  );
}

// A view of the run that is looked at; from its page, the one of all runs.
function viewFrom(route, view) {
  return linkTo(view, route.view === "runs" && view === "runs" ? {} : { run: route.values.run });
}

const KEYS = [
  ["1 2 3", "runs (from a run: all of them), problems, samples"],
  ["/", "search in the samples"],
  ["j k", "next, previous item of a list"],
  ["Enter", "open it"],
  ["n p", "next, previous page or problem"],
  ["← →", "in the iterations of a problem: scroll; in the grid, with ↑ ↓: move"],
  ["d", "of a problem: text, difference, log-probabilities"],
  ["e", "save the samples that are listed as JSONL"],
  ["r", "read again what the server has"],
  ["Esc", "leave a field or this help"],
  ["?", "this help"],
];

function openHelp() {
  const rows = KEYS.flatMap(([key, text]) => [el("dt", {}, key.split(" ").map((one) => el("kbd", {}, one))), el("dd", {}, text)]);
  const close = el("button", { type: "button", click: () => help.close() }, "Close");
  help.replaceChildren(el("h2", { id: "help-title" }, "Keys"), el("dl", {}, rows), close);
  help.showModal();
}

function follow(rel) {
  main.querySelector(`a[rel="${rel}"]`)?.click();
}

// The items of a list that j and k go through.
function step(by) {
  const items = [...main.querySelectorAll("a.open, .grid tbody th a, .columns")];
  const next = items[items.indexOf(document.activeElement) + by] ?? (by > 0 ? items[0] : items[items.length - 1]);
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

function search() {
  const field = document.getElementById("search");
  if (field) {
    field.focus();
    field.select();
    return;
  }
  location.hash = linkTo("samples", { run: routeOf(location.hash).values.run });
  window.addEventListener("shown", search, { once: true });
}

function nextWay() {
  const ways = main.querySelector('select[name="show"]');
  if (!ways) return;
  ways.selectedIndex = (ways.selectedIndex + 1) % ways.options.length;
  ways.dispatchEvent(new Event("change"));
}

const DO = {
  "?": openHelp,
  "/": search,
  j: () => step(1),
  k: () => step(-1),
  n: () => follow("next"),
  p: () => follow("prev"),
  d: nextWay,
  e: () => document.getElementById("export-jsonl")?.click(),
  r: () => again().catch((error) => (live.textContent = error.message)),
};

document.addEventListener("keydown", (event) => {
  const field = event.target.closest?.("input, select, textarea");
  if (event.key === "Escape" && field) field.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || field || help.open || event.defaultPrevented) return;
  const view = VIEWS[Number(event.key) - 1];
  const act = view ? () => (location.hash = viewFrom(routeOf(location.hash), view[0])) : DO[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

async function drawn() {
  await render();
  window.dispatchEvent(new Event("shown"));
}

async function again() {
  if (!source.live) return;
  await source.refresh();
  await drawn();
}

// While a run goes on, its page follows it; not while somebody types, and not where nobody looks.
async function watch() {
  const isGoing = source.runs().some((run) => !run.state.finished);
  if (isGoing && !document.hidden) {
    try {
      const busy = document.activeElement?.closest("input, select") || help.open;
      if (!busy && (await source.changed())) await again();
      live.textContent = "live";
    } catch (error) {
      live.textContent = error.message;
    }
  } else {
    live.textContent = "";
  }
  setTimeout(watch, POLL_MS);
}

window.addEventListener("hashchange", drawn);
window.addEventListener("beforeprint", () => {
  for (const node of document.querySelectorAll("details")) node.open = true;
});
document.getElementById("help-button").addEventListener("click", openHelp);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

openSource().then(
  async (opened) => {
    source = opened;
    await drawn();
    if (source.live) setTimeout(watch, POLL_MS);
  },
  (error) => main.replaceChildren(el("p", { class: "notice" }, `The data cannot be read: ${error.message}`))
);
