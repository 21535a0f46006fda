"""The local engine on real, tiny models: the tokens of transformers' generate, stops in place, early refusals."""

import gc
import json
import shutil
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from builders import task_named
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.engines.local.token_sampling import sample_tokens
from selftaught.models.tokens import Codec
from selftaught.prompts.rendering import render_prompt
from selftaught.records.errors import EngineError, ModelError, RefusedError
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
)


def open_engine(folder: Path, *, slots: int = 16) -> LocalEngine:
    return LocalEngine(ModelRef(path=str(folder)), LocalSettings(dtype="float32", device="cpu", threads=1, slots=slots))


def prompts(number: int, *, num_shots: int = 0) -> list[str]:
    task = task_named("arithmetic")
    problems = task.dev[:: len(task.dev) // number][:number]
    few_shot = task.few_shot[:num_shots]
    return [render_prompt(task.prompt_format, p, hint=False, few_shot=few_shot) for p in problems]


def sample(engine: LocalEngine, texts: list[str], **params: object) -> list[Completion]:
    requests = [Request(prompt=text, seed=i) for i, text in enumerate(texts)]
    values = {"temperature": 0.0, "max_new_tokens": 40, **params}
    completions = list(engine.sample(requests, SamplingParams(**values)))  # type: ignore[arg-type]
    assert sorted(c.request for c in completions) == list(range(len(texts)))
    return sorted(completions, key=lambda c: c.request)


def plain_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def generate(folder: Path, text: str, max_new_tokens: int) -> list[int]:
    """Greedy tokens of transformers' own generate, without the end token."""
    model = plain_model(folder)
    codec = Codec(str(folder))
    ids = torch.tensor([codec.encode_prompt(text)])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=0
    )
    new = out[0, ids.shape[1] :].tolist()
    return new[: new.index(codec.end_id)] if codec.end_id in new else new


