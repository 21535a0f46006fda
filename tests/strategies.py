"""Hypothesis strategies for the project's records."""

from typing import Any

from hypothesis import strategies as st

from builders import sample
from selftaught.methods.table import METHODS
from selftaught.records.problems import (
    CheckResult,
    Problem,
    PromptFormat,
    Verdict,
)
from selftaught.records.samples import Sample, sample_key

IDS = ("a", "b", "c", "d", "e")

setting_texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=40)
"""Text that a config may hold: without control characters (a tab could be the start of a LaTeX command)."""

texts = st.text(max_size=40)
"""Any text without surrogates; no tokenizer can produce those."""

awkward_texts = st.one_of(
    texts,
    st.sampled_from(
        ["", "\n", "\r\n", "\u2028", "\x00", '"', "\\n", "{", "{answer}", "</scratch>", "日本", "🧮", "e\u0301"]
    ),
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def problems(draw: st.DrawFn, /, **fixed: Any) -> Problem:
    values = {
        "id": draw(texts),
        "question": draw(awkward_texts),
        "answer": draw(awkward_texts),
        "class_name": draw(st.sampled_from(["1", "2", "3"])),
        "rationale": draw(awkward_texts),
    }
    return Problem(**{**values, **fixed})


@st.composite
def prompt_formats(draw: st.DrawFn) -> PromptFormat:
    """A prompt format with arbitrary text between its fields."""
    word = st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=5)
    return PromptFormat(
        question=draw(word) + "{question}" + draw(word) + "{hint}" + draw(word),
        hint=draw(word) + "{answer}" + draw(word),
        completion="{rationale}" + draw(word) + "{answer}",
        answer_only="{answer}" + draw(word),
        separator=draw(st.sampled_from(["\n\n", "\n---\n"])),
    )


