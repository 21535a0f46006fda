// A comparison: its table as compare.json has it, and the accuracy of its rows over their seeds.

import { measuredOn, meanPoints, numbersOf, rangeOf, shortPercent } from "./accuracy.js";
import { lineChart, numbers } from "./charts.js";
import { el, more, number, table } from "./dom.js";
import { linkTo } from "./route.js";

const FEW = 0.05;

export function comparisonSection(comparison, runs, split, { alone }) {
  const byName = new Map(runs.map((run) => [run.name, run]));
  const { rows } = comparison;
  return el("section", { class: "comparison", "aria-label": `Comparison ${comparison.name}` },
    alone ? null : el("h2", {}, comparison.name),
    rows.length > 0 && comparison.notes.length > 0 ? el("ul", { class: "notes" }, comparison.notes.map((text) => el("li", {}, text))) : el("p", { class: "lead" }, about(comparison)),
    missing(comparison, byName),
    lines(comparison, byName, split),
    rows.length > 0 && [
      el("h3", {}, "Accuracy on test"), accuracies(comparison),
      ...["selected", "last"].map((which) => differences(comparison, which)),
      ...["selected", "last"].map((which) => outcomes(comparison, which)),
      el("h3", {}, "What the whole run took"), costs(comparison),
      more("What the rows are", el("dl", { class: "meanings" }, rows.map((row) => [el("dt", {}, row.row), el("dd", {}, row.meaning, own(row))]))),
    ]
  );
}

function about({ task, model, problems, train, at, planned_steps: steps, rows }) {
  if (!rows.length) return "No table yet: it is written when the command ends or is stopped, of the runs that have finished.";
  const schedule = at === "equal-steps" ? `at equal steps, ${number(steps)} to the last model of every row that trains` : "each row with its own schedule of steps";
  return [task, model, `${number(problems)} test problems, ${number(train)} training problems`, schedule].join(" · ");
}

function own(row) {
  const given = Object.entries(row.own_settings);
  return given.length ? ` It was given ${given.map(([key, value]) => `${key} = ${JSON.stringify(value)}`).join(", ")}.` : "";
}

// The cells that the table lacks, each with what is known of it.
function missing(comparison, byName) {
  if (!comparison.missing.length) return null;
  const items = comparison.missing.map((cell) => {
    const name = `${cell.row}-seed${cell.seed}`;
    const run = byName.get(cell.run);
    const state = cell.failed ? `failed; failed/${name}.txt says why` : !run ? "has not begun" : run.state.finished ? "finished after the table was written" : "is not finished";
    return el("li", {}, run ? el("a", { href: linkTo("runs", { run: run.name }) }, name) : name, ` ${state}`);
  });
  return el("div", { class: "notice" }, el("p", {}, comparison.rows.length ? "Not in the table:" : "Its runs:"), el("ul", {}, items));
}

function lines(comparison, byName, split) {
  const rows = [...new Set(comparison.cells.map((cell) => cell.row))];
  const series = rows.flatMap((row) => {
    const begun = comparison.cells.filter((cell) => cell.row === row && byName.has(cell.run)).map((cell) => byName.get(cell.run));
    const measured = begun.filter((run) => measuredOn(run, split).length);
    const finished = measured.filter((run) => run.state.finished);
    const of = finished.length ? finished : measured;
    return of.length ? [{ name: row, points: meanPoints(of, split) }] : [];
  });
  const title = `Accuracy on ${split} by iteration`;
  const chart = lineChart({ title, series, xLabel: "iteration (0 is the base model)", yText: shortPercent, yRange: rangeOf(series), tables: numbers(title, ...numbersOf(series)), tall: true });
  return [chart, el("p", { class: "faint small" }, "A line is the mean over a row’s seeds, its band reaches from the lowest to the highest; of runs that go on, once none of the row has finished.")];
}

function accuracies({ rows, cells }) {
  const header = ["row", "seeds", "selected, %", "95 %", "by seed", "train used, %", "iteration", "last, %", "95 %", "by seed", "train used, %"];
  const bySeed = (row, accuracy) => {
    const linked = accuracy.by_seed.map((share, i) => {
      const { run } = cells.find((cell) => cell.row === row.row && cell.seed === row.seeds[i]) ?? {};
      return [i ? ", " : "", run ? el("a", { href: linkTo("runs", { run }) }, points(share)) : points(share)];
    });
    return el("span", { class: "together" }, linked);
  };
  const body = rows.map((row) => [
    row.row, row.seeds.join(", "), mean(row.selected), between(row.selected.interval), bySeed(row, row.selected), points(row.unhinted + row.hinted), row.selected_iterations.join(", "),
    mean(row.last), between(row.last.interval), bySeed(row, row.last), points(row.last_unhinted + row.last_hinted),
  ]);
  return [
    table("Accuracy on test", header, body, { hidden: true }),
    el("p", { class: "faint small" }, "Selected is the model that is best on dev, last that of the last iteration. Mean ± standard deviation over seeds; the interval is over problems. Train used: the share of the training problems that it was last trained on."),
  ];
}

