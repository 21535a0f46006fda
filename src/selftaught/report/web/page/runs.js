// The first view: what came of the runs, and of one of them everything but its samples.

import { at, measuredOn, numbersOf, pointOf, rangeOf, shortPercent, splitsOf } from "./accuracy.js";
import { barChart, lineChart, numbers } from "./charts.js";
import { comparisonSection } from "./comparison.js";
import { choice, el, more, number, percent, rate, share, significant, table } from "./dom.js";
import { go, linkTo } from "./route.js";
import { attemptsOf, runOf } from "./source.js";

export async function runsView(source, values) {
  const runs = source.runs();
  const notice = source.missing() && el("p", { class: "notice" }, source.missing());
  if (runs.length > 1 && !values.run) return allRuns(source, values, notice);
  const run = runOf(runs, values.run);
  const others = runs.length > 1 && el("div", { class: "fields" },
    choice("Run", "run", runs.map((one) => [one.name, one.name]), run.name, (name) => go("runs", { ...values, run: name }, { replace: true })),
    el("a", { href: linkTo("runs") }, "All runs")
  );
  const parts = [headline(run), accuracy(run, values), yields(run), faults(run), warnings(run), training(run, values), time(run), config(run)];
  return { title: run.name, node: el("div", { class: "runs" }, el("h1", { tabindex: "-1" }, run.name), others, notice, parts) };
}

// What there is of several runs; each has its own page.
function allRuns(source, values, notice) {
  const runs = source.runs();
  const comparisons = source.comparisons();
  const compared = new Set(comparisons.flatMap((one) => one.cells.map((cell) => cell.run)));
  const apart = runs.filter((run) => !compared.has(run.name));
  const alone = comparisons.length === 1 && !apart.length;
  const splits = splitsOf(runs);
  const split = splits.includes(values.split) ? values.split : "dev";
  const title = alone ? comparisons[0].name : `${runs.length} runs`;
  const pick = splits.length > 1 && choice("Split", "split", splits.map((name) => [name, name]), split, (chosen) => go("runs", { ...values, split: chosen }, { replace: true }));
  return {
    title: alone ? title : "Runs",
    node: el("div", { class: "runs" },
      el("h1", { tabindex: "-1" }, title), notice, pick && el("div", { class: "fields" }, pick),
      comparisons.map((one) => comparisonSection(one, runs, split, { alone })),
      el("section", { "aria-label": "The runs" }, comparisons.length > 0 && el("h2", {}, "The runs"), list(runs), apart.length > 0 && overEachOther(apart, split))
    ),
  };
}

function stateOf(run) {
  const { state } = run;
  if (state.finished) return `finished after ${state.iterations} iteration${state.iterations === 1 ? "" : "s"}`;
  return `not finished: ${state.iterations} of at most ${state.limit ?? "?"} iterations${state.now ? `; last, ${state.now}` : ""}`;
}

function headline(run) {
  const { state, about } = run;
  const splits = ["dev", "test", "extrapolation"].filter((split) => at(run, split, 0) && state.best !== null);
  const figures = splits.map((split) => {
    const base = at(run, split, 0);
    const best = at(run, split, state.best);
    if (state.best === 0)
      return el("div", { class: "figure" }, el("p", { class: "what" }, `accuracy on ${split}`), el("p", { class: "big" }, percent(base.accuracy)), el("p", { class: "faint" }, `${rate(base)}, base model`), latest(run, split), el("p", { class: "faint" }, state.iterations ? "no iteration beat the base model on dev" : "no iteration is finished yet"));
    return el("div", { class: "figure" },
      el("p", { class: "what" }, `accuracy on ${split}`),
      el("p", { class: "big" }, percent(base.accuracy), el("span", { class: "arrow" }, " → "), percent(best?.accuracy)),
      el("p", { class: "faint" }, `${rate(base)}, base model`),
      el("p", { class: "faint" }, best ? `${rate(best)}, iteration ${state.best}` : `iteration ${state.best} is not measured on ${split} yet`)
    );
  });
  const what = [about.method, about.task + (about.variant ? ` (${about.variant})` : ""), about.model, `seed ${about.seed}`];
  return el("section", { "aria-label": "Headline" },
    el("p", { class: "lead" }, what.join(" · ")),
    el("p", {}, el("span", { class: state.finished ? "chip good" : "chip now" }, state.finished ? "finished" : "unfinished"), ` ${stateOf(run)}`),
    el("div", { class: "figures" }, figures),
    el("p", { class: "faint small" }, "Accuracy is over each problem’s first, greedy completion; in brackets its 95 % Wilson interval, then correct/n. The best iteration is chosen on dev alone.")
  );
}