@pytest.mark.parametrize("slots", [1, 3, 16])
@pytest.mark.parametrize("num_shots", [0, 3])
@pytest.mark.parametrize("which", ["adder", "tiny"])
def test_greedy_tokens_equal_those_of_generate(
    which: str, slots: int, num_shots: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(which)
    texts = prompts(6, num_shots=num_shots if which == "adder" else 0)
    completions = sample(open_engine(folder, slots=slots), texts)
    assert [list(c.token_ids or ()) for c in completions] == [generate(folder, text, 40) for text in texts]


def test_a_sampled_completion_does_not_depend_on_the_slots_or_the_rows_beside_it(adder: Path) -> None:
    texts = prompts(9)
    alone = [sample(open_engine(adder, slots=1), [text], temperature=1.0)[0] for text in texts[:1]]
    together = sample(open_engine(adder, slots=4), texts, temperature=1.0)
    assert alone[0].token_ids == together[0].token_ids


def test_the_same_call_gives_the_same_completions(tiny: Path) -> None:
    texts = prompts(12)
    engine = open_engine(tiny, slots=4)
    first = list(
        engine.sample([Request(prompt=t, seed=7) for t in texts], SamplingParams(temperature=0.9, max_new_tokens=20))
    )
    again = list(
        engine.sample([Request(prompt=t, seed=7) for t in texts], SamplingParams(temperature=0.9, max_new_tokens=20))
    )
    assert first == again


def test_samples_follow_the_distribution_of_the_model(tiny: Path) -> None:
    text = prompts(1)[0]
    engine = open_engine(tiny, slots=64)
    requests = [Request(prompt=text, seed=seed) for seed in range(2_000)]
    completions = engine.sample(requests, SamplingParams(temperature=1.0, max_new_tokens=1))
    end = engine._codec.end_id
    counts = Counter((c.token_ids or (end,))[0] for c in completions)
    ids = torch.tensor([engine._codec.encode_prompt(text)])
    with torch.no_grad():
        probs = plain_model(tiny)(ids).logits[0, -1].softmax(-1).tolist()
    common = [i for i, p in enumerate(probs) if p * 2_000 >= 5]
    chi2 = sum((counts[i] - 2_000 * probs[i]) ** 2 / (2_000 * probs[i]) for i in common)
    # 99.99 % quantile of chi-square with up to 20 degrees of freedom.
    assert chi2 < 52.4


def test_top_k_and_top_p_rule_out_what_they_should() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(1_000, 1)
    numbers = torch.arange(1_000, dtype=torch.float64) / 1_000
    assert set(sample_tokens(logits, SamplingParams(temperature=1.0, top_k=2), numbers)[0].tolist()) == {0, 1}
    # Probabilities are 0.64, 0.24, 0.09, 0.03: the nucleus of 0.7 is the first two.
    assert set(sample_tokens(logits, SamplingParams(temperature=1.0, top_p=0.7), numbers)[0].tolist()) == {0, 1}
    assert set(sample_tokens(logits, SamplingParams(temperature=1.0), numbers)[0].tolist()) == {0, 1, 2, 3}
    assert set(sample_tokens(logits, SamplingParams(temperature=1e-3), numbers)[0].tolist()) == {0}


def test_log_probabilities_are_those_of_a_plain_forward_pass(adder: Path) -> None:
    engine = open_engine(adder)
    texts = prompts(3)
    completions = sample(engine, texts)
    scores = engine.score([Request(prompt=t, seed=0) for t in texts], [c.text for c in completions])
    for completion, score, text in zip(completions, scores, texts, strict=True):
        prompt = engine._codec.encode_prompt(text)
        ids = torch.tensor([[*prompt, *score.token_ids]])
        with torch.no_grad():
            logprobs = plain_model(adder)(ids).logits[0].log_softmax(-1)
        expected = [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(score.token_ids)]
        assert score.logprobs == pytest.approx(expected, abs=1e-4)
        assert score.token_ids == completion.token_ids


def test_a_stop_string_ends_a_completion_and_is_not_part_of_it(adder: Path) -> None:
    (completion,) = sample(open_engine(adder), prompts(1), stop=("</scratch>",))
    assert completion.finish_reason == "stop"
    assert completion.text.endswith("\n")
    assert "</scratch>" not in completion.text


def test_a_stop_string_may_span_tokens(adder: Path) -> None:
    codec = Codec(str(adder))
    (completion,) = sample(open_engine(adder), prompts(1), stop=("\n</scratch>",), max_new_tokens=120)
    assert completion.finish_reason == "stop"
    assert completion.text.startswith("<scratch>\n")
    assert "</scratch>" not in completion.text
    assert codec.decode(completion.token_ids or ()) == completion.text


def test_a_cut_text_without_ids_of_its_own_has_only_text(adder: Path) -> None:
    # The shipped tokenizer has no token for the space before the stop string.
    (completion,) = sample(open_engine(adder), prompts(1), stop=("C: 0\n",))
    assert completion.text.endswith(", ")
    assert completion.token_ids is None


def test_a_completion_may_be_empty(adder: Path) -> None:
    (completion,) = sample(open_engine(adder), prompts(1), stop=("<scratch>\n",))
    assert (completion.text, completion.token_ids, completion.finish_reason) == ("", (), "stop")


def test_a_completion_that_reaches_the_limit_is_truncated(adder: Path) -> None:
    (completion,) = sample(open_engine(adder), prompts(1), max_new_tokens=5)
    assert completion.finish_reason == "length"
    assert completion.num_tokens == 5


def test_the_end_token_ends_a_completion_and_is_not_part_of_it(adder: Path) -> None:
    (completion,) = sample(open_engine(adder), prompts(1), max_new_tokens=120)
    assert completion.finish_reason == "end"
    assert completion.num_tokens == len(completion.token_ids or ()) + 1


def test_a_prompt_longer_than_the_context_is_refused_before_anything_is_generated(tiny: Path) -> None:
    with pytest.raises(RefusedError, match="exceed the model's context of 256"):
        sample(open_engine(tiny), prompts(1, num_shots=10))


def test_an_empty_prompt_is_refused(tiny: Path) -> None:
    with pytest.raises(RefusedError, match="no tokens"):
        sample(open_engine(tiny), [""])


def test_no_requests_are_no_completions(tiny: Path) -> None:
    assert sample(open_engine(tiny), []) == []


def test_weights_that_are_not_finite_are_an_error(tmp_path: Path, tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    shutil.copytree(tiny, tmp_path / "broken")
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises((EngineError, ModelError), match=r"not finite|other logits"):
        sample(open_engine(tmp_path / "broken"), prompts(1))
    with pytest.raises((EngineError, ModelError), match=r"not finite|other logits"):
        sample(open_engine(tmp_path / "broken"), prompts(1), temperature=1.0)


def test_damaged_weights_are_a_model_error(tmp_path: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_engine(tmp_path / "broken")


def test_a_model_whose_sliding_window_is_too_short_is_run_by_generate(tmp_path: Path, adder: Path) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=32, max_position_embeddings=128, initializer_range=0.5,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(adder / name, tmp_path / name)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    lines: list[str] = []
    engine = LocalEngine(
        ModelRef(path=str(tmp_path)),
        LocalSettings(dtype="float32", device="cpu", threads=1, slots=4),
        note=lines.append,
    )
    texts = prompts(3)
    short = sample(engine, texts, max_new_tokens=2)
    assert lines == []
    long = sample(engine, texts, max_new_tokens=60)
    assert sample(engine, texts, max_new_tokens=60) == long
    assert sample(engine, texts, max_new_tokens=2) == short  # nothing carries over to the next call
    assert ["sliding window of 32 tokens is shorter" in line for line in lines] == [True]
    for completions, new in ((short, 2), (long, 60)):
        assert [list(c.token_ids or ()) for c in completions] == [generate(tmp_path, text, new) for text in texts]


def test_a_model_with_learned_positions_generates_like_generate(tmp_path: Path, adder: Path) -> None:
    torch.manual_seed(1)
    tokens = json.loads((adder / "config.json").read_text())
    config = GPT2Config(
        vocab_size=tokens["vocab_size"], n_embd=16, n_layer=2, n_head=2, n_positions=128, initializer_range=0.5,
        eos_token_id=tokens["eos_token_id"], bos_token_id=None, pad_token_id=tokens["pad_token_id"],
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(adder / name, tmp_path / name)
    texts = prompts(3)
    completions = sample(open_engine(tmp_path, slots=2), texts, max_new_tokens=20)
    assert [list(c.token_ids or ()) for c in completions] == [generate(tmp_path, text, 20) for text in texts]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_model_of_a_closed_engine_is_freed_at_once(dtype: str, adder: Path) -> None:
    """The next engine or training needs the memory, and cannot wait until Python collects cycles."""
    engine = LocalEngine(ModelRef(path=str(adder)), LocalSettings(dtype=dtype, device="cpu", threads=1, slots=4))
    list(engine.sample([Request(prompt="1", seed=0)], SamplingParams(temperature=0.0, max_new_tokens=2)))
    model = weakref.ref(engine._model)
    gc.disable()
    try:
        engine.close()
        assert model() is None
    finally:
        gc.enable()