function differences({ rows, against }, which) {
  const compared = rows.map((row) => [row, which === "selected" ? row.against : row.last_against]).filter(([, found]) => found !== null);
  if (!compared.length) return null;
  const title = `Difference to ${against} in points, ${which}`;
  const header = ["row", "seeds", "difference", "95 %", "gained, lost by seed", "McNemar p by seed", "p", "p (Holm)", "smallest shown"];
  const body = compared.map(([row, { seeds, by_seed: bySeed, difference, p_holm: adjusted }]) => [
    row.row, seeds.join(", "), adjusted < FEW ? el("strong", {}, signed(difference.difference)) : signed(difference.difference), between(difference.interval, signed),
    discordant(bySeed), bySeed.map((one) => chance(one.p)).join(", "), chance(difference.p), chance(adjusted), points(difference.smallest),
  ]);
  return [
    el("h3", {}, title), table(title, header, body, { hidden: true }),
    which === "selected" && el("p", { class: "faint small" }, "Gained: test problems that only this row solves; lost: that only the other does. p (Holm) is adjusted for the number of rows; below 0.05 the difference is bold. Smallest shown: the true difference that so many problems would have shown in four of five tables. A row that is not different by less than that has not been shown to be as good."),
  ];
}

function outcomes({ rows }, which) {
  const isLast = which === "last";
  const title = `What came of the ${which} model`;
  const header = ["row", "train used, %, first + second attempt", "gained, lost against base", "false positives", "steps", "loss tokens"];
  const of = (row, name) => row[isLast ? `last_${name}` : name];
  const wrong = (row) => {
    const found = of(row, "false_positive");
    return found === null || found === undefined ? "–" : `${number(found)} of ${number(of(row, "correct"))}`;
  };
  const body = rows.map((row) => [
    row.row, `${points(of(row, "unhinted"))} + ${points(of(row, "hinted"))}`, discordant(of(row, "against_base") ?? []), wrong(row), number(of(row, "steps")), number(of(row, "loss_tokens")),
  ]);
  return [
    el("h3", {}, title), table(title, header, body, { hidden: true }),
    isLast && el("p", { class: "faint small" }, "Means over seeds. Used for training: solved in the first attempt + in the second alone, with a hint or what a control has in its place. Gained: test problems that it solves and the base model does not. False positives: correct answers with wrong reasoning, of the correct ones of all seeds. Steps and loss tokens lie between the base model and it."),
  ];
}

function costs({ rows }) {
  const passes = rows.find((row) => row.passes)?.passes;
  const header = ["row", "steps", "tokens generated", "tokens trained", "FLOPs", "hours"];
  if (passes) header.push(`pass@${passes.k} on dev, %`);
  const body = rows.map((row) => [
    row.row, number(row.all_steps), number(row.generated), number(row.trained), row.flops === null ? "–" : row.flops.toExponential(1), number(row.hours, 2),
    ...(passes ? [row.passes ? `${points(row.passes.base)} → ${points(row.passes.result)}` : "–"] : []),
  ]);
  return [
    table("What the whole run took", header, body, { hidden: true }),
    el("p", { class: "faint small" }, "Means over seeds. Steps, tokens and FLOPs are those of the run alone: measurements, and samples that it shares with others, are counted. Hours are of the iterations, in the process that finished each: shared samples that were there took none, and the base model’s measurements and those on test are not in them."),
  ];
}

function points(share) {
  return (100 * share).toFixed(1);
}

function signed(share) {
  return `${share < 0 ? "−" : "+"}${points(Math.abs(share))}`;
}

function mean({ mean: value, sd }) {
  return sd === null ? points(value) : `${points(value)} ± ${points(sd)}`;
}

function between([low, high], text = points) {
  return `[${text(low)}, ${text(high)}]`;
}

function discordant(bySeed) {
  return bySeed.map((one) => `+${one.gained} −${one.lost}`).join(", ");
}

function chance(p) {
  return p < 0.001 ? "<0.001" : p.toFixed(3);
}