function latest(run, split) {
  const last = measuredOn(run, split).pop();
  return last && last.iteration > 0 ? el("p", { class: "faint" }, `${rate(last)}, iteration ${last.iteration}`) : null;
}

function list(runs) {
  const rows = runs.map((run) => [
    el("a", { href: linkTo("runs", { run: run.name }) }, run.name), run.about.method, String(run.about.seed), stateOf(run),
    run.state.best === null ? "–" : String(run.state.best), rate(at(run, "dev", 0)), rate(at(run, "dev", run.state.best)), rate(at(run, "test", 0)), rate(at(run, "test", run.state.best)),
  ]);
  return table("The runs", ["run", "method", "seed", "state", "best", "dev, base", "dev, best", "test, base", "test, best"], rows, { hidden: true });
}

function overEachOther(runs, split) {
  const series = runs.map((run) => ({ name: run.name, points: measuredOn(run, split).map(pointOf) }));
  const title = `Accuracy on ${split} by iteration, every run`;
  return lineChart({ title, series, xLabel: "iteration (0 is the base model)", yText: shortPercent, yRange: rangeOf(series), tables: numbers(title, ...numbersOf(series)) });
}

function accuracy(run, values) {
  const splits = splitsOf([run]);
  const split = splits.includes(values.of) ? values.of : "dev";
  const measured = measuredOn(run, split);
  if (!measured.length) return el("section", {}, el("h2", {}, "Accuracy"), el("p", { class: "faint" }, "Nothing is measured yet."));
  const classes = run.classes.filter((name) => measured.some((m) => m.by_class[name]));
  const byClass = classes.length > 1 ? classes : [];
  const series = [
    { name: "all", points: measured.map(pointOf) },
    ...byClass.map((name) => ({
      name: `class ${name}`,
      points: measured.filter((m) => m.by_class[name]).map((m) => pointOf({ ...m.by_class[name], iteration: m.iteration })),
    })),
  ];
  const title = `Accuracy on ${split} by iteration${byClass.length ? " and class" : ""}`;
  const rows = measured.map((m) => [String(m.iteration), rate(m), ...byClass.map((name) => rate(m.by_class[name]))]);
  const tables = numbers(title, ["iteration", "all", ...byClass.map((name) => `class ${name}`)], rows);
  const pick = splits.length > 1 && choice("Split", "of", splits.map((name) => [name, name]), split, (of) => go("runs", { ...values, of }, { replace: true }));
  const chart = lineChart({ title, series, xLabel: "iteration (0 is the base model)", yText: shortPercent, yRange: rangeOf(series), tables, tall: true });
  return el("section", {}, el("h2", {}, "Accuracy"), pick && el("div", { class: "fields" }, pick), chart);
}

