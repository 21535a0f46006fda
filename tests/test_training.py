"""Fine-tuning on a real, tiny model: what carries loss, what moves, what is refused, what is saved."""

import gc
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback

from builders import task_named
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.methods.training_set import examples_from_solutions
from selftaught.models.tokens import IGNORED, Codec
from selftaught.prompts.rendering import render_prompt
from selftaught.records.errors import ModelError, RefusedError, TrainingError
from selftaught.records.samples import ModelRef, Request, SamplingParams
from selftaught.records.training import Checkpoint, ProbeRow, StepMetrics, Training, TrainingExample, TrainingPlan
from selftaught.training.micro_batches import collate_packed, collate_padded
from selftaught.training.models import load_float32
from selftaught.training.none import NullTrainer
from selftaught.training.rows import (
    Row,
    as_dataset,
    check_prepared,
    check_rows,
)
from selftaught.training.sft import SftTrainer
from selftaught.training.sft_config import SftConfig
from toy import run_toy, toy_config

TASK = task_named("arithmetic")


def examples(number: int = 8) -> list[TrainingExample]:
    return examples_from_solutions(TASK.few_shot[:number], TASK.prompt_format, iteration=1)


def fine_tune(
    start: Path,
    out_dir: Path,
    *,
    rows: list[TrainingExample] | None = None,
    steps: int = 4,
    on_step: Any = lambda metrics: None,
    validation: list[TrainingExample] | None = None,
    plan: dict[str, Any] | None = None,
    **settings: Any,
) -> Checkpoint:
    out_dir.mkdir(parents=True, exist_ok=True)
    values = {"batch_size": 4, "noise_scale": True, "learning_rate": 1e-3, **settings}
    trainer = SftTrainer(SftConfig(**values), dtype="float32", device="cpu", threads=1)
    training = Training(
        examples=examples() if rows is None else rows,
        validation=validation or [],
        start=ModelRef(path=str(start)),
        out_dir=out_dir,
        plan=TrainingPlan(iteration=1, steps=steps, seed=1, examples_sha256="x", **(plan or {})),
    )
    return trainer.fine_tune(training, on_step)


def gradients(model: Any, rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """Of the sum of token losses."""
    model.zero_grad()
    for ids, labels in rows:
        logits = model(torch.tensor([ids])).logits[0, :-1]
        torch.nn.functional.cross_entropy(
            logits, torch.tensor(labels[1:]), ignore_index=IGNORED, reduction="sum"
        ).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_every_parameter_tensor_moves(tiny: Path, tmp_path: Path) -> None:
    fine_tune(tiny, tmp_path)
    before, after = load_file(tiny / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name].float(), after[name].float())] == []


def test_the_loss_falls(tiny: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    train = fine_tune(tiny, tmp_path, steps=30, on_step=lambda m: losses.append(m.loss)).train
    assert losses[-1] < 0.7 * losses[0]
    assert (train.first_loss, train.last_loss, train.steps) == (losses[0], losses[-1], 30)


def test_a_training_says_how_many_of_its_tokens_carried_loss(tiny: Path, tmp_path: Path) -> None:
    rows = examples(2)
    train = fine_tune(tiny, tmp_path, rows=rows, steps=3).train
    codec = Codec(tiny)
    loss = [sum(label != IGNORED for label in codec.encode_example(row)[1]) for row in rows]
    assert train.loss_tokens == 6 * sum(loss)  # three steps of four rows take each of the two rows six times


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 4}])
def test_a_trained_model_is_freed_before_the_next_engine_is_opened(
    settings: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    """By the trainer itself, without waiting for Python's collector."""

    def models() -> int:
        return sum(issubclass(type(o), PreTrainedModel) for o in gc.get_objects())

    gc.collect()
    before = models()
    gc.disable()
    try:
        fine_tune(tiny, tmp_path, **settings)
        assert models() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("rank", [None, 4])
def test_no_step_leaves_a_tensor_to_the_collector(rank: int | None, tiny: Path, tmp_path: Path) -> None:
    """The collector counts objects and not their bytes, so it may come late."""
    alive = {}

    def on_step(metrics: StepMetrics) -> None:
        gc.disable()
        if metrics.step in (2, 9):
            alive[metrics.step] = sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())

    try:
        fine_tune(tiny, tmp_path, steps=10, on_step=on_step, lora_rank=rank)
    finally:
        gc.enable()
    assert alive[9] == alive[2] > 0


