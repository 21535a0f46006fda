"""What this machine offers: resolved once at a run's first start, kept in run.json and used again at every resume.

Batches, and with them the last bits of every sum, depend on these values; measuring them again on resume could change
a sample.
"""

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt

from selftaught.config.settings import RunConfig
from selftaught.engines.engine import Engine
from selftaught.machine.workers import Worker, Workers
from selftaught.records.errors import ConfigError
from selftaught.records.samples import ModelRef
from selftaught.training.trainer import Trainer

SMALL_MODEL_BYTES = 64 << 20
MUCH_FASTER = 1.5
MUCH_SLOWER = 4
"""Factor of time behind which no further measurement can change the decision."""
UNKNOWN_FREE_BYTES = 3 << 30
CONCURRENCY = {"openai": 16, "vllm": 128}
"""Requests to a server at a time: few enough for a server that others use too, and as many as keep a vLLM busy."""
VERSIONS_OF = (
    "selftaught",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "numba",
    "llvmlite",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The settings of [compute] and `model.dtype` with every `auto` replaced."""

    device: str
    dtype: str
    threads: PositiveInt
    workers: PositiveInt
    slots: PositiveInt
    cache_bytes: PositiveInt
    prefill_tokens: PositiveInt
    chunk_completions: PositiveInt
    compiled: bool
    """Whether the engine gets the compiled operations (engines/cpu)."""


def resolve(config: RunConfig, model: ModelRef) -> Resolved:
    """Resolve every `auto` of the config. Raises ConfigError for a device or number type that is not there."""
    import torch

    has_gpu = torch.cuda.is_available()
    device = config.compute.device if config.compute.device != "auto" else ("cuda" if has_gpu else "cpu")
    if device == "cuda" and torch.cuda.device_count() > 1:
        raise ConfigError("several GPUs are visible, and a run uses one; choose it with CUDA_VISIBLE_DEVICES=0")
    if device == "cuda" and not has_gpu:
        raise ConfigError("compute.device = 'cuda', but torch sees no GPU here; use --set compute.device=cpu")
    workers = config.compute.workers if device == "cpu" else 1
    threads = _or(config.compute.threads, max(1, _available_cpus() // workers))
    dtype = config.model.dtype
    if dtype == "auto":
        dtype = "bfloat16" if _is_bfloat16_fast(device, threads, model) else "float32"
    is_local = config.engine.name == "local"
    slots = _or(
        config.compute.slots if is_local else config.engine.concurrency,
        CONCURRENCY.get(config.engine.name, 256 if device == "cuda" else 128),
    )
    all_slots = slots * (workers if is_local else 1)
    chunk = _or(config.compute.chunk_completions, 4 * all_slots)
    if chunk < 4 * all_slots:
        raise ConfigError(
            f"compute.chunk_completions = {chunk} is less than four times the {all_slots} completions generated at a "
            "time (slots times workers); raise it, or leave it out"
        )
    cache_mib = _or(config.compute.cache_mib, max(1, _free_bytes(device) // 3 // workers // (64 << 20)) * 64)
    return Resolved(
        device=device,
        dtype=dtype,
        threads=threads,
        workers=workers,
        slots=slots,
        cache_bytes=cache_mib << 20,
        prefill_tokens=8192 if device == "cuda" else 2048,
        chunk_completions=chunk,
        compiled=config.compute.compiled == "auto" and device == "cpu" and has_compiler(),
    )


def _or(value: int | Literal["auto"], otherwise: int) -> int:
    return otherwise if isinstance(value, str) else value


def has_compiler() -> bool:
    """Whether numba, which compiles engines/cpu, is installed: for a new Python it comes later than torch does."""
    return find_spec("numba") is not None


def _is_bfloat16_fast(device: str, threads: int, model: ModelRef) -> bool:
    """Whether the model's matrix products are much faster in bfloat16; measured on a CPU, where some have units for it.

    A model of a few megabytes is bound by other things than its products, and stays in float32.
    """
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if sum(path.stat().st_size for path in Path(model.path).glob("*.safetensors")) <= SMALL_MODEL_BYTES:
        return False
    torch.set_num_threads(threads)
    operands = {
        name: (torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype))
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }

    def seconds_of(name: str) -> float:
        a, b = operands[name]
        began = time.perf_counter()
        a @ b
        return time.perf_counter() - began

    return bfloat16_is_faster(seconds_of)


def bfloat16_is_faster(seconds_of: Callable[[str], float]) -> bool:
    """Whether a product in bfloat16 takes much less than one in float32, by the best of ten of each.

    Without units for it a product takes a hundred times as long, so the second one can be the last.
    """
    single = min(seconds_of("float32") for _ in range(10))
    half = math.inf
    for attempt in range(10):
        half = min(half, seconds_of("bfloat16"))
        if attempt and half > MUCH_SLOWER * single:
            break
    return single > MUCH_FASTER * half


def _free_bytes(device: str) -> int:
    import torch

    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    names = ("SC_AVPHYS_PAGES", "SC_PAGE_SIZE")
    if all(name in os.sysconf_names for name in names):
        pages, size = map(os.sysconf, names)
        return pages * size
    return UNKNOWN_FREE_BYTES


def _available_cpus() -> int:
    """CPUs that this process may use; sched_getaffinity is Linux only."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(config: RunConfig) -> dict[str, str]:
    """Of Python and of the libraries that decide the numbers of a run."""
    numbers = {"python": platform.python_version()}
    if config.engine.name == "vllm":
        from selftaught.engines.server.vllm import vllm_version

        numbers["vllm"] = vllm_version(config.engine.vllm_python or "")
    for name in VERSIONS_OF:
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers


def check_engine(config: RunConfig) -> None:
    """Raise ConfigError for an engine that cannot be opened here, before anything is written."""
    name = config.engine.api_key_env
    if name and not _key(config):
        raise ConfigError(
            f"engine.api_key_env names the environment variable {name}, which is not set here; export it, or remove "
            "the setting"
        )
    if config.engine.name == "vllm":
        from selftaught.engines.server.vllm import vllm_version

        vllm_version(config.engine.vllm_python or "")


def check_trainer(config: RunConfig) -> None:
    """Raise ConfigError for a training that needs an extra which is not installed, before anything is sampled."""
    rank = config.training.lora_rank
    if rank and find_spec("peft") is None:
        raise ConfigError(
            f"training.lora_rank = {rank} needs the package peft; install selftaught[lora], or "
            "leave it out to train all weights"
        )


def check_model_and_tokenizer(config: RunConfig, model: ModelRef, workers: Sequence[Worker]) -> None:
    """Raise for a model that no engine or trainer could open, without reading its weights."""
    for worker in workers:
        worker.load("selftaught.engines.local.multi_process")  # at the same time as this process imports it
    from selftaught.models.loading import check_model
    from selftaught.models.tokens import Codec

    check_model(model.path, trust_remote_code=config.model.trust_remote_code)
    Codec(model.path, trust_remote_code=config.model.trust_remote_code)


def further_workers(resolved: Resolved) -> Workers:
    """The workers of a run beside this process, for `engine_opener` and `trainer_opener`; started when needed."""
    return Workers(resolved.workers - 1)


def engine_opener(
    config: RunConfig,
    resolved: Resolved,
    workers: Sequence[Worker],
    *,
    log_dir: Path | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Callable[[ModelRef], Engine]:
    """How to open the run's engine on a model; a server that the engine starts logs into `log_dir`.

    The engine calls `note` with what the user should know of how it works.
    """
    check_engine(config)
    if config.engine.name == "vllm":
        return _open_vllm(config, resolved, log_dir)
    return (
        _open_openai(config, resolved)
        if config.engine.name == "openai"
        else _open_local(config, resolved, workers, note)
    )


def _open_local(
    config: RunConfig, resolved: Resolved, workers: Sequence[Worker], note: Callable[[str], None]
) -> Callable[[ModelRef], Engine]:
    settings: dict[str, Any] = {
        "dtype": resolved.dtype,
        "device": resolved.device,
        "threads": resolved.threads,
        "slots": resolved.slots,
        "cache_bytes": resolved.cache_bytes,
        "prefill_tokens": resolved.prefill_tokens,
        "trust_remote_code": config.model.trust_remote_code,
    }

    if resolved.compiled and not has_compiler():
        raise ConfigError(
            "the run began with compiled operations, but numba is not installed here; install it (pip install numba), "
            'or start a new run with compute.compiled = "off"'
        )

    def open_engine(model: ModelRef) -> Engine:
        for worker in workers:
            worker.load("selftaught.engines.local.multi_process")  # at the same time as this process
        from selftaught.engines.local.multi_process import MultiProcessEngine, open_local

        if workers:
            return MultiProcessEngine(model, workers, settings, compiled=resolved.compiled, note=note)
        return open_local(model, settings, compiled=resolved.compiled, note=note)

    return open_engine


def _open_openai(config: RunConfig, resolved: Resolved) -> Callable[[ModelRef], Engine]:
    def open_engine(model: ModelRef) -> Engine:
        from selftaught.engines.server.openai import OpenAIEngine
        from selftaught.engines.server.transport import Server

        check_model_and_tokenizer(config, model, ())  # the trainer will load it
        engine = config.engine
        server = Server(
            url=engine.url or "", key=_key(config), timeout_s=engine.timeout_s, max_retries=engine.max_retries
        )
        return OpenAIEngine(
            model,
            server=server,
            served_name=engine.model or "",
            concurrency=resolved.slots,
            trust_remote_code=config.model.trust_remote_code,
        )

    return open_engine


def _open_vllm(config: RunConfig, resolved: Resolved, log_dir: Path | None) -> Callable[[ModelRef], Engine]:
    def open_engine(model: ModelRef) -> Engine:
        from selftaught.engines.server.vllm import VllmEngine, VllmSettings

        check_model_and_tokenizer(config, model, ())  # before the server starts, which takes minutes
        engine = config.engine
        settings = VllmSettings(
            python=engine.vllm_python or "",
            arguments=engine.vllm_args or "",
            dtype=resolved.dtype,
            device=resolved.device,
            threads=resolved.threads,
            concurrency=resolved.slots,
            start_timeout_s=engine.start_timeout_s,
            timeout_s=engine.timeout_s,
            max_retries=engine.max_retries,
            trust_remote_code=config.model.trust_remote_code,
        )
        return VllmEngine(model, settings, log=log_dir / f"vllm-{model.iteration:03d}.log" if log_dir else None)

    return open_engine


def _key(config: RunConfig) -> str:
    return os.environ.get(config.engine.api_key_env, "").strip() if config.engine.api_key_env else ""


def trainer_opener(config: RunConfig, resolved: Resolved, workers: Sequence[Worker]) -> Callable[[], Trainer]:
    """How to get the run's trainer; a run that trains nothing does not wait seconds for the import of its libraries."""

    def open_trainer() -> Trainer:
        for worker in workers:
            worker.load("selftaught.training.worker_gradients")  # at the same time as this process imports it
        from selftaught.training.sft import SftTrainer

        return SftTrainer(
            config.training,
            dtype=resolved.dtype,
            device=resolved.device,
            threads=resolved.threads,
            workers=workers,
            trust_remote_code=config.model.trust_remote_code,
        )

    return open_trainer
