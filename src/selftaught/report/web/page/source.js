// Where the data comes from: the page itself, or the small server that serves it. Both give the same values.

export async function openSource() {
  const held = document.getElementById("data");
  if (held) return new HeldSource(JSON.parse(held.textContent));
  const source = new ServedSource();
  await source.refresh();
  return source;
}

export const PAGE = 50;

// The run that a link names, or the first; a link to one that is not here must not lead to another.
export function runOf(runs, name) {
  if (!name) return runs[0];
  const run = runs.find((one) => one.name === name);
  if (!run) throw new Error(`There is no run ${name} here; there are ${runs.map((one) => one.name).join(", ")}.`);
  return run;
}

// What a run's two attempts at a problem are called: a control shows failed problems something else than the answer.
export function attemptsOf({ about: { shows, again } }) {
  if (shows === "answer") return { first: "without a hint", second: "with a hint", alone: "by a hint alone", hasHint: true };
  return { first: "first attempt", second: `second attempt, ${again}`, alone: "in the second attempt alone", hasHint: shows !== "nothing" };
}

const BY_VALUE = ["iteration", "stage", "kind", "verdict", "reason", "source"];

// As selection.py has it, which the server uses.
export function matches(filters, sample, problem) {
  if (filters.problem && sample.problem_id !== filters.problem) return false;
  for (const name of BY_VALUE) if (filters[name] && String(sample[name]) !== filters[name]) return false;
  if (filters.class && problem?.class_name !== filters.class) return false;
  if (filters.kept && sample.kept !== (filters.kept === "yes")) return false;
  if (filters.check) {
    const at = filters.check.lastIndexOf(":");
    const result = sample.checks[filters.check.slice(0, at)];
    if (!result || result.passed !== (filters.check.slice(at + 1) === "passed")) return false;
  }
  if (!filters.q) return true;
  const parts = ["", sample.completion, sample.prediction ?? "", problem?.question ?? "", problem?.answer ?? "", problem?.id ?? "", ""];
  const text = isShort(filters.q) ? `\n${filters.q}\n` : filters.q;
  return parts.join("\n").toLowerCase().includes(text.toLowerCase());
}

// One or two characters are looked for as a line of their own.
export function isShort(text) {
  return [...text].length < 3;
}

function sorted(values) {
  return [...values].sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true }));
}

class HeldSource {
  constructor(data) {
    this.data = data;
    this.live = false;
    this.parquet = false;
    this.byName = new Map(data.runs.map((run) => [run.name, indexed(run)]));
  }

  runs() {
    return this.data.runs;
  }

  comparisons() {
    return this.data.comparisons;
  }

  // What is left out of this file, in words; "" if nothing is.
  missing() {
    const all = this.data.runs.reduce((sum, run) => sum + run.samples_seen, 0);
    const held = this.data.runs.reduce((sum, run) => sum + run.samples.length, 0);
    if (all === held) return "";
    return `This file holds ${held.toLocaleString("en")} of ${all.toLocaleString("en")} samples, whole problems of them; the numbers and the grid are of all. selftaught view shows every sample.`;
  }

  async grid(name) {
    return this.byName.get(name).run.grid;
  }

  async problem(name, id) {
    const run = this.byName.get(name);
    const problem = run.problems.get(id);
    if (!problem) return null;
    return {
      problem,
      samples: run.samples.get(id) ?? [],
      examples: run.examples.get(id) ?? [],
      prompts: run.run.prompts,
      scores: run.scores.get(id) ?? [],
    };
  }

  async facets(name) {
    const { run } = this.byName.get(name);
    const found = { class: new Set(run.problems.map((problem) => problem.class_name)), check: new Set() };
    for (const key of BY_VALUE) found[key] = new Set();
    for (const sample of run.samples) {
      for (const key of BY_VALUE) if (sample[key] !== null) found[key].add(sample[key]);
      for (const check of Object.keys(sample.checks)) found.check.add(check);
    }
    return Object.fromEntries(Object.entries(found).map(([key, values]) => [key, sorted(values)]));
  }

  matching(name, filters) {
    const run = this.byName.get(name);
    return run.run.samples
      .filter((sample) => matches(filters, sample, run.problems.get(sample.problem_id)))
      .map((sample) => ({ ...sample, ...asked(run.problems.get(sample.problem_id)) }));
  }

  async samples(name, filters, offset) {
    const found = this.matching(name, filters);
    return { total: found.length, samples: found.slice(offset, offset + PAGE) };
  }

  async exported(name, filters) {
    const { prompts } = this.byName.get(name).run;
    const lines = this.matching(name, filters).map((sample) => `${JSON.stringify({ ...sample, prompt: fullPrompt(prompts, sample.prompt_sha256) })}\n`);
    return new Blob(lines, { type: "application/jsonl" });
  }
}

function asked(problem) {
  return { question: problem?.question ?? "", answer: problem?.answer ?? "", class_name: problem?.class_name ?? "" };
}

function indexed(run) {
  const byProblem = (rows, id) => {
    const groups = new Map();
    for (const row of rows) {
      const group = groups.get(id(row));
      if (group) group.push(row);
      else groups.set(id(row), [row]);
    }
    return groups;
  };
  return {
    run,
    problems: new Map(run.problems.map((problem) => [problem.id, problem])),
    samples: byProblem(run.samples, (sample) => sample.problem_id),
    examples: byProblem(run.examples, (example) => example.problem_id),
    scores: byProblem(run.scores, (score) => score.key[0]),
  };
}

// The complete text of a prompt; null if the run folder does not have it.
export function fullPrompt(prompts, sha256) {
  const own = prompts[sha256];
  if (!own) return null;
  return own.prefix ? (prompts[own.prefix]?.text ?? "") + own.text : own.text;
}

function answered(address) {
  return fetch(address).catch(() => {
    throw new Error("The server does not answer; start selftaught view again.");
  });
}

class ServedSource {
  constructor() {
    this.live = true;
    this.parquet = true;
    this.overviews = [];
    this.compared = [];
    this.version = "";
  }

  async refresh() {
    const reply = await this.ask("runs", {});
    this.overviews = reply.runs;
    this.compared = reply.comparisons;
    this.version = reply.version;
  }

  // Whether a run has gone on since `refresh`.
  async changed() {
    return (await this.ask("state", {})).version !== this.version;
  }

  runs() {
    return this.overviews;
  }

  comparisons() {
    return this.compared;
  }

  missing() {
    return "";
  }

  async ask(what, values) {
    const reply = await answered(`api/${what}?${new URLSearchParams(values)}`);
    const content = await reply.json();
    if (!reply.ok) throw new Error(content.error);
    return content;
  }

  async grid(run) {
    return (await this.ask("grid", { run })).grid;
  }

  problem(run, id) {
    return this.ask("problem", { run, id });
  }

  async facets(run) {
    const found = await this.ask("facets", { run });
    return Object.fromEntries(Object.entries(found).map(([key, values]) => [key, sorted(values)]));
  }

  samples(run, filters, offset) {
    return this.ask("samples", { ...filters, run, offset: String(offset), limit: String(PAGE) });
  }

  async exported(run, filters, form = "jsonl") {
    const reply = await answered(`api/export.${form}?${new URLSearchParams({ ...filters, run })}`);
    if (!reply.ok) throw new Error((await reply.json()).error);
    return reply.blob();
  }
}
