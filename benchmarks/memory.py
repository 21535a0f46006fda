"""How near the forecast of memory comes to what a training and a generation really take at their peak.

python -m benchmarks.memory [--model FOLDER …] [--json FILE] [--only TEXT]

Every case is a process of its own: a few steps of a real training, or one chunk of completions, on random tokens.
Measured is anonymous memory, in RAM and in swap, of the process and its children, read every few milliseconds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from selftaught.engines.local.settings import PREFILL_TOKENS
from selftaught.machine.devices import NumberType
from selftaught.machine.memory import used_memory_bytes
from selftaught.models.forecast import Forecast, SamplingWork, TrainingWork, forecast_sampling, forecast_training
from selftaught.models.shape import Shape, shape_of
from selftaught.models.weights import resolve_model

INTERVAL_S = 0.003
TOLERANCE = 0.15

LLAMA = {"model_type": "llama", "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "deep and narrow": {
        **LLAMA,
        "vocab_size": 8_000,
        "hidden_size": 320,
        "num_hidden_layers": 40,
        "intermediate_size": 800,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
    },
    "large vocabulary": {
        **LLAMA,
        "vocab_size": 100_000,
        "hidden_size": 384,
        "num_hidden_layers": 8,
        "intermediate_size": 1024,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    },
    "wide layers": {
        "model_type": "qwen3",
        "tie_word_embeddings": False,
        "vocab_size": 16_000,
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "intermediate_size": 8192,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
    "one key head": {
        "model_type": "qwen2",
        "tie_word_embeddings": True,
        "vocab_size": 30_000,
        "hidden_size": 768,
        "num_hidden_layers": 10,
        "intermediate_size": 2048,
        "num_attention_heads": 12,
        "num_key_value_heads": 1,
    },
    "many heads": {
        **LLAMA,
        "vocab_size": 50_000,
        "hidden_size": 640,
        "num_hidden_layers": 14,
        "intermediate_size": 1_700,
        "num_attention_heads": 20,
        "num_key_value_heads": 10,
    },
    "few layers": {
        "model_type": "qwen2",
        "tie_word_embeddings": False,
        "vocab_size": 40_000,
        "hidden_size": 1_024,
        "num_hidden_layers": 4,
        "intermediate_size": 3_000,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
    "large heads": {
        "model_type": "qwen3",
        "tie_word_embeddings": True,
        "vocab_size": 70_000,
        "hidden_size": 512,
        "num_hidden_layers": 18,
        "intermediate_size": 1_400,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
    },
}
"""Shapes with odd ratios. The first four helped to make the forecast; the last three were measured once, when it was
done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One process: what it trains or generates."""

    name: str
    model: str
    dtype: NumberType = "float32"
    rows: int = 4
    """Of a step, all of the same length; or completions."""
    prompt: int = 100
    """Tokens of a row that carry no loss."""
    new: int = 100
    """Tokens that carry loss, or are generated."""
    micro_batch_tokens: int = 2048
    lora_rank: int | None = None
    recomputes: bool = False
    in_pieces: bool = False
    samples: bool = False
    """Generate instead of training."""

    @property
    def longest(self) -> int:
        return self.prompt + self.new

    def forecast(self, shape: Shape) -> Forecast:
        if self.samples:
            return forecast_sampling(
                shape,
                SamplingWork(
                    dtype=self.dtype,
                    device="cpu",
                    slots=self.rows,
                    shared=0,
                    length=self.longest,
                    cache_bytes=4 << 30,
                    prefill_tokens=PREFILL_TOKENS["cpu"],
                    is_greedy=False,
                    packs=True,
                ),
            )
        in_one = max(1, min(self.rows, self.micro_batch_tokens // self.longest))
        number = -(-self.rows // in_one)
        tokens = -(-self.rows // number) * self.longest
        work = TrainingWork(
            dtype=self.dtype,
            device="cpu",
            tokens=tokens,
            loss_tokens=tokens * self.new // self.longest,
            longest=self.longest,
            accumulates=number > 1,
            lora_rank=self.lora_rank,
            recomputes=self.recomputes,
            in_pieces=self.in_pieces,
        )
        return forecast_training(shape, work)


def cases_of(name: str, model: str) -> Iterator[Case]:
    """What is measured of every model."""
    case = Case(name=name, model=model)
    yield case
    yield replace(case, dtype="bfloat16", micro_batch_tokens=400)
    yield replace(case, dtype="bfloat16", recomputes=True, in_pieces=True)
    yield replace(case, dtype="bfloat16", rows=1, prompt=300, new=400)
    yield replace(case, dtype="bfloat16", lora_rank=16)
    yield replace(case, dtype="bfloat16", samples=True, rows=16, new=32)


def make_model(name: str, folder: Path) -> None:
    """A model with random weights and the shipped model's tokenizer; its folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    values = dict(SHAPES[name])
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("builtin:adder").path)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = CONFIG_MAPPING[values.pop("model_type")](**values, **special, max_position_embeddings=4096)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(slots=True)
class Measured:
    peak: int = 0
    by_phase: dict[str, int] = field(default_factory=dict)


