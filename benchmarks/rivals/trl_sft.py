"""Plain TRL: SFTTrainer on text, with its defaults or tuned by its own settings; nothing subclassed."""

import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.child import Clock, Job, serve


class Times(TrainerCallback):  # type: ignore[misc]  # from a library without types
    """When each optimizer step ended, on how many tokens so far, with which loss."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            at = time.perf_counter()
            self.steps.append({"at": at, "tokens": float(logs["num_tokens"]), "loss": float(logs["loss"])})


def run(job: Job) -> dict[str, Any]:
    """job: model, device, threads, dtype, pairs, steps, seed, trl (settings of SFTConfig beside the job's own)."""
    torch.set_num_threads(job["threads"])
    out_dir = Path(job["folder"]) / "model"
    times = Times()
    with Clock() as clock:
        fine_tune(job["model"], job["pairs"], out_dir, job, callbacks=[times])
    dtype = "bfloat16 (autocast over float32 weights)" if job["dtype"] == "bfloat16" else "float32"
    return {**clock.record(), "steps": times.steps, "dtype": dtype, "settings": job["trl"], "out": str(out_dir)}


def fine_tune(model: str, pairs: list[tuple[str, str]], out_dir: Path, job: Job, callbacks: list[Any]) -> None:
    """Train on (prompt, completion) pairs and save the model, as TRL's documentation shows."""
    rows = Dataset.from_list([{"prompt": prompt, "completion": completion} for prompt, completion in pairs])
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(out_dir),
            max_steps=job["steps"],
            learning_rate=job["learning_rate"],
            seed=job["seed"],
            use_cpu=job["device"] == "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            bf16=job["dtype"] == "bfloat16",
            **job["trl"],
        ),
        train_dataset=rows,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(str(out_dir))


if __name__ == "__main__":
    serve(run)
