// One problem through the iterations, side by side.

import { difference, marked } from "./diff.js";
import { block, choice, el, literal, more, significant } from "./dom.js";
import { go, linkTo } from "./route.js";
import { attemptsOf, fullPrompt, runOf } from "./source.js";

const ORDER = ["rationale", "rationalization", "dev", "test", "extrapolation"];
const SHOWN = [["text", "text"], ["diff", "difference to the iteration before"], ["tokens", "log-probability of each token"]];

export async function problemView(source, values) {
  const runs = source.runs();
  const run = runOf(runs, values.run);
  const data = await source.problem(run.name, values.id ?? "");
  const title = el("h1", { tabindex: "-1" }, `Problem ${values.id ?? ""}`);
  if (!data) return { title: "Problem", node: el("div", {}, title, el("p", { class: "notice" }, `${run.name} has no samples of this problem here. ${source.missing()}`)) };
  const { problem } = data;
  const shown = values.show ?? "text";
  const set = (name) => (value) => go("problem", { ...values, run: run.name, [name]: value }, { replace: true });
  const others = runs.filter((other) => other.name !== run.name);
  const other = others.find((one) => one.name === values.with);
  const fields = [
    runs.length > 1 && choice("Run", "run", runs.map((one) => [one.name, one.name]), run.name, set("run")),
    others.length > 0 && choice("Beside it", "with", [["", "no other run"], ...others.map((one) => [one.name, one.name])], values.with, set("with")),
    choice("Show", "show", SHOWN, shown, set("show")),
  ];
  const node = el("div", { class: "problem" }, title,
    el("p", { class: "lead" }, `${problem.split}, class ${problem.class_name}`),
    el("form", { class: "fields", submit: (event) => event.preventDefault() }, fields, await neighbours(source, run, problem, values)),
    question(problem),
    columns(run, data, shown, values.iteration)
  );
  if (other) {
    const beside = await source.problem(other.name, problem.id);
    node.append(beside ? columns(other, beside, shown, values.iteration) : el("p", { class: "notice" }, `${other.name} has no samples of this problem here.`));
  }
  return { title: `Problem ${problem.id}`, node };
}

// Links to the problems before and after this one in its split, for the keys as well.
async function neighbours(source, run, problem, values) {
  const rows = (await source.grid(run.name)).filter((row) => row.split === problem.split);
  const here = rows.findIndex((row) => row.id === problem.id);
  const link = (row, text, rel) => row && el("a", { rel, href: linkTo("problem", { ...values, run: run.name, id: row.id, iteration: "" }) }, text);
  return el("span", { class: "neighbours" }, link(rows[here - 1], "← problem before", "prev"), link(rows[here + 1], "next problem →", "next"));
}

