"""`selftaught score`: log-probabilities of tokens, proven against what the engine stored."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selftaught.cli.output import note
from selftaught.commands.score import gap_text, score, token_texts
from selftaught.records.errors import ConfigError, RefusedError, StoreError
from selftaught.records.samples import Sample
from selftaught.runs.lines import read_lines
from selftaught.runs.reading import StoredPrompts
from selftaught.runs.scores import ScoredSample, read_scores, scores_path, write_scores


def decode(ids: object) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(ids).decode("utf-8", errors="replace")  # type: ignore[call-overload]


@given(st.text(max_size=40))
def test_the_texts_of_tokens_joined_are_the_completion(text: str) -> None:
    ids = list(text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode("utf-8"))
    whole = decode(ids)
    texts = token_texts(decode, ids, whole)
    assert "".join(texts) == whole
    assert len(texts) == len(ids)


def test_a_character_of_several_tokens_stands_with_the_last_of_them() -> None:
    assert token_texts(decode, list("aé😀".encode()), "aé😀") == ("a", "", "é", "", "", "", "😀")


def test_ids_of_another_text_are_refused() -> None:
    with pytest.raises(StoreError, match="another text"):
        token_texts(decode, [97, 98], "xy")


def test_scores_are_written_in_one_step_and_read_again(tmp_path: Path) -> None:
    line = ScoredSample(problem_id="p", iteration=1, kind="rationale", index=0, tokens=("a", ""), logprobs=(-0.5, -1.0))
    path = scores_path(tmp_path, 1, "rationale")
    assert write_scores(path, [line]) == 1
    assert list(read_scores(path)) == [line]
    assert [p.name for p in path.parent.iterdir()] == ["001-rationale.jsonl"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the shipped model."""
    from test_cli import QUICK, selftaught

    folder = tmp_path_factory.mktemp("scored") / "run"
    options = [f"--set={key}={value}" for key, value in {**QUICK, "loop.max_iterations": 1}.items()]
    done = selftaught("run", "arithmetic", "--run-dir", str(folder), *options)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_sums_are_those_of_the_engine(run_dir: Path) -> None:
    written = score(run_dir, iteration=1, stage="rationale", note=note)
    assert [scored.path for scored in written] == [run_dir / "scores" / "001-rationale.jsonl"]
    samples = list(read_lines(Sample, run_dir / "samples" / "001-rationale.jsonl"))
    scored = list(read_scores(written[0].path))
    assert len(scored) == len(samples)
    for sample, line in zip(samples, scored, strict=True):
        assert "".join(line.tokens) == sample.completion
        assert sample.logprob is not None
        assert sum(line.logprobs) == pytest.approx(sample.logprob, abs=1e-3 * len(line.logprobs))
    assert score(run_dir, iteration=1, stage="rationale", note=note) == []  # they are there


def test_the_distribution_of_gaps_is_told() -> None:
    assert gap_text([0.1 * i for i in range(11)]) == (
        "the hint makes a token likelier by +0.500 nats on average over 11 completions; of these, a tenth has less "
        "than +0.100, half less than +0.500, a tenth more than +0.900"
    )


@pytest.mark.slow
def test_a_hint_is_told_by_how_much_likelier_it_makes_what_was_sampled_with_it(run_dir: Path) -> None:
    from selftaught.models.loading import load_model
    from selftaught.models.scoring import completion_logprobs
    from selftaught.models.weights import resolve_model

    told: list[str] = []
    (written,) = score(run_dir, iteration=1, stage="rationalization", note=told.append)
    lines = list(read_scores(written.path))
    hinted = list(read_lines(Sample, run_dir / "samples" / "001-rationalization.jsonl"))
    first = {s.problem_id: s for s in read_lines(Sample, run_dir / "samples" / "001-rationale.jsonl")}
    assert told[-1].endswith(gap_text([line.gap for line in lines if line.gap is not None]))
    assert all(line.gap is not None for line in lines)
    prompts = StoredPrompts(run_dir)
    model = load_model(resolve_model("builtin:adder").path, dtype=torch.float32).eval()
    for sample, line in list(zip(hinted, lines, strict=True))[:3]:
        ids = prompts[first[sample.problem_id].prompt_sha256].ids
        assert ids is not None
        generated = (*(sample.token_ids or ()), *(() if sample.end_id is None else (sample.end_id,)))
        with torch.inference_mode():
            (plain,) = completion_logprobs(model, [(ids, generated)], device=torch.device("cpu"))
        assert line.gap == pytest.approx((sum(line.logprobs) - sum(plain)) / len(plain), abs=1e-2)
    unhinted = read_scores(score(run_dir, iteration=1, stage="dev", note=told.append)[0].path)
    assert {line.gap for line in unhinted} == {None}


@pytest.mark.slow
def test_samples_of_adapters_are_scored_with_adapters_and_base_together(tmp_path: Path) -> None:
    from test_cli import QUICK, selftaught

    adapters = {"training.lora_rank": 4, "training.learning_rate": 3e-3, "training.steps_first_iteration": 20}
    options = [f"--set={key}={value}" for key, value in {**QUICK, **adapters}.items()]
    done = selftaught("run", "arithmetic", "--run-dir", str(tmp_path / "run"), *options)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "checkpoints" / "001").glob("adapter_model*"))
    (written,) = score(tmp_path / "run", iteration=1, stage="dev", note=note)
    samples = list(read_lines(Sample, tmp_path / "run" / "samples" / "001-dev.jsonl"))
    assert {sample.checkpoint for sample in samples} == {1}
    for sample, line in zip(samples, read_scores(written.path), strict=True):
        assert sample.logprob is not None
        assert sum(line.logprobs) == pytest.approx(sample.logprob, abs=1e-3 * len(line.logprobs))


@pytest.mark.slow
def test_other_weights_are_refused(run_dir: Path) -> None:
    path = run_dir / "samples" / "000-dev.jsonl"
    before = path.read_text()
    path.write_text(before.replace('"weights_sha256":"', '"weights_sha256":"0000'))
    with pytest.raises(RefusedError, match="other weights"):
        score(run_dir, iteration=0, stage="dev", note=note)
    lines = [json.loads(line) for line in before.splitlines()]
    path.write_text("".join(json.dumps({**line, "logprob": -500.0}) + "\n" for line in lines))
    with pytest.raises(RefusedError, match=r"had -500\.000 when they were sampled"):
        score(run_dir, iteration=0, stage="dev", note=note)
    path.write_text(before)
    assert not list((run_dir / "scores").glob("000-dev*"))


@pytest.mark.slow
def test_what_was_not_sampled_is_refused(run_dir: Path) -> None:
    with pytest.raises(ConfigError, match="it has 000-dev"):
        score(run_dir, iteration=7, note=note)
