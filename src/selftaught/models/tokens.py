"""Text <-> token ids, one way for generation, training and scoring, so that all three see the same ids."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from selftaught.models.configuration import config_of
from selftaught.models.folder import no_tokenizer
from selftaught.records.errors import ModelError, RefusedError, one_line
from selftaught.records.training import TrainingExample

IGNORED = -100
"""Label of a token without loss (PyTorch's convention)."""


class Codec:
    """A model folder's tokenizer, with the rules that keep prompts and completions consistent."""

    def __init__(self, model_dir: str, *, trust_remote_code: bool = False) -> None:
        from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

        self._model_dir = model_dir
        self._rows = _rows_of(model_dir, trust_remote_code=trust_remote_code)
        try:
            loaded = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
        except Exception as error:
            # The libraries raise many kinds (tokenizers plain Exceptions), and all mean the same to the user.
            raise ModelError(f"model {model_dir}: its tokenizer {no_tokenizer(Path(model_dir), error)}") from error
        self.tokenizer = cast(PreTrainedTokenizerBase, loaded)
        end_id = self.tokenizer.eos_token_id
        if not isinstance(end_id, int):
            raise RefusedError(
                f"model {model_dir}: the tokenizer names no end token (eos_token); it could never learn to stop"
            )
        self.end_id: int = end_id
        """The end token that training teaches, once per example."""
        self.end_ids: frozenset[int] = frozenset({end_id})
        """The end tokens at which a completion stops."""
        if (Path(model_dir) / "generation_config.json").is_file():
            try:
                eos = GenerationConfig.from_pretrained(model_dir).eos_token_id
            except (OSError, ValueError) as error:
                raise ModelError(
                    f"model {model_dir}: generation_config.json: {one_line(error)}; correct the file or take it away"
                ) from error
            self.end_ids = frozenset([eos] if isinstance(eos, int) else eos or [end_id])
        self._refuse_ids_without_a_row()
        self._texts: tuple[str, ...] = ()  # of every id; filled when the first stop string needs them
        if end_id not in self.end_ids:
            raise RefusedError(
                f"model {model_dir}: training would teach the end token {end_id} ({self.tokenizer.eos_token!r}), but "
                f"generation_config.json stops at {sorted(self.end_ids)}; make the two agree"
            )

    def encode_prompt(self, prompt: str) -> list[int]:
        """Ids of a prompt, with the begin token once if the model wants one, and never an end token."""
        ids = self._encode(prompt)
        if ids and ids[-1] == self.end_id and not prompt.endswith(str(self.tokenizer.eos_token)):
            ids = ids[:-1]
        begin = self.tokenizer.bos_token_id
        if begin is not None and begin not in self.end_ids and ids[:2] == [begin, begin]:
            raise RefusedError(
                f"a prompt starts with two begin tokens ({self.tokenizer.bos_token!r}): the prompt's text holds one "
                "and the tokenizer adds one; remove it from the text"
            )
        if not ids:
            raise RefusedError("a prompt has no tokens; every prompt needs at least one (is the question empty?)")
        return ids

    def encode_completion(self, prompt: str, completion: str) -> list[int]:
        """Ids of a completion as it continues this prompt, without an end token."""
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
        """(input ids, labels) of a training example: prompt without loss, completion and one end token with it."""
        prompt = self.encode_prompt(example.prompt)
        completion = example.completion_ids
        if completion is None:
            completion = tuple(self.encode_completion(example.prompt, example.completion))
        if not completion or self.end_ids & set(completion):
            raise RefusedError(
                f"the training example of problem {example.problem_id!r} "
                + ("has an empty completion" if not completion else "holds an end token inside its completion")
                + "; leave the sample out"
            )
        learned = [*completion, self.end_id]
        return [*prompt, *learned], [IGNORED] * len(prompt) + learned

    def ids_holding(self, characters: str) -> frozenset[int]:
        """Ids whose text holds one of the characters, or bytes that may be part of one: a stop string can end there."""
        if characters and not self._texts:
            self._texts = tuple(self._decode([i]) for i in range(len(cast(Any, self.tokenizer))))
        return (
            frozenset(i for i, text in enumerate(self._texts) if "\ufffd" in text or any(c in text for c in characters))
            if characters
            else frozenset()
        )

    def _refuse_ids_without_a_row(self) -> None:
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
        for what, ids in (("tokenizer_config.json", {self.end_id}), ("generation_config.json", self.end_ids)):
            if without_row := [i for i in ids if not 0 <= i < self._rows]:
                raise ModelError(
                    f"model {self._model_dir}: {what} names the end token {min(without_row)}, but {self._its_rows()}"
                )
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
    if not (Path(model_dir) / "config.json").is_file():
        return sys.maxsize
    config = config_of(model_dir, trust_remote_code=trust_remote_code)
    return int(getattr(config.get_text_config(), "vocab_size", sys.maxsize))