@pytest.mark.slow  # eight seconds
def test_a_model_that_has_learned_eight_sums_writes_them(tiny: Path, tmp_path: Path) -> None:
    fine_tune(tiny, tmp_path, steps=200, batch_size=8, learning_rate=5e-3, noise_scale=False)
    engine = LocalEngine(ModelRef(path=str(tmp_path)), LocalSettings(dtype="float32", device="cpu", threads=1, slots=8))
    learned = examples()
    requests = [Request(prompt=e.prompt, seed=0) for e in learned]
    completions = {c.request: c for c in engine.sample(requests, SamplingParams(temperature=0.0, max_new_tokens=120))}
    assert [completions[i].text for i in range(len(learned))] == [e.completion for e in learned]
    assert {c.finish_reason for c in completions.values()} == {"end"}


def test_prompt_tokens_carry_no_loss_and_the_completion_and_one_end_token_all_of_it(adder: Path) -> None:
    codec = Codec(str(adder))
    for example in examples(20):
        ids, labels = codec.encode_example(example)
        prompt = codec.encode_prompt(example.prompt)
        assert labels[: len(prompt)] == [IGNORED] * len(prompt)
        assert labels[len(prompt) :] == ids[len(prompt) :]
        assert codec.decode(ids[len(prompt) : -1], after=prompt) == example.completion
        assert ids[-1] == codec.end_id
        assert ids.count(codec.end_id) == 1


def test_a_label_under_the_mask_changes_nothing_and_a_prompt_token_changes_the_loss(tiny: Path, tmp_path: Path) -> None:
    # The prompt is context (it changes the loss) but is not learned: the gradient of its own prediction is zero.
    codec, model = Codec(str(tiny)), load_float32(str(tiny))
    ids, labels = codec.encode_example(examples()[3])
    logits = model(torch.tensor([ids])).logits
    logits.retain_grad()
    torch.nn.functional.cross_entropy(logits[0, :-1], torch.tensor(labels[1:]), ignore_index=IGNORED).backward()
    prompt_length = labels.count(IGNORED)
    assert not logits.grad[0, : prompt_length - 1].any()
    assert logits.grad[0, prompt_length - 1 : -1].any(-1).all()
    losses = []
    for name, first in (("a", ids[0]), ("b", ids[2])):
        row = examples()[3]
        changed = [first, *ids[1:]]
        prompt = codec.decode(changed[:prompt_length])
        rows = [replace(row, prompt=prompt)]
        losses.append(fine_tune(tiny, tmp_path / name, rows=rows, steps=1).train.first_loss)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("pads_with_its_end", [False, True])