check_results = st.builds(
    CheckResult,
    passed=st.booleans(),
    share=st.floats(min_value=0, max_value=1),
    detail=awkward_texts,
    at=st.none() | st.tuples(st.integers(0, 99), st.integers(1, 99)),
)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Any sample record."""
    verdict = draw(st.sampled_from(list(Verdict)))
    return Sample(
        problem_id=draw(awkward_texts),
        iteration=draw(st.integers(0, 999)),
        kind=draw(st.sampled_from(["rationale", "rationalization", "evaluation"])),
        index=draw(st.integers(0, 10_000)),
        seed=draw(st.integers(0, 2**63 - 1)),
        prompt_sha256=draw(st.text("0123456789abcdef", min_size=16, max_size=16)),
        weights_sha256=draw(st.none() | st.text("0123456789abcdef", min_size=16, max_size=16)),
        checkpoint=draw(st.none() | st.integers(0, 999)),
        completion=draw(awkward_texts),
        token_ids=draw(st.none() | st.lists(st.integers(0, 300_000), max_size=5).map(tuple)),
        num_tokens=draw(st.integers(0, 10_000)),
        finish_reason=draw(st.sampled_from(["end", "stop", "length"])),
        logprob=draw(st.none() | finite),
        prediction=None if verdict is Verdict.UNPARSEABLE else draw(awkward_texts),
        verdict=verdict,
        checks=draw(st.dictionaries(awkward_texts, check_results, max_size=2)),
    )


@st.composite
def judged_samples(draw: st.DrawFn) -> Sample:
    """A sample as a sampling stage makes it; few problems and few texts make duplicates common."""
    return sample(
        draw(st.sampled_from(IDS)),
        iteration=draw(st.integers(1, 2)),
        kind=draw(st.sampled_from(["rationale", "rationalization"])),
        index=draw(st.integers(0, 3)),
        completion=draw(st.sampled_from(["x y", "X  y", "x y ", "z", "w", ""])),
        finish_reason=draw(st.sampled_from(["end", "end", "stop", "length"])),
        verdict=draw(st.sampled_from([Verdict.CORRECT, Verdict.CORRECT, Verdict.INCORRECT, Verdict.UNPARSEABLE])),
        checks={"steps": draw(check_results)},
    )


sample_sets = st.lists(judged_samples(), max_size=30, unique_by=sample_key)
"""Samples for `select`: any samples with different keys."""

knobs = st.fixed_dictionaries(
    {
        "require": st.sampled_from([(), ("answer",), ("steps",), ("answer", "steps")]),
        "require_hinted": st.sampled_from([("answer",), ("answer", "steps")]),
        "unique_by": st.sampled_from(["none", "text", "normalized-text"]),
        "max_per_problem": st.none() | st.integers(1, 4),
        "validation_share": st.sampled_from([0.0, 0.05, 0.3, 0.6, 1.0]),
        "seed": st.integers(0, 2**32),
    }
)
"""The fields of a `Rule`."""

rates = st.floats(0, 1, exclude_max=True)
plain_words = st.text("abcdefghijklmnopqrstuvwxyz-/é日", min_size=1, max_size=10)


absent, auto = st.none(), st.just("auto")


@st.composite
def engine_settings(draw: st.DrawFn) -> dict[str, Any]:
    """The section [engine], with the settings of one engine."""
    name = draw(st.sampled_from(["local", "openai", "vllm"]))
    if name == "local":
        return {
            "engine.name": name,
            "engine.slots": draw(auto | st.integers(1, 64)),
            "engine.cache_mib": draw(auto | st.integers(1, 10**6)),
            "engine.compiled": draw(st.sampled_from(["auto", "on", "off"])),
        }
    values = {
        "engine.name": name,
        "engine.concurrency": draw(auto | st.integers(1, 4096)),
        "engine.timeout_s": draw(st.floats(0, 86400, exclude_min=True)),
        "engine.max_retries": draw(st.integers(0, 100)),
    }
    if name == "openai":
        host = draw(st.sampled_from(["localhost:8000", "127.0.0.1", "[::1]:80", "models.example/v1/"]))
        values["engine.url"] = draw(st.sampled_from(["http://", "https://"])) + host
        values["engine.model"] = draw(absent | plain_words)
        values["engine.api_key_env"] = draw(absent | st.from_regex(r"[A-Z_][A-Z0-9_]{0,20}", fullmatch=True))
    else:
        values["engine.vllm_python"] = draw(absent | plain_words)
        values["engine.vllm_args"] = draw(st.sampled_from([None, "--max-model-len 2048", "--dtype 'float32' -x"]))
        values["engine.start_timeout_s"] = draw(st.floats(0, 86400, exclude_min=True))
    return values


@st.composite
def training_settings(draw: st.DrawFn) -> dict[str, Any]:
    """The section [training], with the settings of one trainer."""
    name = draw(st.sampled_from(["sft", "none"]))
    values = {
        "training.name": name,
        "training.window": draw(st.sampled_from(["iteration", "all"])),
        "training.human_solutions": draw(st.booleans()),
        "training.target": draw(st.sampled_from(["rationale", "answer"])),
        "training.start_from": draw(st.sampled_from(["base", "previous"])),
        "training.sft_first": draw(st.booleans()),
        "training.num_rehearsed": draw(st.integers(0, 100)),
        "training.steps_first_iteration": draw(st.integers(1, 10**5)),
        "training.steps_growth": draw(st.floats(1, 10)),
        "training.max_epochs": draw(st.floats(0, 1000, exclude_min=True)),
        "training.batch_size": 2 * draw(st.integers(1, 32)),  # two workers share a step evenly
        "training.validation_share": draw(rates),
        "training.keep_weights": draw(st.sampled_from(["best-and-last", "all"])),
    }
    if name == "none":
        return values
    lora_rank = draw(absent | st.integers(1, 64))
    return values | {
        "training.micro_batch_tokens": draw(auto | st.integers(1, 10**5)),
        "training.activation_checkpointing": draw(auto | st.booleans()),
        "training.logits_in_pieces": draw(auto | st.booleans()),
        "training.noise_scale": draw(st.booleans()),
        "training.learning_rate": draw(st.floats(0, 1, exclude_min=True)),
        "training.schedule": draw(st.sampled_from(["constant", "linear", "cosine"])),
        "training.warmup_steps": draw(st.integers(0, 1000)),
        "training.weight_decay": draw(st.floats(0, 1)),
        "training.adam_beta2": draw(st.floats(0.5, 1, exclude_max=True)),
        "training.max_grad_norm": draw(st.floats(0, 100, exclude_min=True)),
        "training.lora_rank": lora_rank,
        "training.lora_alpha": draw(absent | st.integers(1, 64)) if lora_rank else None,
        "training.frozen_4bit": draw(st.booleans()) if lora_rank else False,
    }


@st.composite
def settings_values(draw: st.DrawFn) -> dict[str, Any]:
    """Every setting of a config by `section.key`, within its range and free of contradictions."""
    num_samples = draw(st.integers(1, 64))
    return {
        "method": draw(st.sampled_from(sorted(METHODS))),
        "seed": draw(st.integers(0, 2**63)),
        "model.path": draw(plain_words),
        "model.dtype": draw(st.sampled_from(["auto", "float32", "bfloat16"])),
        "model.trust_remote_code": draw(st.booleans()),
        "model.prompt_format": draw(st.sampled_from(["auto", "plain", "chat"])),
        "model.system": draw(st.sampled_from([None, "", "Be brief."])),
        "model.thinking": draw(st.sampled_from([None, False, True])),
        "model.template_date": draw(st.sampled_from([None, "2026-07-26"])),
        "task.name": draw(plain_words),
        "task.variant": draw(absent | plain_words),
        "task.data_seed": draw(st.integers(0, 2**63)),
        "task.choose": draw(st.sampled_from(["random", "random-per-class", "unsolved-first"])),
        **{
            f"task.{key}": draw(st.integers(1, 10**6) | st.just("all"))
            for key in ("problems_per_iteration", "dev_problems", "test_problems")
        },
        **{f"task.{key}": draw(absent | plain_words) for key in ("data", "dev_data", "test_data")},
        **{f"task.{key}": draw(absent | st.integers(1, 10**6)) for key in ("dev_rows", "test_rows")},
        "task.prompt_file": draw(absent | plain_words),
        **{f"task.{name}_key": draw(setting_texts) for name in ("question", "answer")},
        "task.answer_is": draw(st.sampled_from(["auto", "label", "text", "index0", "index1", "boxed"])),
        **{
            f"task.{name}_key": draw(setting_texts | st.just(False)) for name in ("choices", "id", "class", "rationale")
        },
        **{
            f"task.{key}": draw(absent | plain_words)
            for key in ("verifier", "verifier_function", "answer_marker", "answer_pattern", "instruction")
        },
        "task.extraction": draw(st.sampled_from(["strict", "lenient"])),
        "sampling.num_samples": num_samples,
        "sampling.temperature": draw(st.floats(1e-3 if num_samples > 1 else 0, 5)),
        "sampling.top_p": draw(st.floats(0, 1, exclude_min=True)),
        "sampling.top_k": draw(absent | st.integers(1, 1000)),
        "sampling.max_new_tokens": draw(st.integers(1, 10**5)),
        "sampling.num_shots": draw(st.integers(0, 100)),
        "sampling.num_shots_fine_tuned": draw(absent | st.integers(0, 100)),
        "rationalization.hints": draw(st.sampled_from(["none", "failed"])),
        "rationalization.shows": draw(st.sampled_from(["answer", "shuffled", "text"])),
        "rationalization.temperature": draw(st.floats(0, 5)),
        **{
            f"selection.{key}": draw(st.sampled_from([(), ("answer",), ("steps",), ("answer", "steps")]))
            for key in ("require", "require_hinted")
        },
        "selection.unique_by": draw(st.sampled_from(["none", "text", "normalized-text", "equations"])),
        "selection.max_per_problem": draw(absent | st.integers(1, 100)),
        "selection.keep": "accepted",
        **draw(training_settings()),
        "loop.max_iterations": draw(st.integers(1, 1000)),
        "loop.patience": draw(st.integers(1, 100)),
        "loop.test_last": draw(st.booleans()),
        "pass_at_k.samples": draw(st.integers(0, 100)),
        "pass_at_k.temperature": draw(st.floats(0, 5, exclude_min=True)),
        "pass_at_k.every": draw(st.integers(1, 100)),
        "pass_at_k.problems": draw(st.integers(1, 10**6) | st.just("all")),
        "tracking.log_every_steps": draw(st.integers(1, 1000)),
        "tracking.backends": tuple(draw(st.lists(st.sampled_from(["wandb", "trackio", "tensorboard"]), unique=True))),
        "tracking.project": draw(plain_words),
        "tracking.entity": draw(absent | plain_words),
        "tracking.id": draw(absent | plain_words),
        "tracking.table_rows": draw(st.integers(0, 100)),
        "tracking.artifacts": tuple(draw(st.lists(st.sampled_from(["checkpoints", "training_sets"]), unique=True))),
        "tracking.machine_info": draw(st.booleans()),
        "compute.device": draw(st.sampled_from(["auto", "cpu", "cuda"])),
        "compute.threads": draw(auto | st.integers(1, 256)),
        "compute.workers": draw(st.integers(1, 2)),
        "compute.chunk_completions": draw(auto | st.integers(1, 10**4)),
        "cluster.address": None,
        "cluster.workers": draw(st.none() | st.just(0)),
        "cluster.gpus_per_worker": draw(st.sampled_from([0.25, 0.5, 1.0, 2.0, 64.0])),
        "cluster.train_workers": 1,  # more would contradict some of the settings above
        "cluster.chunk_timeout": draw(st.integers(1, 10**5)),
        "cluster.max_losses": draw(st.integers(0, 100)),
        "cluster.any_machine": draw(st.booleans()),
        **draw(engine_settings()),
    }
