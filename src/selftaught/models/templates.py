"""Turns as text: a model's own chat template, rendered once, and what a look at the template tells.

The template is code of the model's author. transformers runs it in a sandbox, and everything that it does to the turns
(trims, merges, default texts) is left as it is.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import cached_property
from typing import Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError

from selftaught.grading.thoughts import CLOSES, OPENS
from selftaught.records.errors import ModelError, RefusedError, one_line
from selftaught.records.prompts import ChatSettings, Turn

PRIVATE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))
"""Code points without a meaning of their own (private use). They mark places in what a template is given."""
QUESTION, ANSWER, INSTRUCTION, NEXT = (chr(i) for i in PRIVATE[-4:])
"""Contents of the turns that a template is looked at with."""

FIXED_CLOCK = (
    "{%- macro strftime_now(format) -%}{{ fixed_dates[format] if format in fixed_dates else "
    "raise_exception('it puts together the form of a date, ' ~ format) }}{%- endmacro %}\n"
)
"""Stands before a template that reads the clock, in place of the function that reads it. transformers gives a template
no function of ours, so the dates are a table, by the forms that the template's strings have."""


class ChatTemplate:
    """The chat template of a tokenizer, under fixed settings: the same turns give the same text."""

    def __init__(self, tokenizer: Any, settings: ChatSettings) -> None:
        """Raises RefusedError for a tokenizer without a template or one that takes no user's turn, ModelError for a
        template that cannot be read."""
        self._tokenizer = tokenizer
        self._model = f"model {tokenizer.name_or_path}"
        if not tokenizer.chat_template:
            raise RefusedError(
                f"{self._model} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); "
                'set model.prompt_format = "plain", or put the template of the model it was made from there'
            )
        self._arguments: dict[str, Any] = {} if settings.thinking is None else {"enable_thinking": settings.thinking}
        self.source, self._names, strings = self._read()
        if self.reads_clock and settings.date is not None:
            day = date.fromisoformat(settings.date)
            self._arguments["chat_template"] = FIXED_CLOCK + self.source
            self._arguments["fixed_dates"] = {s: day.strftime(s) for s in strings if re.search(r"%-?[A-Za-z]", s)}
        texts = "\n".join(strings)
        self.think_tags: tuple[str, str] | None = (OPENS, CLOSES) if OPENS in texts or CLOSES in texts else None
        """The tags of a thought, if the template writes or looks for one of them."""
        self._specials = _special_strings(tokenizer, texts)
        self._in_prompts = _any_of(self._specials)
        self._in_completions = _any_of(self._specials.keys() - set(self.think_tags or ()))
        self.end_of_turn: int | None = self._find_end_of_turn()
        """The token that the template writes after an assistant's text; None if it writes no token of its own there."""
        self.opens_thought: bool = self.text((Turn("user", QUESTION),)).rstrip().endswith(OPENS)
        """Whether the prompt ends inside a thought, so that the completion begins in it."""

    def text(self, turns: Sequence[Turn]) -> str:
        """The prompt for the assistant's next turn. Raises RefusedError for turns that the template does not take."""
        return "".join(self.pieces(turns))

    def pieces(self, turns: Sequence[Turn]) -> list[str]:
        """The prompt's text, cut inside every special string of a content: encoded one by one, the pieces hold no token
        but those that the template itself writes.

        Special strings are the tokenizer's special tokens, and the added tokens that the template writes (`<tool_call>`
        and the like). One piece for contents without such strings.
        """
        contents = "".join(turn.content for turn in turns)
        if not self._in_prompts.search(contents):
            return [self._render(turns, answer_next=True)]
        used = {*contents, *self.source}
        mark = next(c for c in map(chr, PRIVATE) if c not in used)
        marked = [Turn(turn.role, mark.join(self._cut(turn.content, self._in_prompts))) for turn in turns]
        return self._render(marked, answer_next=True).split(mark)

    def completion_pieces(self, text: str) -> list[str]:
        """A completion's text, cut inside its special strings as by `pieces`, but for the tags of a thought: a
        completion that has them is graded by them, so they are the model's own tokens."""
        return list(self._cut(text, self._in_completions))

    @property
    def reads_clock(self) -> bool:
        return "strftime_now" in self._names

    @property
    def has_thinking_switch(self) -> bool:
        return "enable_thinking" in self._names

    @cached_property
    def has_system(self) -> bool:
        """Whether the text of a system turn appears in the prompt, be it in the user's turn."""
        return INSTRUCTION in (self._text_if_taken(Turn("system", INSTRUCTION), Turn("user", QUESTION)) or "")

    @cached_property
    def default_system(self) -> bool:
        """Whether the template writes a text of its own before the first user's turn if no system turn is given."""
        text = self._text_if_taken(Turn("user", QUESTION), Turn("assistant", ANSWER), Turn("user", NEXT))
        if text is None or not {QUESTION, ANSWER, NEXT} <= set(text):
            return False
        # Every special token as one character, so that none is compared in part.
        first, between = (self._in_prompts.sub(NEXT, part) for part in (text.split(QUESTION)[0], _between(text)))
        while first and between.endswith(first[-1]):  # what is written before every user's turn
            first, between = first[:-1], between[:-1]
        return bool(first.replace(NEXT, "").strip())

    def _read(self) -> tuple[str, frozenset[str], list[str]]:
        """The template's source, the names in its code, and the strings that it writes or compares with."""
        try:
            source = str(self._tokenizer.get_chat_template())
            tokens = list(Environment().lexer.tokenize(source))
        except TemplateSyntaxError as error:
            raise self._unreadable(error) from error
        except ValueError as error:  # several templates, none of them the default
            raise ModelError(
                f"{self._model}: none of its chat templates is the default ({one_line(error)}); name one of them "
                "default, in tokenizer_config.json or as chat_template.jinja"
            ) from error
        names = frozenset(token.value for token in tokens if token.type == "name")
        return source, names, [token.value for token in tokens if token.type in ("data", "string")]

    def _render(self, turns: Sequence[Turn], *, answer_next: bool) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answer_next, **self._arguments
            )
        except TemplateSyntaxError as error:
            raise self._unreadable(error) from error
        except Exception as error:
            # The template's own code failed or refused: mostly a TemplateError, else whatever Python raises in it.
            kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
            roles = ", ".join(turn.role for turn in turns) or "no turn"
            raise RefusedError(
                f"{self._model}: its chat template does not take these turns ({roles}): {kind}{one_line(error)}; give "
                "turns that it takes (the text of a system turn can stand in the user's), or set model.prompt_format = "
                '"plain"'
            ) from error
        return str(text)

    def _unreadable(self, error: TemplateSyntaxError) -> ModelError:
        line = error.lineno - self._arguments.get("chat_template", "").count(FIXED_CLOCK)
        return ModelError(
            f"{self._model}: its chat template is no Jinja template (line {line}: {one_line(error.message)}); "
            'restore the model\'s chat_template.jinja or tokenizer_config.json, or set model.prompt_format = "plain"'
        )

    def _text_if_taken(self, *turns: Turn) -> str | None:
        try:
            return self._render(turns, answer_next=True)
        except RefusedError:
            return None

    def _find_end_of_turn(self) -> int | None:
        text = self._render((Turn("user", QUESTION), Turn("assistant", ANSWER)), answer_next=False)
        match = self._in_prompts.match(text.rpartition(ANSWER)[2].lstrip()) if ANSWER in text else None
        token = self._specials[match[0]] if match else None
        is_begin = token == self._tokenizer.bos_token_id != self._tokenizer.eos_token_id
        return None if is_begin else token

    def _cut(self, text: str, specials: re.Pattern[str]) -> Iterator[str]:
        """The text in pieces, none of which holds a special string."""
        start = 0
        place = 0
        while match := specials.search(text, place):
            if len(match[0]) == 1:
                raise RefusedError(
                    f"a prompt or completion holds {match[0]!r}, one character that is a special token of {self._model}"
                    "; take it out of the text"
                )
            place = match.start() + 1
            yield text[start:place]
            start = place
        yield text[start:]


def _between(text: str) -> str:
    """What stands between the assistant's text and the user's next one."""
    return text.split(ANSWER)[-1].split(NEXT)[0]


def _special_strings(tokenizer: Any, texts: str) -> dict[str, int]:
    """Id of every string that a tokenizer reads as one token with a meaning for the model, whatever is around it.

    An added token that is neither special nor written by the template is an abbreviation (of white space, of markup) by
    which the model reads ordinary text.
    """
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    added = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    written = {text: i for text, i in tokenizer.get_added_vocab().items() if text in texts}
    return {text: i for text, i in {**written, **added, **special}.items() if text.strip()}


def _any_of(strings: Iterable[str]) -> re.Pattern[str]:
    """Matches the longest of the strings that stands at a place; nothing at all if there are none."""
    return re.compile("|".join(map(re.escape, sorted(strings, key=lambda s: (-len(s), s)))) or r"(?!)")
