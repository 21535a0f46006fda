// Measured accuracies of runs, as numbers and as points of lines.

import { percent, rate } from "./dom.js";

export function measuredOn(run, split) {
  return run.measured.filter((m) => m.split === split).sort((a, b) => a.iteration - b.iteration);
}

export function at(run, split, iteration) {
  return run.measured.find((m) => m.split === split && m.iteration === iteration);
}

export function splitsOf(runs) {
  return [...new Set(runs.flatMap((run) => run.measured.map((m) => m.split)))];
}

export function pointOf(m) {
  return { x: m.iteration, y: m.accuracy, low: m.interval[0], high: m.interval[1], text: rate(m) };
}

// The mean over runs, as far as all of them went; a band reaches from the lowest to the highest.
export function meanPoints(runs, split) {
  const [first, ...others] = runs;
  return measuredOn(first, split)
    .map((m) => [m, ...others.map((run) => at(run, split, m.iteration))])
    .filter((measured) => measured.every(Boolean))
    .map((measured) => {
      if (measured.length === 1) return { x: measured[0].iteration, y: measured[0].accuracy, text: rate(measured[0]) };
      const all = measured.map((m) => m.accuracy);
      const [mean, low, high] = [all.reduce((sum, one) => sum + one, 0) / all.length, Math.min(...all), Math.max(...all)];
      const text = `${percent(mean)}, ${all.length} seeds from ${percent(low)} to ${percent(high)}`;
      return { x: measured[0].iteration, y: mean, low, high, text };
    });
}

export function shortPercent(value) {
  return `${Math.round(100 * value)} %`;
}

export function rangeOf(series) {
  const most = Math.max(...series.flatMap((line) => line.points.map((point) => point.high ?? point.y)), 0.1);
  return [0, most > 0.5 ? 1 : Math.ceil(most * 10) / 10];
}

// Header and rows of the table beside such lines.
export function numbersOf(series) {
  const iterations = [...new Set(series.flatMap((line) => line.points.map((point) => point.x)))].sort((a, b) => a - b);
  const cell = (line, n) => line.points.find((point) => point.x === n)?.text ?? "–";
  return [["iteration", ...series.map((line) => line.name)], iterations.map((n) => [String(n), ...series.map((line) => cell(line, n))])];
}