def test_trl_trains_on_exactly_the_masked_loss(pads_with_its_end: bool, tiny: Path, tmp_path: Path) -> None:
    """Also where padding and end are one token: the end is learned all the same."""
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    if pads_with_its_end:
        for name, change in (("tokenizer_config", {"pad_token": "<end>"}), ("config", {"pad_token_id": 1})):
            path = folder / f"{name}.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    codec, model = Codec(str(folder)), load_float32(str(folder))
    assert (codec.tokenizer.pad_token_id == codec.end_id) == pads_with_its_end
    rows = [codec.encode_example(e) for e in examples(4)]
    total = tokens = 0.0
    with torch.no_grad():
        for ids, labels in rows:
            logits = model(torch.tensor([ids])).logits[0, :-1]
            target = torch.tensor(labels[1:])
            total += float(torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum"))
            tokens += sum(label != IGNORED for label in labels)
    checkpoint = fine_tune(folder, tmp_path / "out", rows=examples(4), steps=1)
    assert checkpoint.train.first_loss == pytest.approx(total / tokens, rel=1e-3)
    batch = as_dataset([Row(*row) for row in rows], [(0, 1, 2, 3)])
    for collate in (collate_packed, collate_padded):
        targets = collate([batch[0]])["targets"].tolist()
        assert targets == [label for _, labels in rows for label in labels if label != IGNORED]
        assert targets.count(codec.end_id) == 4


class Gradients(TrainerCallback):  # type: ignore[misc]
    """Keeps the gradients of the first step, before they are clipped."""

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.kept = self.kept or {name: p.grad.clone() for name, p in model.named_parameters()}


def test_gradients_of_one_row_eight_times_and_of_eight_rows_at_once_agree(tiny: Path, tmp_path: Path) -> None:
    codec = Codec(str(tiny))
    rows = [Row(*codec.encode_example(e)) for e in examples()]
    plan = TrainingPlan(iteration=1, steps=1, seed=1, examples_sha256="x")
    by_rows = {}
    for micro, tokens in ((1, 1), (8, 100_000)):
        settings = SftConfig(batch_size=8, micro_batch_tokens=tokens, learning_rate=1e-3, max_grad_norm=1e9)
        callback = Gradients()
        trainer = SftTrainer(settings, dtype="float32", device="cpu", threads=1)
        model = load_float32(str(tiny))
        training = Training(examples=[], start=ModelRef(path=str(tiny)), out_dir=tmp_path, plan=plan)
        built = trainer.build(training, model, codec, rows, range(8))
        built.add_callback(callback)
        built.train()
        assert built.batches.per_step == 8 // micro
        by_rows[micro] = callback.kept
    tokens = sum(row.num_loss_tokens for row in rows)
    expected = gradients(load_float32(str(tiny)), [(row.input_ids, row.labels) for row in rows])
    # Against float64, float32 is off by up to 0.8e-5 for this model.
    for name, gradient in expected.items():
        scale = gradient.norm() / tokens
        assert (by_rows[1][name] - by_rows[8][name]).norm() < 1e-5 * scale, name
        assert (by_rows[8][name] - gradient / tokens).norm() < 1e-5 * scale, name


def test_the_same_training_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b"):
        fine_tune(tiny, tmp_path / name)
        hashes.append(hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest())
    assert hashes[0] == hashes[1]


def test_the_saved_folder_loads_and_holds_no_pickle(tiny: Path, tmp_path: Path) -> None:
    fine_tune(tiny, tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.float32
    assert [p.name for p in tmp_path.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl"}] == []
    assert Codec(str(tmp_path)).end_id == Codec(str(tiny)).end_id


def test_half_precision_files_are_trained_in_float32(adder: Path, tmp_path: Path) -> None:
    assert json.loads((adder / "config.json").read_text())["dtype"] == "float16"
    fine_tune(adder, tmp_path, steps=1)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


def test_validation_and_dev_losses_are_means_per_token(tiny: Path, tmp_path: Path) -> None:
    train = fine_tune(tiny, tmp_path, validation=examples(3), plan={"dev": tuple(examples(2))}).train
    codec, model = Codec(str(tmp_path)), load_float32(str(tmp_path))
    for rows, loss in ((examples(3), train.validation_loss), (examples(2), train.dev_answer_loss)):
        total = tokens = 0.0
        for ids, labels in map(codec.encode_example, rows):
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, :-1]
            total += float(
                torch.nn.functional.cross_entropy(
                    logits, torch.tensor(labels[1:]), ignore_index=IGNORED, reduction="sum"
                )
            )
            tokens += sum(label != IGNORED for label in labels)
        assert loss == pytest.approx(total / tokens, rel=1e-4)


def test_without_validation_rows_there_is_no_validation_loss(tiny: Path, tmp_path: Path) -> None:
    assert fine_tune(tiny, tmp_path).train.validation_loss is None


def test_the_probe_is_scored_by_the_new_weights(tiny: Path, tmp_path: Path) -> None:
    example = examples(1)[0]
    probe = (ProbeRow(prompt=example.prompt, completion=example.completion, old_logprobs=()),)
    checkpoint = fine_tune(tiny, tmp_path, steps=8, plan={"probe": probe})
    scores = {}
    for name, folder in (("old", tiny), ("new", tmp_path)):
        engine = LocalEngine(
            ModelRef(path=str(folder)), LocalSettings(dtype="float32", device="cpu", threads=1, slots=4)
        )
        (score,) = engine.score([Request(prompt=example.prompt, seed=0)], [example.completion])
        scores[name] = score.logprobs
    assert checkpoint.new_logprobs[0] == pytest.approx(scores["new"], abs=1e-4)
    assert checkpoint.new_logprobs[0] != pytest.approx(scores["old"], abs=1e-2)


def test_sampled_ids_are_trained_on_as_they_are(tiny: Path) -> None:
    codec = Codec(str(tiny))
    example = replace(examples(1)[0], completion_ids=(7, 8, 9))
    ids, labels = codec.encode_example(example)
    assert [i for i in labels if i != IGNORED] == [7, 8, 9, codec.end_id]
    assert ids[-4:] == [7, 8, 9, codec.end_id]


@pytest.mark.parametrize("ids", [(), (7, 1, 8)])
def test_an_empty_completion_and_an_end_token_inside_one_are_refused(tiny: Path, ids: tuple[int, ...]) -> None:
    example = replace(examples(1)[0], completion_ids=ids)
    with pytest.raises(RefusedError, match=r"empty completion|end token inside"):
        Codec(str(tiny)).encode_example(example)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([IGNORED] * 4, "0 of 4 tokens carry loss"),
        ([5, 6, 7, 1], "4 of 4 tokens carry loss"),
        ([IGNORED, 6, 7, 8], r"one of the end tokens \[1\] must be learned once"),
        ([IGNORED, 1, 7, 1], r"one of the end tokens \[1\] must be learned once"),
    ],
)
def test_a_mask_that_is_empty_or_full_and_an_end_token_not_learned_are_refused(
    tiny: Path, labels: list[int], message: str
) -> None:
    ids = [5 if label == IGNORED else label for label in labels]
    with pytest.raises(RefusedError, match=message):
        check_rows([Row(ids, labels)], Codec(str(tiny)), context=256)