function question(problem) {
  const choices = problem.choices.map((text, i) => el("li", { class: "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[i] === problem.answer ? "right" : "" }, literal(text)));
  return el("section", { class: "asked" },
    el("h2", {}, "Question"),
    block(problem.question, { label: "question" }),
    choices.length > 0 && el("ol", { class: "choices" }, choices),
    el("p", {}, "Answer: ", el("b", { class: "isolated" }, literal(problem.answer))),
    problem.rationale !== "" && more("Human solution", block(problem.rationale, { label: "human solution" }))
  );
}

function columns(run, data, shown, opened) {
  const attempts = attemptsOf(run);
  const rows = [...data.samples].sort((a, b) => a.iteration - b.iteration || ORDER.indexOf(a.stage) - ORDER.indexOf(b.stage) || a.index - b.index);
  const iterations = [...new Set([...rows.map((row) => row.iteration), ...data.examples.map((row) => row.trained)])].sort((a, b) => a - b);
  const made = iterations.map((n) => {
    const cards = rows.filter((row) => row.iteration === n).map((row) => card(row, rows, data, shown, attempts));
    const human = data.examples.filter((row) => row.trained === n && !["rationale", "rationalization"].includes(row.source));
    return el("section", { class: `column${String(n) === opened ? " opened" : ""}`, "aria-label": `iteration ${n}` },
      el("h3", {}, n === 0 ? "Iteration 0, base model" : `Iteration ${n}`),
      cards, human.map((row) => el("article", { class: "card" }, el("h4", {}, `trained on, from ${row.source}`), mask(row)))
    );
  });
  return el("section", {}, el("h2", {}, run.name), el("div", { class: "columns", tabindex: "0", role: "region", "aria-label": `${run.name}, iterations side by side` }, made));
}

function card(sample, rows, data, shown, attempts) {
  const stage = { rationale: attempts.first, rationalization: attempts.second }[sample.stage] ?? sample.stage;
  const many = rows.some((row) => row.stage === sample.stage && row.index > 0);
  const name = `${stage}${many ? `, sample ${sample.index}` : ""}`;
  const trained = data.examples.filter((row) => row.source === sample.kind && row.iteration === sample.iteration && row.index === sample.index);
  return el("article", { class: `card ${sample.verdict}` },
    el("h4", {}, name, " ", el("span", { class: `chip ${sample.verdict}` }, sample.verdict)),
    el("p", { class: "isolated" }, "prediction ", el("b", {}, sample.prediction === null ? "none" : literal(sample.prediction)), " · answer ", el("b", {}, literal(data.problem.answer))),
    completion(sample, rows, data, shown),
    checks(sample),
    el("p", { class: "small" }, fate(sample)),
    el("p", { class: "faint small" }, `${sample.checkpoint === null ? "base model" : `checkpoint ${sample.checkpoint}`} · ${sample.num_tokens} tokens · ${ENDS[sample.finish_reason] ?? sample.finish_reason}${sample.logprob === null ? "" : ` · log-probability ${significant(sample.logprob)}`}`),
    prompt(sample, rows, data, attempts),
    trained.length > 0 && more("What was trained on", trained.map(mask))
  );
}

const ENDS = { end: "ended", stop: "ended at a stop string", length: "truncated" };

function fate(sample) {
  if (sample.kind === "evaluation") return "measured, never trained on";
  if (sample.kept === null) return "not decided on yet";
  return sample.kept ? el("span", { class: "chip good" }, "kept") : [el("span", { class: "chip" }, "left out"), ` ${sample.reason}`];
}

function before(sample, rows) {
  return rows.filter((row) => row.stage === sample.stage && row.index === sample.index && row.iteration < sample.iteration).pop();
}

function completion(sample, rows, data, shown) {
  if (shown === "diff") {
    const earlier = before(sample, rows);
    if (!earlier) return [block(sample.completion, { label: "completion" }), el("p", { class: "faint small" }, "There is none before it to compare with.")];
    const pieces = difference(earlier.completion, sample.completion);
    if (pieces === null) return [block(sample.completion, { label: "completion" }), el("p", { class: "faint small" }, "Too long to compare.")];
    const same = pieces.every(([kind]) => kind === "same");
    return [el("pre", { class: "text", tabindex: "0", role: "region", "aria-label": "difference" }, marked(pieces)), el("p", { class: "faint small" }, same ? `The same as in iteration ${earlier.iteration}.` : `Against iteration ${earlier.iteration}.`)];
  }
  if (shown === "tokens") {
    const scored = data.scores.find((score) => score.key[1] === sample.iteration && score.key[2] === sample.kind && score.key[3] === sample.index);
    if (!scored) return [block(sample.completion, { label: "completion" }), el("p", { class: "faint small" }, "Not stored; selftaught score RUN stores them.")];
    return [el("pre", { class: "text", tabindex: "0", role: "region", "aria-label": "tokens" }, scored.tokens.map((token, i) => coloured(token, scored.logprobs[i]))), el("p", { class: "faint small" }, "The darker, the less likely; the number is on each token.")];
  }
  return block(sample.completion, { label: "completion", mark: (text) => firstWrong(text, sample) });
}

// Steps of probability, from sure to unlikely.
const LIKELY = [0.9, 0.5, 0.1, 0.01];

function coloured(token, logprob) {
  const level = LIKELY.findIndex((p) => Math.exp(logprob) >= p);
  const text = token === "" ? "⟨end⟩" : literal(token);
  return el("span", { class: `token p${level === -1 ? LIKELY.length : level}`, title: `log-probability ${significant(logprob)}, probability ${significant(Math.exp(logprob))}` }, text);
}

// The completion with the first wrong step marked, by the exact check if that found one; its place counts characters, not halves of them.
function firstWrong(text, sample) {
  const placed = Object.entries(sample.checks).filter(([, check]) => !check.passed && check.at);
  placed.sort(([one, a], [other, b]) => (other === "steps") - (one === "steps") || a.at[0] - b.at[0]);
  const failed = placed[0]?.[1];
  if (!failed) return literal(text);
  const characters = [...text];
  const part = (from, to) => literal(characters.slice(from, to).join(""));
  const [from, to] = failed.at;
  return [part(0, from), el("mark", { title: failed.detail }, part(from, to)), part(to)];
}

function checks(sample) {
  const all = Object.entries(sample.checks);
  if (!all.length) return null;
  return el("ul", { class: "checks" }, all.map(([name, result]) =>
    el("li", {}, el("span", { class: result.passed ? "passed" : "failed" }, result.passed ? "✓" : "✗"), ` ${name}: `, result.passed ? "passed" : ["failed, ", literal(result.detail), result.share > 0 ? ` (after ${Math.round(100 * result.share)} % of the steps)` : ""])
  ));
}

// The prompt; of one with a hint, what the prompt without it does not have is marked.
function prompt(sample, rows, data, { hasHint }) {
  const text = fullPrompt(data.prompts, sample.prompt_sha256);
  if (text === null) return null;
  const own = data.prompts[sample.prompt_sha256];
  const shared = own.prefix ? data.prompts[own.prefix].text : "";
  if (sample.kind !== "rationalization" || !hasHint)
    return more("Prompt", shared && more(`Few-shot examples before it, ${shared.length} characters`, block(shared, { label: "few-shot examples" })), block(own.text, { label: "prompt" }));
  const plain = rows.find((row) => row.kind === "rationale" && row.iteration === sample.iteration);
  const without = plain && fullPrompt(data.prompts, plain.prompt_sha256);
  const pieces = without ? difference(without, text) : null;
  if (pieces === null) return more("Prompt with the hint", block(text, { label: "prompt" }));
  return more("Prompt with the hint", el("p", { class: "faint small" }, "Marked: what the prompt without a hint does not have, and what only that one has."), el("pre", { class: "text", tabindex: "0", role: "region", "aria-label": "prompt" }, marked(pieces)));
}

// What carried loss, and what did not.
function mask(row) {
  const turns = typeof row.prompt === "string" ? [row.prompt] : row.prompt.map((turn) => `[${turn.role}] ${turn.content}\n`);
  return el("div", {},
    el("pre", { class: "text mask", tabindex: "0", role: "region", "aria-label": "loss mask" },
      el("span", { class: "noloss" }, turns.map(literal), literal(row.given)),
      el("span", { class: "loss" }, literal(row.completion)),
      el("span", { class: "loss end" }, "⟨end token⟩")
    ),
    el("p", { class: "faint small" }, `Training set of iteration ${row.trained}, from ${row.source}: loss on the underlined part and its end token, none on the rest.`)
  );
}
