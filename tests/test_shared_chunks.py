"""Chunks that runs have in common: never those of other weights, prompts, seeds or settings."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftaught.engines.scripted import ScriptedEngine
from selftaught.records.errors import EngineError, StoreError
from selftaught.records.prompts import RenderedPrompt
from selftaught.records.samples import Completion, ModelRef, PlannedSample, Request, SamplingParams
from selftaught.runs.shared_chunks import Saving, SharedChunks, saving_of
from selftaught.stages.sampling import Sampling, SamplingSpec, generate_chunk
from toy import FEW_SHOT, TRAIN, reply, toy_task

BASE = ModelRef(path="base", sha256="aa" * 32)
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=64)


def requests(*prompts: str, seed: int = 1) -> list[Request]:
    return [Request(prompt=prompt, seed=seed + i) for i, prompt in enumerate(prompts)]


def rendered(prompt: Any) -> RenderedPrompt:
    return RenderedPrompt(text=str(prompt), ids=tuple(map(ord, str(prompt))))


class Counted:
    """An engine that counts what it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def generate(self, asked: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        self.calls += 1
        return ScriptedEngine(lambda prompt, seed: f" {prompt} {seed if params.temperature else ''}").sample(
            asked, params
        )


def sampled(
    folder: Path,
    engine: Counted,
    *,
    user: str = "run",
    model: ModelRef = BASE,
    asked: Sequence[Request] = tuple(requests("a", "b")),
    params: SamplingParams = GREEDY,
    **conditions: Any,
) -> list[Completion]:
    chunks = SharedChunks(folder, user=user, conditions=conditions)
    return list(chunks.sample(model, asked, params, rendered, lambda: engine.generate(asked, params)))


def test_a_chunk_is_generated_once_for_all_runs(tmp_path: Path) -> None:
    engine = Counted()
    first = sampled(tmp_path, engine, user="one")
    assert sampled(tmp_path, engine, user="two", asked=requests("a", "b", seed=9)) == first  # greedy reads no seed
    assert engine.calls == 1
    tokens = sum(c.num_tokens for c in first)
    assert saving_of(tmp_path, ["one", "two"]) == Saving(used=2 * tokens, saved=tokens)
    assert saving_of(tmp_path, ["one"]) == Saving(used=tokens, saved=0)
    assert saving_of(tmp_path, ["nobody"]) == Saving(used=0, saved=0)


def test_what_a_killed_run_generates_and_takes_again_saves_nothing(tmp_path: Path) -> None:
    engine = Counted()
    for _ in range(3):
        sampled(tmp_path, engine)
    assert engine.calls == 1
    assert saving_of(tmp_path, ["run"]).saved == 0


def test_what_a_worker_uses_is_noted_by_its_run_alone_and_once(tmp_path: Path) -> None:
    asked, engine = requests("a", "b"), Counted()
    worker = SharedChunks(tmp_path, user=None, conditions={})
    made = list(worker.sample(BASE, asked, GREEDY, rendered, lambda: engine.generate(asked, GREEDY)))
    assert not list((tmp_path / "uses").iterdir())
    run = SharedChunks(tmp_path, user="run", conditions={})
    assert worker.last_use is not None
    for _ in range(2):
        run.note(worker.last_use)
    assert saving_of(tmp_path, ["run"]).used == sum(completion.num_tokens for completion in made)
    trained = ModelRef(path="trained", sha256="aa" * 32, iteration=1, checkpoint=1)
    list(worker.sample(trained, asked, GREEDY, rendered, lambda: engine.generate(asked, GREEDY)))
    assert worker.last_use is None


FIELDS = {
    "weights": st.sampled_from(["aa", "bb"]),
    "prompts": st.lists(st.sampled_from(["a", "b", "ab", ""]), min_size=1, max_size=3).map(tuple),
    "seed": st.integers(0, 2),
    "temperature": st.sampled_from([0.0, 0.7]),
    "max_new_tokens": st.sampled_from([32, 64]),
    "top_k": st.sampled_from([None, 40]),
    "stop": st.sampled_from([(), ("\n",)]),
    "dtype": st.sampled_from(["float32", "bfloat16"]),
    "ids": st.sampled_from([0, 1]),
}
PARTS = st.fixed_dictionaries(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
@given(PARTS, PARTS)
def test_two_chunks_have_one_name_only_if_weights_prompts_seeds_and_settings_are_the_same(
    name: str, one: dict[str, Any], another: dict[str, Any]
) -> None:
    """Two that differ in one thing at most, which is the hardest case."""
    other = {**one, name: another[name]}

    def key(parts: dict[str, Any]) -> str:
        settings = {name: parts[name] for name in ("temperature", "max_new_tokens", "top_k", "stop")}
        prompts = [
            (RenderedPrompt(text=text, ids=(parts["ids"], *map(ord, text))), parts["seed"] + i)
            for i, text in enumerate(parts["prompts"])
        ]
        chunks = object.__new__(SharedChunks)
        chunks._conditions = {"dtype": parts["dtype"]}
        return chunks.key(parts["weights"], prompts, SamplingParams(**settings))

    def decides(parts: dict[str, Any]) -> dict[str, Any]:
        return parts if parts["temperature"] else {**parts, "seed": None}

    assert (key(one) == key(other)) == (decides(one) == decides(other))


def test_models_of_a_run_and_models_without_weights_are_not_shared(tmp_path: Path) -> None:
    engine = Counted()
    for model in (
        ModelRef(path="trained", sha256="aa" * 32, iteration=1, checkpoint=1),
        ModelRef(path="scripted"),
    ):
        for _ in range(2):
            sampled(tmp_path, engine, model=model)
    assert engine.calls == 4
    assert list(tmp_path.glob("*.jsonl")) == []


def test_a_chunk_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    sampled(tmp_path, Counted())
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(StoreError, match="1 of 2 completions; delete the file"):
        sampled(tmp_path, Counted())


def test_a_chunk_with_missing_answers_is_not_kept(tmp_path: Path) -> None:
    task = toy_task()
    sampling = Sampling(
        task=task,
        problems={p.id: p for p in TRAIN},
        model=BASE,
        spec=SamplingSpec(few_shot=FEW_SHOT, params=GREEDY),
        iteration=0,
        run_seed=0,
    )
    planned = [PlannedSample(problem_id=p.id, kind="rationale", index=0) for p in TRAIN[:2]]

    class Lazy(ScriptedEngine):
        def sample(self, asked: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
            return super().sample(asked[:1], params)

    chunks = SharedChunks(tmp_path, user="run", conditions={})
    with pytest.raises(EngineError, match="left 1 of 2 requests unanswered"):
        generate_chunk(Lazy(reply), sampling, planned, shared=chunks)
    assert list(tmp_path.glob("*.jsonl")) == []
    alone = generate_chunk(ScriptedEngine(reply), sampling, planned)
    assert generate_chunk(ScriptedEngine(reply), sampling, planned, shared=chunks) == alone
    assert generate_chunk(ScriptedEngine(lambda prompt, seed: "other"), sampling, planned, shared=chunks) == alone
