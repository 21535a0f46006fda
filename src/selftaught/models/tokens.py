"""Text <-> token ids, one way for generation, training and scoring, so that all three see the same ids."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from selftaught.models.adapters import folder_of_file, is_adapter, tokenizer_folder
from selftaught.models.configuration import config_of
from selftaught.models.folder import no_tokenizer
from selftaught.models.templates import ChatTemplate
from selftaught.records.errors import ModelError, RefusedError, one_line
from selftaught.records.prompts import ChatSettings, Prompt, RenderedPrompt
from selftaught.records.training import TrainingExample

IGNORED = -100
"""Label of a token without loss (PyTorch's convention)."""


class Codec:
    """A model folder's tokenizer, with the rules that keep prompts and completions consistent."""

    def __init__(self, model_dir: str, *, chat: ChatSettings | None = None, trust_remote_code: bool = False) -> None:
        """With `chat`, prompts may be turns, which the model's own template renders; without it, they are texts.

        Raises ModelError for a tokenizer or template that is broken or does not belong to the model; RefusedError for a
        model that names no end token, or that has no template although `chat` is given.
        """
        from transformers import AutoTokenizer, PreTrainedTokenizerBase

        self._model_dir = model_dir
        folder = Path(model_dir)
        self._rows = _rows_of(model_dir, trust_remote_code=trust_remote_code)
        try:
            loaded = AutoTokenizer.from_pretrained(
                tokenizer_folder(folder),
                trust_remote_code=trust_remote_code,
                # The class of a tokenizer depends on it, and a folder with adapters has none.
                **({"config": config_of(model_dir, trust_remote_code=trust_remote_code)} if is_adapter(folder) else {}),
            )
        except Exception as error:
            # The libraries raise many kinds (tokenizers plain Exceptions), and all mean the same to the user.
            raise ModelError(f"model {model_dir}: its tokenizer {no_tokenizer(folder, error)}") from error
        self.tokenizer = cast(PreTrainedTokenizerBase, loaded)
        self.template = None if chat is None else ChatTemplate(self.tokenizer, chat)
        """The model's chat template; None for a codec of texts."""
        ends = self._find_ends()
        self.end_id: int = next(iter(ends))
        """The end token that training teaches where none was sampled, once per example: the one that the chat template
        writes after an assistant's text, else the tokenizer's, else the first of generation_config.json."""
        self.end_ids: frozenset[int] = frozenset(ends)
        """The end tokens at which a completion stops: all that the template, the tokenizer and generation_config.json
        name. They need not agree: the tokenizer of a base model may name one that the model never writes (its padding,
        or the end of a turn), which then stops nothing, but is learned all the same if training teaches it."""
        self._refuse_ids_without_a_row(ends)
        self._texts: tuple[str, ...] = ()  # of every id; filled when the first stop string needs them

    def render(self, prompt: Prompt) -> RenderedPrompt:
        """Text and ids of a prompt, as by `encode_prompt`."""
        text, ids = self._text_and_ids(prompt)
        return RenderedPrompt(text=text, ids=tuple(ids))

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, with the begin token once if the model wants one, and never an end token after it.

        Turns have the ids that `tokenizer.apply_chat_template` gives them, but for special strings in their contents:
        these stay text. In a prompt that is a text, special strings are special tokens. Raises RefusedError for turns
        that the template does not take, for two begin tokens, and for a prompt without tokens.
        """
        return self._text_and_ids(prompt)[1]

    def encode_completion(self, prompt: Prompt, completion: str) -> list[int]:
        """Ids of a completion as it continues this prompt, without an end token.

        After turns it is encoded by itself, since the template ends where the assistant begins, and special strings in
        it stay text (but for the tags of a thought, which a model writes as tokens).
        """
        if not isinstance(prompt, str):
            return self._encode_inside(self._template_for(prompt).completion_pieces(completion))
        head = self.encode_prompt(prompt)
        both = self.encode_prompt(prompt + completion)
        if both[: len(head)] == head:
            return both[len(head) :]
        # A token spans the end of the prompt. The prompt's ids must stay, so the completion is encoded by itself.
        return self._encode(completion, add_special_tokens=False)

    def decode(self, ids: Sequence[int], *, after: Sequence[int] = ()) -> str:
        """Text of ids as they continue the ids `after` (some tokenizers drop a leading space otherwise)."""
        context = list(after[-1:])
        head = self._decode(context) if context else ""
        both = self._decode([*context, *ids])
        return both[len(head) :] if both.startswith(head) else self._decode(list(ids))

    def cut(self, ids: Sequence[int], stop: Sequence[str], *, after: Sequence[int]) -> tuple[str, list[int], bool]:
        """Cut a completion before the first stop string: its text, ids for that text, whether there was one.

        Tokens that end before the stop string are kept; what is left of a token that the cut splits is encoded again.
        """
        text, was_cut = cut_at_stop(self.decode(ids, after=after), stop)
        if not was_cut:
            return text, list(ids), False
        num_kept = len(ids)
        while num_kept and not text.startswith(self.decode(ids[:num_kept], after=after)):
            num_kept -= 1
        kept = list(ids[:num_kept])
        rest = text[len(self.decode(kept, after=after)) :]
        if rest:
            kept += self._encode(rest, add_special_tokens=False)
        return text, kept, True

    def encode_example(self, example: TrainingExample) -> tuple[list[int], list[int]]:
        """(input ids, labels) of a training example: completion and one end token with loss, what is before it without.

        A token that spans the end of what is given belongs to the completion. Raises RefusedError for a completion that
        is empty or holds an end token, and for an end at which sampling does not stop.
        """
        head, completion = self.encode_prompt(example.prompt), example.completion_ids
        if completion is None:
            both = self.encode_completion(example.prompt, example.given + example.completion)
            num_given = self._num_inside(example, both, after=head)
            head, completion = [*head, *both[:num_given]], tuple(both[num_given:])
        elif example.given:
            raise ValueError(
                f"the example of problem {example.problem_id!r} was sampled, so that nothing of it is given"
            )
        if not completion or self.end_ids & set(completion):
            raise RefusedError(
                f"the training example of problem {example.problem_id!r} "
                + ("has an empty completion" if not completion else "holds an end token inside its completion")
                + "; leave the sample out"
            )
        end = self.end_id if example.end_id is None else example.end_id
        if end not in self.end_ids:
            raise RefusedError(
                f"the training example of problem {example.problem_id!r} ends with the token {end}, but sampling stops "
                f"at {sorted(self.end_ids)}; leave the sample out"
            )
        learned = [*completion, end]
        return [*head, *learned], [IGNORED] * len(head) + learned

    def _num_inside(self, example: TrainingExample, ids: Sequence[int], *, after: Sequence[int]) -> int:
        """How many of the first ids of given text and completion lie in the given text alone."""
        if not example.given:
            return 0
        # As the tokenizer spells it: it may have composed characters, or left some out.
        given = self.decode(self.encode_completion(example.prompt, example.given), after=after)
        return next(n for n in range(len(ids), -1, -1) if given.startswith(self.decode(ids[:n], after=after)))

    def ids_holding(self, characters: str) -> frozenset[int]:
        """Ids whose text holds one of the characters, or bytes that may be part of one: a stop string can end there."""
        if characters and not self._texts:
            self._texts = tuple(self._decode([i]) for i in range(len(cast(Any, self.tokenizer))))
        return (
            frozenset(i for i, text in enumerate(self._texts) if "\ufffd" in text or any(c in text for c in characters))
            if characters
            else frozenset()
        )

    def _text_and_ids(self, prompt: Prompt) -> tuple[str, list[int]]:
        if isinstance(prompt, str):
            text, ids, tokenizer = prompt, self._encode(prompt), self.tokenizer
            if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
                ids = ids[:-1]
            who_adds = "the prompt's text holds one and the tokenizer adds one; remove it from the text"
        else:
            pieces = self._template_for(prompt).pieces(prompt)
            text = "".join(pieces)
            ids = self._encode(pieces[0], add_special_tokens=False) + self._encode_inside(pieces[1:])
            who_adds = f"the chat template of model {self._model_dir} writes both; remove one of them from the template"
        begin = self.tokenizer.bos_token_id
        if begin is not None and begin not in self.end_ids and ids[:2] == [begin, begin]:
            raise RefusedError(f"a prompt starts with two begin tokens ({self.tokenizer.bos_token!r}): {who_adds}")
        if not ids:
            raise RefusedError("a prompt has no tokens; every prompt needs at least one (is the question empty?)")
        return text, ids

    def _template_for(self, turns: Prompt) -> ChatTemplate:
        if self.template is None:
            raise RefusedError(
                f"a prompt has {len(turns)} turns, but model {self._model_dir} was opened for prompts that are texts; "
                'set model.prompt_format = "chat", or render the turns as text'
            )
        return self.template

    def _find_ends(self) -> dict[int, str]:
        """Every end token, each with who names it, the one to be taught first. Raises RefusedError if there is none."""
        from transformers import GenerationConfig

        ends: dict[int, str] = {}
        if self.template is not None and self.template.end_of_turn is not None:
            ends[self.template.end_of_turn] = "the chat template"
        if isinstance(self.tokenizer.eos_token_id, int):
            ends.setdefault(self.tokenizer.eos_token_id, "tokenizer_config.json")
        generation = folder_of_file(Path(self._model_dir), "generation_config.json")
        if (generation / "generation_config.json").is_file():
            try:
                eos = GenerationConfig.from_pretrained(generation).eos_token_id
            except (OSError, ValueError) as error:
                raise ModelError(
                    f"model {self._model_dir}: generation_config.json: {one_line(error)}; correct the file or take it "
                    "away"
                ) from error
            for end in [eos] if isinstance(eos, int) else eos or []:
                ends.setdefault(end, "generation_config.json")
        if not ends:
            raise RefusedError(
                f"model {self._model_dir} names no end token, neither its tokenizer (eos_token) nor "
                "generation_config.json (eos_token_id); it could never learn to stop"
            )
        return ends

    def _refuse_ids_without_a_row(self, ends: Mapping[int, str]) -> None:
        """Special tokens may lie beyond the embedding, since some models use none; `_encode` refuses them in texts."""
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        beyond = {i: token for token, i in self.tokenizer.get_vocab().items() if i >= self._rows and i not in special}
        if beyond:
            first = min(beyond)
            raise ModelError(
                f"model {self._model_dir}: its tokenizer gives {beyond[first]!r} the id {first}"
                + (f" and {len(beyond) - 1} more tokens such ids" if len(beyond) > 1 else "")
                + f", but {self._its_rows()}"
            )
        for end, who in ends.items():
            if not 0 <= end < self._rows:
                raise ModelError(f"model {self._model_dir}: {who} names the end token {end}, but {self._its_rows()}")
        self._encode("")  # checks the tokens that the tokenizer puts around every text

    def _its_rows(self) -> str:
        return (
            f"the model has rows for {self._rows} tokens (vocab_size); take the tokenizer that belongs to these "
            "weights, or resize the embedding (model.resize_token_embeddings) and save the model again"
        )

    def _encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids = cast("list[int]", self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
        if ids and max(ids) >= self._rows:
            token = max(ids)
            where = f"the text that ends {text[-60:]!r}" if text else "what the tokenizer puts around every text"
            raise ModelError(
                f"model {self._model_dir}: {where} holds the token {self.tokenizer.convert_ids_to_tokens(token)!r} of "
                f"id {token}, but {self._its_rows()}"
            )
        return ids

    def _encode_inside(self, pieces: Iterable[str]) -> list[int]:
        """Ids of pieces of text, each encoded by itself as it stands behind other text."""
        return [i for piece in pieces for i in self._encode_behind_text(piece)]

    def _encode_behind_text(self, text: str) -> list[int]:
        alone = self._encode(text, add_special_tokens=False)
        if not self._marks_beginnings:
            return alone
        for before in ("\n", ".", "0", "a", ")"):
            head, both = (self._encode(t, add_special_tokens=False) for t in (before, before + text))
            if both[: len(head)] == head:
                return both[len(head) :]
        return alone

    @cached_property
    def _marks_beginnings(self) -> bool:
        """Whether the tokenizer puts something, mostly a space, before every text that it encodes."""
        once = self._encode("a", add_special_tokens=False)
        return self._decode([*once, *once]) != self._decode(self._encode("aa", add_special_tokens=False))

    def _decode(self, ids: list[int]) -> str:
        return cast(str, self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there is one."""
    places = [place for s in stop if (place := text.find(s)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _rows_of(model_dir: str, *, trust_remote_code: bool) -> int:
    """Number of tokens that a model's embedding has rows for, by its config; no limit for a tokenizer without a model.

    Loading refuses weights that do not agree with the config.
    """
    if not (Path(model_dir) / "config.json").is_file() and not is_adapter(Path(model_dir)):
        return sys.maxsize
    config = config_of(model_dir, trust_remote_code=trust_remote_code)
    return int(getattr(config.get_text_config(), "vocab_size", sys.maxsize))