function yields(run) {
  const rows = run.iterations;
  if (!rows.length) return null;
  const reasons = [...new Set(rows.flatMap((row) => Object.keys(row.left_out)))];
  const title = "Samples kept and left out, by reason";
  const bars = rows.map((row) => ({
    name: `iteration ${row.iteration}`,
    parts: [{ name: "kept", value: row.kept }, ...reasons.map((reason) => ({ name: reason, value: row.left_out[reason] ?? 0 }))],
  }));
  const cells = rows.map((row) => {
    const other = Object.entries(row.other_rows).map(([source, count]) => `${number(count)} ${source}`).join(", ") || "0";
    const sum = row.adds_up ? "adds up" : el("strong", { class: "bad" }, "does not add up");
    return [String(row.iteration), number(row.seen), number(row.kept), ...reasons.map((reason) => number(row.left_out[reason] ?? 0)), other, number(row.examples), sum];
  });
  const header = ["iteration", "samples", "kept", ...reasons, "other rows", "examples", "samples = kept + left out"];
  return el("section", {}, el("h2", {}, "What was kept"), barChart({ title, rows: bars, unit: "samples", tables: numbers(title, header, cells) }));
}

function stageRows(run) {
  const rows = [];
  const { first, second } = attemptsOf(run);
  for (const row of run.iterations)
    for (const [name, counts] of [[first, row.rationale], [second, row.rationalization]])
      if (counts.samples) rows.push([row.iteration, name, counts, counts.samples]);
  for (const m of run.measured) rows.push([m.iteration, m.split, m, m.n]);
  return rows.sort((a, b) => a[0] - b[0]);
}

function faults(run) {
  const rows = stageRows(run);
  if (!rows.length) return null;
  const checks = [...new Set(rows.flatMap(([, , counts]) => Object.keys(counts.checks ?? {})))].filter((check) => check !== "leak");
  const cells = rows.map(([iteration, name, counts, n]) => [
    `${iteration}, ${name}`, share(counts.correct, n), share(counts.false_positive, counts.correct), leaks(counts.checks?.leak), share(counts.unparseable, n), share(counts.truncated, n), ...checks.map((check) => rate(counts.checks?.[check])),
  ]);
  return el("section", {}, el("h2", {}, "What went wrong"),
    el("p", { class: "faint small" }, "A false positive is a correct answer with wrong reasoning, of the correct ones. A leak is a correct answer that the reasoning gives away before it leads to it; of samples without a hint the same is found in honest reasoning, so that only a higher rate with a hint means something. Truncated: ended by the limit on new tokens. Of a check: how many of the correct passed it (extraction and label: of all)."),
    table("Verdicts and checks by stage", ["iteration, stage", "correct", "false positives", "leaks", "unparseable", "truncated", ...checks.map((check) => `check ${check}`)], cells, { hidden: true })
  );
}

function leaks(passed) {
  return passed ? share(passed.n - passed.correct, passed.n) : "–";
}

function warnings(run) {
  const all = run.iterations.flatMap((row) => row.warnings.map((text) => [row.iteration, text]));
  const notes = run.iterations.flatMap((row) => (row.train.notes ?? []).map((text) => [row.iteration, text]));
  const list = [...all, ...notes].map(([iteration, text]) => el("li", {}, `Iteration ${iteration}: ${text}`));
  return el("section", {}, el("h2", {}, "Warnings"), list.length ? el("ul", { class: "warnings" }, list) : el("p", { class: "faint" }, "None."));
}

const CURVES = [["loss", "loss (nats per token)"], ["learning_rate", "learning rate"], ["grad_norm", "gradient norm before clipping"]];

