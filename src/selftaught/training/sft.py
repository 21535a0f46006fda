"""The trainer `sft`: TRL's SFTTrainer on micro-batches of token ids that are arranged here.

TRL gets input ids and labels, never text or masks: `Codec.encode_example` decides what carries loss, and this is
checked again after TRL has prepared its data set. The optimizer changes float32 weights.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerCallback

from selftaught.machine.devices import Device, Machine, NumberType
from selftaught.machine.memory import return_freed_memory
from selftaught.machine.workers import Worker
from selftaught.models.loading import load_model
from selftaught.models.rounding import round_model
from selftaught.models.scoring import completion_logprobs, context_of, in_float32
from selftaught.models.shape import shape_of
from selftaught.models.tokens import IGNORED, Codec
from selftaught.records.errors import StoreError, TrainingError
from selftaught.records.prompts import ChatSettings
from selftaught.records.samples import ModelRef
from selftaught.records.training import (
    Checkpoint,
    ProbeRow,
    StepMetrics,
    Training,
    TrainingPlan,
    TrainingSummary,
)
from selftaught.training.batches import plan_batches
from selftaught.training.fitting import usual_tokens
from selftaught.training.lora import load_adapters, save_adapters
from selftaught.training.micro_batches import collator_of
from selftaught.training.models import frozen_folder, load_for_training, prepare
from selftaught.training.noise import NoiseEstimate, noise_scale
from selftaught.training.ranks import Ranks
from selftaught.training.row_order import row_order
from selftaught.training.rows import (
    Row,
    as_dataset,
    check_prepared,
    check_rows,
)
from selftaught.training.settings import SftSettings
from selftaught.training.trainer import checkpoint_of
from selftaught.training.trl import SFTConfig
from selftaught.training.trl_trainer import MicroBatchTrainer, collate_first
from selftaught.training.worker_gradients import TrainingJob, WorkerGradients

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


class SftTrainer:
    """Fine-tunes a model folder. Holds settings only: every call loads the weights anew and drops them at its end."""

    def __init__(
        self,
        settings: SftSettings,
        *,
        dtype: NumberType,
        device: Device,
        threads: int,
        workers: Sequence[Worker] = (),
        ranks: Ranks | None = None,
        trust_remote_code: bool = False,
        chat: ChatSettings | None = None,
    ) -> None:
        """`workers` compute their share of every step's gradient, each on `threads` threads. `ranks` are for a process
        that is one of several with such a trainer: the first calls `fine_tune`, all others `take_part`."""
        assert not (workers and ranks), "a training is shared among workers or among ranks"
        self._settings, self._ranks = settings, ranks
        processes = ranks.size if ranks else len(workers) + 1
        self._machine = Machine(device=device, dtype=dtype, threads=threads, workers=processes)
        self._device = torch.device(device)
        self._compute = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self._threads, self._workers = threads, workers
        self._trust, self._chat = trust_remote_code, chat

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        began, plan = time.monotonic(), training.plan
        codec, rows = self._encoded(training)
        trained, steps = self._train(training, codec, rows, on_step, began)
        gc.collect()  # TRL's trainer and its parts refer to each other and to the model
        return_freed_memory()
        model = trained if trained is not None else self._with_adapters(training.out_dir)
        del trained
        if self._compute == torch.bfloat16 and not self._settings.lora_rank:
            round_model(model, seed=plan.seed)  # before the measurements: they are of the weights that are saved
        with in_float32(model):  # an engine's are compared with them
            new_logprobs = self._probe(model, codec, plan.probe)
        model = model.to(self._compute)
        summary = TrainingSummary(
            steps=steps.done,
            tokens=steps.tokens,
            loss_tokens=sum(rows[i].num_loss_tokens for i in self._order(rows, plan)),
            seconds=round(time.monotonic() - began, 3),
            first_loss=steps.first_loss,
            last_loss=steps.last_loss,
            validation_loss=self._mean_loss(model, [codec.encode_example(e) for e in training.validation]),
            dev_answer_loss=self._mean_loss(model, [codec.encode_example(e) for e in plan.dev]),
            noise_scale=noise_scale(steps.noise),
            notes=steps.notes,
        )
        ends = sorted(codec.end_ids)  # whoever generates with the model stops where its samples stopped
        model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
        with _saving(training):
            saved = model.generation_config if self._settings.lora_rank else model
            saved.save_pretrained(training.out_dir)
            codec.tokenizer.save_pretrained(training.out_dir)
        del model, saved
        gc.collect()
        return_freed_memory()
        return checkpoint_of(training, summary, new_logprobs=new_logprobs)

    def take_part(self, training: Training) -> None:
        """Share every step of a training as another rank than the first, which measures and saves what comes of it."""
        codec, rows = self._encoded(training)
        self._train(training, codec, rows, lambda metrics: None, time.monotonic())

    def _encoded(self, training: Training) -> tuple[Codec, list[Row]]:
        torch.set_num_threads(self._threads)
        codec = Codec(training.start.path, chat=self._chat, trust_remote_code=self._trust)
        return codec, [Row(*codec.encode_example(example)) for example in training.examples]

    def _train(
        self,
        training: Training,
        codec: Codec,
        rows: Sequence[Row],
        on_step: Callable[[StepMetrics], None],
        began: float,
    ) -> tuple[Any | None, "_Steps"]:
        """The trained model with its own attention, in float32; None for a training with adapters, which are saved, and
        in another rank than the first."""
        start, plan = training.start, training.plan
        workers = WorkerGradients(self._workers, self._training_job(start, rows, plan)) if self._workers else None
        frozen = frozen_folder(start, self._settings)
        model = load_for_training(frozen, self._settings, compute=self._compute, trust_remote_code=self._trust)
        check_rows(rows, codec, context=context_of(model))
        order = self._order(rows, plan)
        with workers or nullcontext():
            trainer = self.build(training, model, codec, rows, order, workers=workers)
            steps = _Steps(on_step, began, trainer)
            trainer.add_callback(steps)
            if self._ranks is not None:
                torch.manual_seed(plan.seed + self._ranks.rank)  # for dropout
            trainer.train()
        steps.let_go()
        trainer.masters.restore_float32()
        if self._ranks is not None:
            self._ranks.refuse_other_weights(trainer.masters.trained)
            self._ranks.part()
        trained = trainer.accelerator.unwrap_model(trainer.model)
        if self._ranks is not None and self._ranks.rank:
            return None, steps
        if self._settings.lora_rank:
            with _saving(training):
                save_adapters(trained, training.out_dir, base=Path(frozen))
            return None, steps
        if trained.config.get_text_config()._attn_implementation != trainer.plain_attention:
            trained.set_attn_implementation(trainer.plain_attention)
        return trained.eval(), steps

    def _order(self, rows: Sequence[Row], plan: TrainingPlan) -> list[int]:
        """Which rows are trained on, step by step."""
        return row_order(len(rows), num_places=plan.steps * self._settings.batch_size, seed=plan.seed)

    def build(
        self,
        training: Training,
        model: Any,
        codec: Codec,
        rows: Sequence[Row],
        order: Sequence[int],
        *,
        workers: WorkerGradients | None = None,
    ) -> MicroBatchTrainer:
        """TRL's trainer, ready to train on `rows[i] for i in order`, `batch_size` to a step, and on nothing else."""
        settings = self._settings
        lengths = [len(row.input_ids) for row in rows]
        plain_attention = model.config.get_text_config()._attn_implementation
        prepared = prepare(model, settings, compute=self._compute, longest=max(lengths), seed=training.plan.seed)
        if frozen_folder(training.start, settings) != training.start.path:
            load_adapters(prepared.model, Path(training.start.path))
        processes = len(self._workers) + 1 if workers is not None else 1  # of those that each input is for
        rank, size = (self._ranks.rank, self._ranks.size) if self._ranks is not None else (0, 1)
        notes = list(prepared.notes)
        batches = plan_batches(
            lengths,
            order,
            batch_size=settings.batch_size,
            max_tokens=self._micro_batch_tokens(training.start.path, longest=max(lengths)),
            padded=prepared.why_padded is not None,
            at_least=2 if settings.noise_scale else 1,
            multiple_of=processes * size,
        )
        own = batches.share(rank, size)
        if batches.per_step == 1:
            notes.append("no gradient noise scale: a training step is one forward pass (set training.noise_scale=true)")
        collate = collator_of(prepared)
        trainer = MicroBatchTrainer(
            compute=torch.float32 if settings.lora_rank else self._compute,
            batches=batches,
            loss_tokens=[sum(rows[i].num_loss_tokens for rows_of in step for i in rows_of) for step in batches.steps],
            notes=tuple(notes),
            plain_attention=plain_attention,
            in_pieces=prepared.in_pieces,
            model=prepared.model,
            workers=workers,
            ranks=self._ranks,
            args=self._arguments(training.plan, training.out_dir, processes, len(own) // len(batches.steps)),
            data_collator=collate if workers is None else collate_first(collate),
            train_dataset=as_dataset(rows, own),
            processing_class=codec.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)  # it would print every log line
        check_prepared(trainer.train_dataset, rows, own)
        return trainer

    def _training_job(self, start: ModelRef, rows: Sequence[Row], plan: TrainingPlan) -> TrainingJob:
        return TrainingJob(
            path=frozen_folder(start, self._settings),
            settings=self._settings,
            compute=self._compute,
            longest=max(len(row.input_ids) for row in rows),
            seed=plan.seed,
            threads=self._threads,
            trust_remote_code=self._trust,
        )

    def _with_adapters(self, folder: Path) -> Any:
        """The model that adapters have made, as whoever generates with it loads it."""
        return load_model(str(folder), dtype=self._compute, trust_remote_code=self._trust).to(self._device).eval()

    def _micro_batch_tokens(self, path: str, *, longest: int) -> int:
        """Of the settings; a run has fitted them, so that "auto" stands only in those of other programs."""
        tokens = self._settings.micro_batch_tokens
        if not isinstance(tokens, str):
            return tokens
        shape = shape_of(path, trust_remote_code=self._trust)
        return usual_tokens(shape, self._machine, longest=longest, lora_rank=self._settings.lora_rank)

    def _arguments(self, plan: TrainingPlan, out_dir: Path, processes: int, micro_batches: int) -> SFTConfig:
        """`micro_batches` of a step are of this process and of its workers."""
        settings = self._settings
        arguments = SFTConfig(
            output_dir=str(out_dir),
            max_steps=plan.steps,
            per_device_train_batch_size=processes,  # an element of the data set is a micro-batch
            gradient_accumulation_steps=micro_batches // processes,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=SCHEDULES[settings.schedule],
            warmup_steps=min(settings.warmup_steps, plan.steps // 2),
            weight_decay=settings.weight_decay,
            adam_beta2=settings.adam_beta2,
            max_grad_norm=settings.max_grad_norm,
            optim="adamw_torch_fused",
            seed=plan.seed % 2**32,
            data_seed=plan.seed % 2**32,
            bf16=False,  # no autocast: the model itself is bfloat16 where it computes in it (masters.py)
            use_cpu=self._device.type == "cpu",
            # The rows of all steps are arranged already; TRL must not cut, drop, pack, shuffle or checkpoint.
            max_length=None,
            packing=False,
            shuffle_dataset=False,
            train_sampling_strategy="sequential",
            completion_only_loss=False,
            gradient_checkpointing=False,
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
        if self._device.type == "cuda":
            arguments._n_gpu = 1  # transformers would share a training out among all GPUs that are visible
        return arguments

    def _mean_loss(self, model: Any, encoded: Sequence[tuple[list[int], list[int]]]) -> float | None:
        """Mean loss per loss token (nats), or None without rows."""
        if not encoded:
            return None
        prompts = [(labels.count(IGNORED), ids) for ids, labels in encoded]
        logprobs = completion_logprobs(model, [(ids[:n], ids[n:]) for n, ids in prompts], device=self._device)
        losses = [-value for row in logprobs for value in row]
        return sum(losses) / len(losses)

    def _probe(self, model: Any, codec: Codec, probe: Sequence[ProbeRow]) -> list[tuple[float, ...]]:
        rows = [(codec.encode_prompt(row.prompt), codec.encode_completion(row.prompt, row.completion)) for row in probe]
        return completion_logprobs(model, rows, device=self._device)


@contextmanager
def _saving(training: Training) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"cannot save the model of iteration {training.plan.iteration} in {training.out_dir}: {error}; free some "
            "space and run the same command again; the samples are kept and the training is redone"
        ) from error


class _Steps(TrainerCallback):
    """Turns TRL's log lines into StepMetrics, and stops at a loss that is not finite."""

    def __init__(self, on_step: Callable[[StepMetrics], None], began: float, trainer: MicroBatchTrainer) -> None:
        self._on_step, self._began = on_step, began
        self._trainer: MicroBatchTrainer | None = trainer
        self.notes = trainer.notes
        self.done = self.tokens = 0
        self.noise: list[NoiseEstimate] = []
        self.first_loss: float | None = None
        self.last_loss: float | None = None

    def let_go(self) -> None:
        """Refer to the trainer no longer, so that its memory can be freed."""
        self._trainer = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        assert self._trainer is not None, "the training has not ended"
        loss, grad_norm = float(logs["loss"]), float(logs.get("grad_norm", math.nan))
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise TrainingError(
                f"the loss of step {state.global_step} is {loss} (gradient norm {grad_norm}); lower "
                "training.learning_rate or training.max_grad_norm and run the same command again"
            )
        self.done = int(state.global_step)
        self.tokens = sum(self._trainer.batches.tokens[: self.done])
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.last_loss = loss
        noise = self._trainer.noise
        if noise is not None:
            self.noise.append(noise)
        self._on_step(
            StepMetrics(
                step=self.done,
                loss=loss,
                learning_rate=float(logs.get("learning_rate", 0.0)),
                grad_norm=grad_norm,
                seconds=round(time.monotonic() - self._began, 3),
                tokens=self.tokens,
                noise=(noise.squared_norm, noise.trace) if noise else None,
                peak_bytes=self._trainer.peak_bytes,
            )
        )