def measure(case: Case) -> Measured:
    """Run a case in a process of its own. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", json.dumps(asdict(case))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    phases = ["loading"]
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: phases.extend(line.strip() for line in process.stdout or ()), daemon=True)
    reader.start()
    measured = Measured()
    children: list[psutil.Process] = []
    looked = 0.0
    while process.poll() is None:
        if time.monotonic() - looked > 0.2:
            children, looked = _children(process.pid), time.monotonic()
        used = used_memory_bytes([process.pid, *(child.pid for child in children)]) or 0
        measured.peak = max(measured.peak, used)
        measured.by_phase[phases[-1]] = max(measured.by_phase.get(phases[-1], 0), used)
        time.sleep(INTERVAL_S)
    reader.join()
    process.stdout.close()
    if process.returncode:
        raise RuntimeError(f"{case} ended with {process.returncode}")
    return measured


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def run_case(case: Case) -> None:
    """In the process that is measured; prints the phases as they begin."""
    from selftaught.machine.quiet import quieten_libraries

    quieten_libraries()
    if case.samples:
        _generate(case)
    else:
        _train(case)


def _train(case: Case) -> None:
    from selftaught.records.samples import ModelRef
    from selftaught.records.training import StepMetrics, Training, TrainingExample, TrainingPlan
    from selftaught.training.sft import SftTrainer
    from selftaught.training.sft_config import SftConfig

    def example(number: int) -> TrainingExample:
        ids = tuple(20 if k % 2 else 10 + (number + k) % 9 for k in range(case.new - 1))
        return TrainingExample(
            problem_id=str(number),
            prompt=_prompt(case),
            completion="",
            completion_ids=ids,
            source="rationale",
            iteration=1,
        )

    settings = SftConfig(
        learning_rate=1e-5,
        batch_size=case.rows,
        micro_batch_tokens=case.micro_batch_tokens,
        lora_rank=case.lora_rank,
        activation_checkpointing=case.recomputes,
        logits_in_pieces=case.in_pieces,
    )

    def on_step(metrics: StepMetrics) -> None:
        print(f"after step {metrics.step}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        training = Training(
            examples=[example(i) for i in range(case.rows)],
            start=ModelRef(path=case.model),
            out_dir=Path(folder),
            plan=TrainingPlan(iteration=1, steps=2, seed=1, examples_sha256="x"),
        )
        SftTrainer(settings, dtype=case.dtype, device="cpu", threads=1).fine_tune(training, on_step)


def _generate(case: Case) -> None:
    from selftaught.engines.local.engine import LocalSettings
    from selftaught.engines.local.multi_process import open_local
    from selftaught.records.samples import ModelRef, Request, SamplingParams

    settings = LocalSettings(dtype=case.dtype, device="cpu", threads=1, slots=case.rows, compiled=True)
    engine = open_local(ModelRef(path=case.model), settings)
    print("sampling", flush=True)
    requests = [Request(prompt=_prompt(case), seed=i) for i in range(case.rows)]
    for _ in engine.sample(requests, SamplingParams(temperature=1.0, max_new_tokens=case.new)):
        pass
    engine.close()


def _prompt(case: Case) -> str:
    """A text of about so many tokens: digits are a token each in most vocabularies."""
    from selftaught.models.tokens import Codec

    codec = Codec(case.model)
    text = "7" * case.prompt
    while len(codec.encode_prompt(text)) < case.prompt:
        text += "7" * (case.prompt - len(codec.encode_prompt(text)))
    return text


def compare(cases: Sequence[Case], file: Path | None) -> None:
    """Print a row for each case as it is measured, and write all so far to the file."""
    rows: list[dict[str, Any]] = []
    for case in cases:
        measured = measure(case)
        forecast = case.forecast(shape_of(case.model))
        row = {
            **asdict(case),
            "model": Path(case.model).name,
            "measured": measured.peak,
            "forecast": forecast.bytes,
            "parts": {part.name: part.bytes for part in forecast.parts},
            "by_phase": measured.by_phase,
        }
        print(line_of(case, measured.peak, forecast.bytes), flush=True)
        rows.append(row)
        if file:
            file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def line_of(case: Case, measured: int, forecast: int) -> str:
    numbers = (f"{measured / 2**20:,.0f}", f"{forecast / 2**20:,.0f}", f"{100 * (forecast / measured - 1):+.1f} %")
    return f"| {described(case)} | {' | '.join(numbers)} |"


def described(case: Case) -> str:
    work = "sampling" if case.samples else f"LoRA {case.lora_rank}" if case.lora_rank else "all weights"
    more = ", layers run again" if case.recomputes else ""
    more += ", logits in pieces" if case.in_pieces else ""
    return f"{case.name} | {work}, {case.dtype}{more} | {case.rows} x ({case.prompt} + {case.new})"


def main() -> None:
    parser = argparse.ArgumentParser(description="The forecast of memory against measured peaks.")
    parser.add_argument("--model", action="append", default=[], help="a folder in Hugging Face format")
    parser.add_argument("--only", default="", help="the cases whose line holds these texts, separated by semicolons")
    parser.add_argument("--json", help="write the measurements there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_case(Case(**json.loads(options.child)))
        return
    with tempfile.TemporaryDirectory() as folder:
        models = {"builtin:adder": resolve_model("builtin:adder").path}
        models |= {Path(path).name: path for path in options.model}
        models |= {name: str(Path(folder) / name.replace(" ", "-")) for name in SHAPES}
        cases = [case for name, model in models.items() for case in cases_of(name, model)]
        cases = [case for case in cases if all(word in described(case) for word in options.only.split(";"))]
        for name in SHAPES.keys() & {case.name for case in cases}:
            make_model(name, Path(models[name]))
        print("| model | work | rows x (prompt + new) | measured, MiB | forecast, MiB | difference |")
        print("|---|---|---|---|---|---|")
        compare(cases, Path(options.json) if options.json else None)


if __name__ == "__main__":
    main()
