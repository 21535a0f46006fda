// Every sample: filters, search, export.

import { choice, el, literal, number, save } from "./dom.js";
import { go, linkTo } from "./route.js";
import { PAGE, isShort, runOf } from "./source.js";

const FILTERS = ["problem", "iteration", "stage", "kind", "verdict", "class", "kept", "reason", "source", "check", "q"];

export function filtersOf(values) {
  return Object.fromEntries(FILTERS.filter((name) => values[name]).map((name) => [name, values[name]]));
}

export async function samplesView(source, values) {
  const runs = source.runs();
  const run = runOf(runs, values.run);
  const filters = filtersOf(values);
  const page = Math.max(1, Number(values.page) || 1);
  const [facets, found] = await Promise.all([source.facets(run.name), source.samples(run.name, filters, (page - 1) * PAGE)]);
  const set = (name) => (value) => go("samples", { ...values, run: run.name, page: "", [name]: value }, { replace: true });
  const pick = (label, name, all) => {
    const known = all.map((value) => (Array.isArray(value) ? value : [value, String(value)]));
    if (values[name] && !known.some(([value]) => String(value) === values[name])) known.push([values[name], values[name]]);
    return (all.length > 1 || values[name]) && choice(label, name, [["", "any"], ...known], values[name], set(name));
  };
  const fields = [
    runs.length > 1 && choice("Run", "run", runs.map((one) => [one.name, one.name]), run.name, set("run")),
    pick("Iteration", "iteration", facets.iteration), pick("Stage", "stage", facets.stage), pick("Kind", "kind", facets.kind), pick("Verdict", "verdict", facets.verdict), pick("Class", "class", facets.class),
    pick("Check", "check", facets.check.flatMap((name) => [[`${name}:passed`, `${name} passed`], [`${name}:failed`, `${name} failed`]])),
    pick("Kept", "kept", [["yes", "kept"], ["no", "left out"]]), pick("Reason", "reason", facets.reason), pick("Source", "source", facets.source),
  ];
  const search = el("input", { type: "search", name: "q", id: "search", value: values.q ?? "", placeholder: "completion, prediction, question, answer", maxlength: "1000" });
  const form = el("form", { class: "fields", role: "search", submit: (event) => { event.preventDefault(); set("q")(search.value); } },
    el("label", { class: "field search" }, el("span", {}, "Text"), search), el("button", { type: "submit" }, "Search"), fields
  );
  const node = el("div", {},
    el("h1", { tabindex: "-1" }, "Samples"), source.missing() && el("p", { class: "notice" }, source.missing()), form,
    filters.q && isShort(filters.q) && el("p", { class: "notice" }, "A text of one or two characters is looked for as a line of its own, such as a prediction or an answer; one of three is found anywhere."),
    el("p", { class: "count", role: "status" }, `${number(found.total)} sample${found.total === 1 ? "" : "s"}`),
    el("div", { class: "actions" }, exports(source, run, filters), Object.keys(filters).length > 0 && el("a", { href: linkTo("samples", { run: run.name }) }, "Clear the filters")),
    el("ol", { class: "samples", start: String((page - 1) * PAGE + 1) }, found.samples.map((sample) => row(sample, run))),
    pages(found.total, page, values)
  );
  return { title: "Samples", node };
}

function exports(source, run, filters) {
  const button = (form, text) => el("button", { type: "button", id: `export-${form}`, click: async () => save(`${run.name.replace(/[^\w.-]+/g, "-")}-samples.${form}`, [await source.exported(run.name, filters, form)], "application/octet-stream") }, text);
  const none = el("span", { class: "faint small" }, "As Parquet: from selftaught view, since this file has no library to write it.");
  return [button("jsonl", "Save as JSONL"), source.parquet ? button("parquet", "Save as Parquet") : none];
}

function row(sample, run) {
  const link = el("a", { class: "open", href: linkTo("problem", { run: run.name, id: sample.problem_id, iteration: sample.iteration }) }, `problem ${sample.problem_id}`);
  const failed = Object.entries(sample.checks).filter(([, result]) => !result.passed).map(([name]) => ` · ${name} failed`);
  const kept = sample.kept === null ? "" : sample.kept ? " · kept" : ` · left out, ${sample.reason}`;
  return el("li", {},
    el("p", {}, link, ` · iteration ${sample.iteration}, ${sample.stage} `, el("span", { class: `chip ${sample.verdict}` }, sample.verdict), el("span", { class: "faint" }, failed, kept)),
    el("p", { class: "isolated small" }, el("span", { class: "faint" }, "question "), literal(short(sample.question)), el("span", { class: "faint" }, " · prediction "), sample.prediction === null ? "none" : literal(short(sample.prediction)), el("span", { class: "faint" }, " · answer "), literal(short(sample.answer))),
    el("pre", { class: "text few" }, literal(short(sample.completion, 600)))
  );
}

function short(text, most = 200) {
  return text.length > most ? `${text.slice(0, most)} …` : text;
}

function pages(total, page, values) {
  const last = Math.ceil(total / PAGE);
  if (last < 2) return null;
  const link = (n, text, rel) => (n >= 1 && n <= last ? el("a", { href: linkTo("samples", { ...values, page: n }), rel }, text) : el("span", { class: "faint" }, text));
  return el("nav", { class: "pages", "aria-label": "Pages" }, link(page - 1, "Previous", "prev"), el("span", {}, `page ${page} of ${number(last)}`), link(page + 1, "Next", "next"));
}