function training(run, values) {
  const { columns, every, logged } = run.training;
  if (!logged) return null;
  const [key, label] = CURVES.find(([name]) => name === values.curve) ?? CURVES[0];
  const iterations = [...new Set(columns.iteration)];
  const series = iterations.map((n) => ({
    name: `iteration ${n}`,
    points: columns.step.flatMap((step, i) => (columns.iteration[i] === n ? [{ x: step, y: columns[key][i] }] : [])),
  }));
  const cells = columns.step.map((step, i) => [`${columns.iteration[i]}, ${step}`, ...CURVES.map(([name]) => significant(columns[name][i])), number(columns.tokens[i]), number(columns.seconds[i], 1)]);
  const title = `Training: ${label}`;
  const tables = numbers(title, ["iteration, step", ...CURVES.map(([, text]) => text), "tokens", "seconds"], cells);
  const trained = run.iterations.map((row) => [String(row.iteration), number(row.examples), number(row.train.steps), number(row.train.tokens), significant(row.train.first_loss), significant(row.train.last_loss), significant(row.train.validation_loss), significant(row.train.dev_answer_loss), significant(row.train.noise_scale)]);
  return el("section", {}, el("h2", {}, "Training"),
    el("div", { class: "fields" }, choice("Curve", "curve", CURVES, key, (curve) => go("runs", { ...values, curve }, { replace: true }))),
    every > 1 && el("p", { class: "faint small" }, `One of every ${every} of ${number(logged)} logged steps is drawn.`),
    lineChart({ title, series, xLabel: "optimizer step", yText: significant, marks: false, tables }),
    trained.length ? table("Trainings", ["iteration", "examples", "steps", "tokens", "first loss", "last loss", "validation loss", "loss on dev answers", "noise scale"], trained) : null
  );
}

function time(run) {
  if (!run.iterations.length) return null;
  const title = "Seconds by stage";
  const bars = run.iterations.map((row) => ({ name: `iteration ${row.iteration}`, parts: Object.entries(row.seconds).map(([name, value]) => ({ name, value })) }));
  const stages = [...new Set(run.iterations.flatMap((row) => Object.keys(row.seconds)))];
  const cells = run.iterations.map((row) => [
    String(row.iteration),
    ...stages.map((stage) => (row.seconds[stage] === undefined ? "–" : `${number(row.seconds[stage], 1)} s${row.tokens_per_s[stage] ? `, ${number(row.tokens_per_s[stage])} tokens/s` : ""}`)),
    ...["sampling", "training", "loading", "other"].map((work) => (row.work_s[work] === undefined ? "–" : `${number(row.work_s[work], 1)} s`)),
  ]);
  const header = ["iteration", ...stages, "of which sampling", "training", "loading", "other"];
  return el("section", {}, el("h2", {}, "Time and tokens"), barChart({ title, rows: bars, unit: "s", digits: 1, tables: numbers(title, header, cells) }));
}

function shown(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function config(run) {
  const { about, settings, repeat } = run;
  const facts = [
    ["method", about.method], ["task", about.task], ["variant", about.variant], ["model", about.model], ["sha256 of its weights", about.model_sha256],
    ["parameters", about.parameters === null ? null : number(about.parameters)], ["prompts", about.chat ? "turns" : "a text to continue"], ["seed", about.seed],
    ["started", about.started], ["git commit", about.git_commit], ...Object.entries(about.resolved), ...Object.entries(about.versions),
  ].map(([name, value]) => [name, value === null || value === undefined ? "–" : shown(value)]);
  const rows = (all) => all.map((s) => [s.key, shown(s.value), "usual" in s ? shown(s.usual) : "–"]);
  const header = ["setting", "this run", "method or default"];
  const differing = settings.filter((s) => s.differs);
  return el("section", {}, el("h2", {}, "How it was made"),
    table("Settings that differ from the method and the defaults", header, rows(differing)),
    more("All settings", table("All settings", header, rows(settings), { hidden: true })),
    more("Machine and versions", table("Machine and versions", ["what", "value"], facts, { hidden: true })),
    el("h3", {}, "How to repeat it"),
    repeat.command === null
      ? el("p", {}, "Its task was given from Python; run that program again.")
      : [el("p", {}, "Save the settings below as config.toml, then:"), el("pre", { class: "text", tabindex: "0", role: "region", "aria-label": "command" }, repeat.command)],
    more("config.toml", el("pre", { class: "text", tabindex: "0", role: "region", "aria-label": "config.toml" }, repeat.file))
  );
}
