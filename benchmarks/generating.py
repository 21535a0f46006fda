"""Benchmarks A, B and C: how fast completions are generated, and whether they are correct."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import flops
from benchmarks.data import FORMAT, Prompts, few_shot_prompts, read_problems
from benchmarks.endless import without_end_token
from benchmarks.outputs import compare
from benchmarks.record import OURS, Record, Row, speed
from benchmarks.session import Options, Rival, Session, in_turn, measured, session
from selftaught.config.loading import flat_values, load_config
from selftaught.methods.plan import spread_over_classes
from selftaught.models.tokens import Codec
from selftaught.prompts.rendering import prompt_text, render_prompt
from selftaught.records.seeds import generator
from selftaught.tasks import load_task

GENERATE_BATCH = 32

RIVALS = (
    Rival(name=OURS, module="ours"),
    Rival(name="vllm-bfloat16", module="vllm_offline", dtype="bfloat16", needs_vllm=True),
    Rival(name="vllm-float32", module="vllm_offline", dtype="float32", needs_vllm=True),
    Rival(name="generate-bfloat16", module="generate", dtype="bfloat16", is_slow=True),
    Rival(name="generate-float32", module="generate", dtype="float32", is_slow=True),
    Rival(name="continuous-batching", module="continuous_batching", is_slow=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    prompts: Prompts
    max_new_tokens: int
    stop: tuple[str, ...]
    is_endless: bool
    """The end token is off: every completion has max_new_tokens."""
    settings: Mapping[str, Any]
    """Of selftaught, before --set."""


def fixed(options: Options) -> Workload:
    """A: six few-shot examples, exactly 64 new tokens."""
    prompts = few_shot_prompts(read_problems(options.data_dir(), "train"), options.n)
    return Workload(prompts=prompts, max_new_tokens=64, stop=(), is_endless=True, settings={})


def natural(options: Options) -> Workload:
    """B: six few-shot examples, up to 128 new tokens, ended by the stop string or the end token."""
    prompts = few_shot_prompts(read_problems(options.data_dir(), "train"), options.n)
    return Workload(prompts=prompts, max_new_tokens=128, stop=FORMAT.stop, is_endless=False, settings={})


def arithmetic(options: Options, *, is_mixed: bool = False) -> Workload:
    """C: the shipped task with the shipped settings; the same number of problems of every length.

    They are in the order of the task, shortest first, so that batches of neighbours end together; or mixed.
    """
    config = load_config("arithmetic")
    task = load_task(config.task)
    problems = list(spread_over_classes([p for p in task.train if p.class_name != "1"], options.n))
    if is_mixed:
        generator("benchmark").shuffle(problems)
    warm_up = task.dev[: 2 * GENERATE_BATCH]
    fmt = task.prompt_format
    return Workload(
        prompts=Prompts(
            texts=tuple(prompt_text(render_prompt(fmt, p, hint=False)) for p in problems),
            warm_up=tuple(prompt_text(render_prompt(fmt, p, hint=False)) for p in warm_up),
        ),
        max_new_tokens=config.sampling.max_new_tokens,
        stop=fmt.stop,
        is_endless=False,
        settings={
            key: value
            for key, value in flat_values(config).items()
            if key.startswith(("compute.", "engine.")) and key != "compute.device"
        },
    )


def run(name: str, options: Options, workload_of: Callable[[Options], Workload], log: Callable[[str], None]) -> Record:
    workload = workload_of(options)
    with session(options, log) as here:
        codec = Codec(here.model_dir)
        prompts = [codec.encode_prompt(text) for text in workload.prompts.texts]
        model = without_end_token(here.model_dir, here.folder / "endless") if workload.is_endless else here.model_dir
        base = here.job(
            what="generate",
            model=model,
            settings={**workload.settings, **options.settings},
            warm_up=workload.prompts.warm_up,
            max_new_tokens=workload.max_new_tokens,
            stop=workload.stop,
            ignore_end=workload.is_endless,
            batch_size=GENERATE_BATCH,
            longest_prompt=max(map(len, prompts)),
            max_num_seqs=128,
            kv_cache_bytes=2 << 30,
        )
        completions: dict[str, list[dict[str, Any]]] = {}

        def job_of(rival: Rival) -> dict[str, Any]:
            n = min(options.n, options.slow_n) if rival.is_slow else options.n
            # vLLM ignores the end token by a setting of its own, and wants a tokenizer that fits the model.
            own = {"model": here.model_dir} if rival.needs_vllm else {}
            return {**base, **own, "n": n, "prompts": workload.prompts.texts[:n]}

        def time_one(rival: Rival, repeat: int, result: dict[str, Any]) -> Row:
            completions[rival.name] = result["completions"]
            return _row(here, workload, rival, repeat, result, prompts)

        rows = in_turn(here, RIVALS, time_one, job_of, log)
        texts = workload.prompts.texts[: min(options.check, options.n)]
        outputs = compare(here, {**base, "n": len(texts), "prompts": texts}, completions, log) if texts else {}
        return here.record(
            rows,
            log,
            benchmark=name,
            n=options.n,
            flop_formula=flops.GENERATION_FORMULA,
            arguments={
                "model": options.model.rpartition("/")[2],
                "max_new_tokens": workload.max_new_tokens,
                "stop": workload.stop,
                "shared_prefix_tokens": flops.shared_prefix(prompts),
                "prompt_tokens": sum(map(len, prompts)),
                "settings": dict(options.settings),
            },
            outputs=outputs,
        )


def _row(
    here: Session,
    workload: Workload,
    rival: Rival,
    repeat: int,
    result: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
) -> Row:
    counts = [completion["tokens"] for completion in result["completions"]]
    run_prompts = prompts[: len(counts)]
    flop = flops.generation_flops(
        here.shape,
        shared_prefix=flops.shared_prefix(run_prompts),
        prompt_tokens=[len(ids) for ids in run_prompts],
        generated_tokens=counts,
    )
    expected = workload.max_new_tokens
    short = sum(count != expected for count in counts) if workload.is_endless else 0
    more = {name: result[name] for name in ("settings", "warm_up_s", "versions") if name in result}
    row = Row(
        rival=rival.name,
        repeat=repeat,
        n=len(counts),
        more=more,
        **measured(result),
        **speed(tokens=sum(counts), seconds=result["seconds"], load_s=result["load_s"], flop=flop),
    )
    return replace(row, wrong=f"{short} of {len(counts)} completions do not have {expected} tokens") if short else row
