// What two texts share, word by word: the longest common subsequence between what is equal at both ends.

import { el, literal } from "./dom.js";

const MOST = 3_000_000;

function wordsOf(text) {
  return text.match(/\s+|[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [];
}

// Pieces [kind, text] with the kinds "same", "gone" and "new"; null for texts that are too long to compare.
export function difference(before, after) {
  const a = wordsOf(before);
  const b = wordsOf(after);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const middle = between(a.slice(start, a.length - end), b.slice(start, b.length - end));
  if (middle === null) return null;
  return joined([["same", a.slice(0, start).join("")], ...middle, ["same", a.slice(a.length - end).join("")]]);
}

function between(a, b) {
  if (a.length * b.length > MOST) return null;
  const width = b.length + 1;
  const length = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1)
    for (let j = b.length - 1; j >= 0; j -= 1)
      length[i * width + j] =
        a[i] === b[j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
  const pieces = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      pieces.push(["same", a[i]]);
      i += 1;
      j += 1;
    } else if (j >= b.length || (i < a.length && length[(i + 1) * width + j] >= length[i * width + j + 1])) {
      pieces.push(["gone", a[i]]);
      i += 1;
    } else {
      pieces.push(["new", b[j]]);
      j += 1;
    }
  }
  return pieces;
}

function joined(pieces) {
  const all = [];
  for (const [kind, text] of pieces) {
    if (text === "") continue;
    const last = all[all.length - 1];
    if (last && last[0] === kind) last[1] += text;
    else all.push([kind, text]);
  }
  return all;
}

// The pieces as nodes; a screen reader is told where something was inserted or deleted.
export function marked(pieces, { withGone = true } = {}) {
  return pieces
    .filter(([kind]) => withGone || kind !== "gone")
    .map(([kind, text]) => (kind === "same" ? literal(text) : el(kind === "new" ? "ins" : "del", {}, literal(text))));
}
