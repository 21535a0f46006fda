"""Hand on what a run has made: its model and everything that it sampled, each with a card, in one new folder."""

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught.config.public import config_text
from selftaught.machine.command_lines import command
from selftaught.models.adapters import base_folder, is_adapter
from selftaught.models.forecast import BYTES
from selftaught.models.licence import Licence, licence_of
from selftaught.models.merged_folder import write_merged
from selftaught.models.weights import model_in_folder, tensor_shapes
from selftaught.records.errors import ConfigError, StoreError
from selftaught.records.measurements import Measurement
from selftaught.records.problems import Verdict
from selftaught.records.samples import Sample
from selftaught.report.cards import CONFIG_FILE, Exported, data_card, model_card
from selftaught.report.run_tables import Run, read_run
from selftaught.runs.lines import as_store_error, read_lines
from selftaught.runs.new_folder import check_new_folder, new_folder
from selftaught.runs.parquet import write_parts
from selftaught.runs.reading import StoredPrompts
from selftaught.runs.store import free_bytes

MODEL, DATASET, CARD = "model", "dataset", "README.md"
OF_THE_RUN = ("checkpoint.json", CARD)
"""Files of a checkpoint's folder that are none of the model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written."""

    model: Path | None
    """None if no iteration beat the base model on dev."""
    dataset: Path
    iteration: int | None
    rows: Mapping[str, int]
    """Rows of the data set by configuration."""
    test: Measurement | None
    """Of the exported model."""


def export(run_dir: Path, out: Path, *, iteration: int | None = None) -> Export:
    """Write OUT/model, a Hugging Face folder, and OUT/dataset, a data set in Parquet, each with its card.

    The model is the run's result, or that of an iteration. Raises ConfigError for a folder that is not empty and for an
    iteration without a model; StoreError for a folder that is not a run folder, a run without a result unless an
    iteration is asked for, and a full disk.
    """
    check_new_folder(out, "--to")
    run = read_run(run_dir)
    chosen = _chosen(run, run_dir, iteration)
    source = run_dir / "checkpoints" / f"{chosen:03d}" if chosen else None
    if source is not None:
        model_in_folder(source)
    _refuse_full_disk(run, run_dir, source, out)
    licence = licence_of(Path(run.about["model"]["path"]), named=run.setting("model.path"))
    with new_folder(out) as folder:
        dataset = folder / DATASET
        dataset.mkdir()
        parts = write_parts(run_dir, dataset)
        prompt, completion = _shown(run_dir, chosen or 0)
        exported = Exported(iteration=chosen, licence=licence, parts=tuple(parts), prompt=prompt, completion=completion)
        _write_texts(dataset, {CARD: data_card(run, exported), CONFIG_FILE: config_text(run.about["config"])})
        if source is not None:
            _write_model(run, source, folder / MODEL, licence)
            card = model_card(run, exported)
            _write_texts(folder / MODEL, {CARD: card, CONFIG_FILE: config_text(run.about["config"])})
    rows: dict[str, int] = {}
    for part in parts:
        rows[part.config] = rows.get(part.config, 0) + part.rows
    return Export(
        model=out / MODEL if source is not None else None,
        dataset=out / DATASET,
        iteration=chosen,
        rows=rows,
        test=run.measured.get(("test", chosen)) if chosen else None,
    )


def _chosen(run: Run, run_dir: Path, iteration: int | None) -> int | None:
    """The iteration whose model is exported; None if the run's result is its base model."""
    if iteration is None:
        if run.result is None:
            raise StoreError(
                f"{run_dir} has no result yet; finish it with `{command('run', '--resume', run_dir)}`, or choose a "
                "model with --iteration"
            )
        best: int = run.result["best_iteration"]
        return best or None
    known = [s.iteration for s in run.summaries]
    if iteration not in known:
        which = f"1 to {known[-1]}" if known else "none yet"
        raise ConfigError(f"--iteration {iteration}: {run_dir} has finished iterations {which}; give one of them")
    return iteration


def _write_model(run: Run, source: Path, out: Path, licence: Licence) -> None:
    """The model of a checkpoint as a folder that transformers and vLLM load; adapters are merged into their base."""
    if is_adapter(source):
        write_merged(
            source,
            out,
            dtype=run.about["resolved"]["dtype"],
            trust_remote_code=bool(run.about["config"].get("model.trust_remote_code")),
        )
    with as_store_error(out, "write"):
        if not is_adapter(source):
            out.mkdir()
            for path in sorted(source.iterdir()):
                if path.is_file() and path.name not in OF_THE_RUN:
                    shutil.copyfile(path, out / path.name)
        for path in licence.files:
            if not (out / path.name).exists():
                shutil.copyfile(path, out / path.name)
    for name in ("config.json", "tokenizer_config.json"):
        _without_paths(out / name)


def _without_paths(path: Path) -> None:
    """Take out of a model's small file where its base lay on this machine, as older versions of transformers say."""
    if not path.is_file():
        return
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kept = {
        k: v
        for k, v in values.items()
        if not (isinstance(v, str) and os.path.isabs(v) and k.endswith(("path", "file")))
    }
    if kept != values:
        _write_texts(path.parent, {path.name: json.dumps(kept, indent=2, ensure_ascii=False) + "\n"})


def _write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        with as_store_error(folder / name, "write"):
            (folder / name).write_text(text, encoding="utf-8")


def _shown(run_dir: Path, iteration: int) -> tuple[str, str]:
    """A prompt of dev with what the model answered: its first correct completion, else its first; empty texts if it was
    not measured."""
    first: Sample | None = None
    for sample in read_lines(Sample, run_dir / "samples" / f"{iteration:03d}-dev.jsonl"):
        first = first or sample
        if sample.verdict is Verdict.CORRECT:
            first = sample
            break
    if first is None:
        return "", ""
    return StoredPrompts(run_dir)[first.prompt_sha256].text, first.completion


def _refuse_full_disk(run: Run, run_dir: Path, source: Path | None, out: Path) -> None:
    """Raise StoreError if the model, with the data set's lines, would not fit beside each other."""
    paths = [
        *(source.iterdir() if source else ()),
        *(run_dir / "samples").glob("*"),
        *(run_dir / "examples").glob("*"),
    ]
    needed = sum(path.stat().st_size for path in paths if path.is_file())
    if source is not None and is_adapter(source):
        numbers = sum(math.prod(shape) for shape in tensor_shapes(base_folder(source)).values())
        needed += numbers * BYTES[run.about["resolved"]["dtype"]]
    parent = next(place for place in out.resolve().parents if place.is_dir())
    if (free := free_bytes(parent)) < needed:
        raise StoreError(
            f"the export needs up to {needed >> 20} MiB, {parent} has {free >> 20} MiB free; free some space, or give "
            "another --to"
        )
