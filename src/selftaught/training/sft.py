"""The trainer `sft`: TRL's SFTTrainer on rows of token ids that are laid out here.

TRL gets input ids and labels, never text or masks: what carries loss is decided by `Codec.lay_out` and asserted
again after TRL has prepared its data set. Training is on float32 master weights, in the order of rows given.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from selftaught.errors import ModelError, RefusedError, StoreError, TrainingError
from selftaught.plan import row_order
from selftaught.records import (
    Checkpoint,
    ModelRef,
    ProbeRow,
    StepMetrics,
    TrainingExample,
    TrainingPlan,
    TrainingSummary,
)
from selftaught.scoring import completion_logprobs, context_of
from selftaught.settings import TrainingConfig
from selftaught.tokens import IGNORED, Codec
from selftaught.training import checkpoint_of

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


@dataclass(frozen=True, slots=True)
class Row:
    """A training example as token ids; labels are IGNORED where there is no loss."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_loss_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


class SftTrainer:
    """Fine-tunes a model folder. Holds settings only: every call loads the weights anew and drops them at its end."""

    def __init__(
        self, settings: TrainingConfig, *, dtype: str, device: str, threads: int, trust_remote_code: bool = False
    ) -> None:
        self._settings = settings
        self._device = torch.device(device)
        self._bf16 = dtype == "bfloat16" and self._device.type == "cuda"
        self._threads = threads
        self._trust = trust_remote_code

    def fine_tune(
        self,
        examples: Sequence[TrainingExample],
        *,
        validation: Sequence[TrainingExample],
        start: ModelRef,
        out_dir: Path,
        plan: TrainingPlan,
        on_step: Callable[[StepMetrics], None],
    ) -> Checkpoint:
        torch.set_num_threads(self._threads)
        began = time.monotonic()
        codec = Codec(start.path, trust_remote_code=self._trust)
        rows = [Row(*codec.lay_out(example)) for example in examples]
        model = load_float32(start.path, trust_remote_code=self._trust)
        check_rows(rows, codec, context=context_of(model))
        order = row_order(len(rows), num_slots=plan.steps * self._settings.batch_size, seed=plan.seed)
        steps = _Steps(on_step, began, _tokens_per_step(rows, order, self._settings.batch_size))
        trainer = self.build(model, codec, rows, order, plan=plan, out_dir=out_dir, callback=steps)
        trainer.train()
        model = trainer.accelerator.unwrap_model(trainer.model).eval()
        summary = TrainingSummary(
            steps=steps.done,
            tokens=steps.tokens_so_far(),
            seconds=round(time.monotonic() - began, 3),
            first_loss=steps.first_loss,
            last_loss=steps.last_loss,
            validation_loss=self._mean_loss(model, [codec.lay_out(e) for e in validation]),
            dev_answer_loss=self._mean_loss(model, [codec.lay_out(e) for e in plan.dev]),
        )
        new_logprobs = self._probe(model, codec, plan.probe)
        try:
            model.save_pretrained(out_dir)
            codec.tokenizer.save_pretrained(out_dir)
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"cannot save the model of iteration {plan.iteration} in {out_dir}: {error}; free some space and run "
                "the same command again; the samples are kept and the training is redone"
            ) from error
        return checkpoint_of(
            plan, start=start, out_dir=out_dir, examples=len(examples), train=summary, new_logprobs=new_logprobs
        )

    def build(
        self,
        model: Any,
        codec: Codec,
        rows: Sequence[Row],
        order: Sequence[int],
        *,
        plan: TrainingPlan,
        out_dir: Path,
        callback: TrainerCallback,
    ) -> SFTTrainer:
        """TRL's trainer, ready to train on `rows[i] for i in order`, `batch_size` to a step, and on nothing else."""
        trainer = SFTTrainer(
            model=model,
            args=self._arguments(plan, out_dir),
            train_dataset=_dataset(rows).select(order),
            processing_class=codec.tokenizer,
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)  # it prints every log line; ours passes them on instead
        check_prepared(trainer.train_dataset, rows, order)
        return trainer

    def _arguments(self, plan: TrainingPlan, out_dir: Path) -> SFTConfig:
        settings = self._settings
        return SFTConfig(
            output_dir=str(out_dir),
            max_steps=plan.steps,
            per_device_train_batch_size=settings.micro_batch_size,
            gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=SCHEDULES[settings.schedule],
            warmup_steps=min(settings.warmup_steps, plan.steps // 2),
            weight_decay=settings.weight_decay,
            adam_beta2=settings.adam_beta2,
            max_grad_norm=settings.max_grad_norm,
            optim="adamw_torch",
            seed=plan.seed % 2**32,
            data_seed=plan.seed % 2**32,
            bf16=self._bf16,
            use_cpu=self._device.type == "cpu",
            # The rows are laid out for all steps already; TRL must neither cut, drop, pack, shuffle nor checkpoint.
            max_length=None,
            packing=False,
            shuffle_dataset=False,
            train_sampling_strategy="sequential",
            completion_only_loss=False,
            activation_checkpointing=False,
            dataloader_pin_memory=False,
            dataloader_num_workers=0,
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to=[],
            disable_tqdm=True,
        )

    def _mean_loss(self, model: Any, laid_out: Sequence[tuple[list[int], list[int]]]) -> float | None:
        """Mean loss per loss token (nats), or None without rows."""
        if not laid_out:
            return None
        split = [(labels.count(IGNORED), ids) for ids, labels in laid_out]
        scores = completion_logprobs(model, [(ids[:n], ids[n:]) for n, ids in split], device=self._device)
        losses = [-value for row in scores for value in row]
        return sum(losses) / len(losses)

    def _probe(self, model: Any, codec: Codec, probe: Sequence[ProbeRow]) -> list[tuple[float, ...]]:
        rows = [(codec.encode_prompt(row.prompt), codec.encode_completion(row.prompt, row.completion)) for row in probe]
        return completion_logprobs(model, rows, device=self._device)


class _Steps(TrainerCallback):
    """Turns TRL's log lines into StepMetrics, and stops at a loss that is not finite."""

    def __init__(self, on_step: Callable[[StepMetrics], None], began: float, tokens_per_step: Sequence[int]) -> None:
        self._on_step, self._began, self._tokens_per_step = on_step, began, tokens_per_step
        self.done = 0
        self.first_loss: float | None = None
        self.last_loss: float | None = None

    def tokens_so_far(self) -> int:
        return sum(self._tokens_per_step[: self.done])

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss, grad_norm = float(logs["loss"]), float(logs.get("grad_norm", math.nan))
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise TrainingError(
                f"the loss of step {state.global_step} is {loss} (gradient norm {grad_norm}); lower "
                "training.learning_rate or training.max_grad_norm and run the same command again"
            )
        self.done = int(state.global_step)
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.last_loss = loss
        self._on_step(
            StepMetrics(
                step=self.done,
                loss=loss,
                learning_rate=float(logs.get("learning_rate", 0.0)),
                grad_norm=grad_norm,
                seconds=round(time.monotonic() - self._began, 3),
                tokens=self.tokens_so_far(),
            )
        )


def check_rows(rows: Sequence[Row], codec: Codec, *, context: int) -> None:
    """Raise RefusedError for rows that would not be learned as intended; each of these fails in silence elsewhere."""
    if not rows:
        raise RefusedError("there is nothing to train on; see left_out/ for why every sample was left out")
    for position, row in enumerate(rows):
        where = f"training row {position}"
        if len(row.input_ids) > context:
            raise RefusedError(
                f"{where} has {len(row.input_ids)} tokens, more than the model's context of {context}; use fewer "
                "training.shots"
            )
        if not 0 < row.num_loss_tokens < len(row.labels):
            raise RefusedError(
                f"{where}: {row.num_loss_tokens} of {len(row.labels)} tokens carry loss; the prompt must carry none "
                "and the completion all of it"
            )
        learned = [i for i, label in zip(row.input_ids, row.labels, strict=True) if label != IGNORED]
        if learned[-1] != codec.end_id or learned.count(codec.end_id) != 1:
            raise RefusedError(
                f"{where}: the end token {codec.end_id} must be learned once, at the end; the last learned token is "
                f"{learned[-1]} and it occurs {learned.count(codec.end_id)} times"
            )


def check_prepared(prepared: Any, rows: Sequence[Row], order: Sequence[int]) -> None:
    """Raise RefusedError unless TRL will train on exactly the rows it was given, id for id and label for label."""
    if len(prepared) != len(order):
        raise RefusedError(
            f"TRL prepared {len(prepared)} rows, but was given {len(order)}; this version of TRL changes its input, "
            "install the range in pyproject.toml"
        )
    columns = zip(prepared["input_ids"], prepared["labels"], order, strict=True)
    for position, (ids, labels, i) in enumerate(columns):
        if list(ids) != rows[i].input_ids or list(labels) != rows[i].labels:
            raise RefusedError(
                f"TRL prepared other tokens or labels for row {position} than it was given ({len(ids)} tokens, given "
                f"{len(rows[i].input_ids)}); install the range of TRL in pyproject.toml"
            )


def load_float32(path: str, *, trust_remote_code: bool = False) -> Any:
    """The model of a folder with float32 master weights (from_pretrained would keep the file's number type)."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except Exception as error:
        # transformers and safetensors raise many kinds here, and each of them means the same to the user.
        raise ModelError(
            f"model {path} cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    wrong = [name for name, weight in model.named_parameters() if weight.dtype != torch.float32]
    assert not wrong, f"master weights must be float32, these are not: {wrong[:3]}"
    return model


def _dataset(rows: Sequence[Row]) -> Dataset:
    return Dataset.from_dict({"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]})


def _tokens_per_step(rows: Sequence[Row], order: Sequence[int], batch_size: int) -> list[int]:
    lengths = [len(rows[i].input_ids) for i in order]
    return [sum(lengths[i : i + batch_size]) for i in range(0, len(lengths), batch_size)]