def test_a_row_longer_than_the_context_is_refused(tiny: Path, tmp_path: Path) -> None:
    (example,) = examples(1)
    long = [replace(example, prompt=example.prompt * 50)]
    with pytest.raises(RefusedError, match="more than the model's context of 256"):
        fine_tune(tiny, tmp_path, rows=long)


def test_rows_that_trl_has_changed_are_refused() -> None:
    rows = [Row([5, 6, 1], [IGNORED, 6, 1]), Row([5, 1], [IGNORED, 1])]
    given = as_dataset(rows, [(0, 1), (1,)])
    check_prepared(given, rows, [(0, 1), (1,)])
    with pytest.raises(RefusedError, match="TRL prepared 2 micro-batches, but was given 1"):
        check_prepared(given, rows, [(0, 1)])
    for name, values in (
        ("input_ids", [[5, 6, 1, 5], [5, 1]]),
        ("labels", [[5, 6, 1, IGNORED, 1], [IGNORED, 1]]),
        ("seq_lengths", [[2, 3], [2]]),
    ):
        changed = {**given.to_dict(), name: values}
        with pytest.raises(RefusedError, match=f"TRL prepared other {name} for micro-batch 0"):
            check_prepared(Dataset.from_dict(changed), rows, [(0, 1), (1,)])


def test_a_loss_that_is_not_finite_stops_the_training(tiny: Path, tmp_path: Path) -> None:
    model = load_float32(str(tiny))
    with torch.no_grad():
        model.lm_head.weight *= 1e38
    model.save_pretrained(tmp_path / "huge")
    Codec(str(tiny)).tokenizer.save_pretrained(tmp_path / "huge")
    with pytest.raises(TrainingError, match=r"the loss of step 1 is .*lower training.learning_rate"):
        fine_tune(tmp_path / "huge", tmp_path / "out")


def test_an_exception_in_on_step_ends_the_training(tiny: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    seen: list[int] = []

    def on_step(metrics: StepMetrics) -> None:
        seen.append(metrics.step)
        if metrics.step == 2:
            raise Stop

    with pytest.raises(Stop):
        fine_tune(tiny, tmp_path, steps=6, on_step=on_step)
    assert seen == [1, 2]


def test_a_folder_that_is_no_model_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        fine_tune(tmp_path, tmp_path / "out")


def test_step_metrics_count_tokens_without_padding(tiny: Path, tmp_path: Path) -> None:
    steps: list[StepMetrics] = []
    train = fine_tune(tiny, tmp_path, steps=4, on_step=steps.append).train
    codec = Codec(str(tiny))
    # 4 steps of 4 rows over 8 examples: every example twice.
    assert train.tokens == steps[-1].tokens == 2 * sum(len(codec.encode_example(e)[0]) for e in examples())


def test_prompts_are_encoded_alike_for_generation_and_training(adder: Path) -> None:
    codec = Codec(str(adder))
    for example, problem in zip(examples(10), TASK.few_shot[:10], strict=True):
        prompt = codec.encode_prompt(render_prompt(TASK.prompt_format, problem, hint=False))
        assert codec.encode_example(example)[0][: len(prompt)] == prompt


class CountingTrainer(NullTrainer):
    """Trains nothing, but takes every step of its plan."""

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        plan = training.plan
        for step in range(1, plan.steps + 1):
            on_step(StepMetrics(step=step, loss=1.0, learning_rate=0.0, grad_norm=1.0, seconds=0.0, tokens=step))
        checkpoint = super().fine_tune(training, on_step)
        return replace(checkpoint, train=replace(checkpoint.train, steps=plan.steps))


@pytest.mark.parametrize(("changes", "steps"), [({}, 6), ({"training__max_epochs": 0.6}, 2)])
def test_an_iteration_that_keeps_few_rows_trains_for_at_most_max_epochs(
    changes: dict[str, Any], steps: int, tmp_path: Path
) -> None:
    """ceil(3 * 4 rows / 2 rows a step), or ceil(0.6 * 4 / 2), where the first iteration would train 40 steps."""
    config = toy_config(training__steps_first_iteration=40, **changes)
    run_toy(tmp_path, config=config, trainer=CountingTrainer())
    lines = (tmp_path / "iterations.jsonl").read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, lines):
        assert sum(line["examples_by_source"].values()) == 4
        assert line["train"]["steps"] == steps
    assert len(lines) == 2
