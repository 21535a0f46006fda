"""Find the answer in a completion. Pure text: no model, no randomness, never evaluates what a model wrote.

The one extractor of the project: the loop, `eval`, `regrade` and the tests all come through here.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRule:
    """Where a completion that wraps its reasoning in tags states its answer."""

    opener: str
    """A completion that contains the opener states its answer after the closer, and nowhere else."""
    closer: str
    pattern: str
    """Regular expression that the whole answer line must match; anything else is unparseable."""


def normalize(answer: str) -> str:
    """Fold white space; nothing else, so that two answers are equal only if they read the same."""
    return " ".join(answer.split())


def extract(completion: str, rule: AnswerRule) -> str | None:
    """The answer that a completion states, normalized, or None if it states none that can be read.

    A completion that opens its reasoning with `rule.opener` states the answer on the first line with text after
    `rule.closer`; without the closer there is no answer. A completion without the opener states it on its first
    line with text. (Zelikman et al. 2022's parser takes line 0 in both cases, so that an unfinished rationale
    counts as a wrong answer; here it is unreadable.)
    """
    if rule.opener in completion:
        _, closer, rest = completion.partition(rule.closer)
        if not closer:
            return None
    else:
        rest = completion
    for line in rest.splitlines():
        if line.strip():
            answer = normalize(line)
            return answer if re.fullmatch(rule.pattern, answer) else None
    return None
