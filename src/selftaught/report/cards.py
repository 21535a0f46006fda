"""The cards of an export: README.md of the model and of the data set, with the front matter that the hub reads.

Functions of a run folder and of what was exported. Nothing of this machine is in them: no paths, addresses or names.
Text from data or from a model is escaped, or stands in a block that it cannot end.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selftaught.config.loading import known_keys
from selftaught.config.public import public_name, public_values, repeating_command
from selftaught.methods.hints import AGAIN
from selftaught.models.licence import Licence
from selftaught.models.places import BUILTIN
from selftaught.records.measurements import Measurement
from selftaught.report.cells import DASH, false_positives, md, rate, table
from selftaught.report.columns import COLUMNS
from selftaught.report.run_tables import Run, checks_table, dev_table, left_out_table, result_table, work_table
from selftaught.runs.parquet import Part
from selftaught.tasks import TASKS, DataSet
from selftaught.tasks.outside import short_name

CONFIG_FILE = "run.toml"
NOT_STATED = "not stated"

LIMITS = """- The verifier looks at the final answer. A rationale that reaches it by wrong steps counts as correct, and
  may have been trained on; where the task has a step check, the tables count such false positives.
- A run's result is the iteration that is best on dev, so that its accuracy on dev is a little too high. Test was
  measured once and decided nothing.
- Accuracy is that of greedy completions, with the prompts of this run, on this task alone. Nothing else was measured:
  no other task, no safety, no bias, no other language.
- What the base model learned before, its mistakes included, is still in it."""

NUMBERS = """Iteration 0 is the base model. Rates are counts over n, with the share and its 95 % Wilson interval.
Rationales and second attempts, which hints are for: correct of sampled. False positives: correct answers with wrong
reasoning, of the correct ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export holds, beside what the run folder says."""

    iteration: int | None
    """The iteration whose model is exported; None if there is none, because no iteration beat the base model."""
    licence: Licence
    """Of the base model."""
    parts: tuple[Part, ...]
    """Of the data set."""
    prompt: str
    """One prompt of dev, as the model read it, and what it wrote."""
    completion: str


def model_card(run: Run, exported: Exported) -> str:
    """README.md of the model."""
    n = exported.iteration
    measured = run.measured.get(("test", n)) if n else None
    base, task = _base_name(run), _task_name(run)
    parts = [
        _front_matter_of_model(run, exported, measured),
        f"# {md(run.name)}",
        f"{md(base)}, taught to reason on the task {md(task)} from questions and answers alone, with the method "
        f"{md(run.setting('method'))} of [selftaught](https://arxiv.org/abs/2203.14465) (STaR, the Self-Taught "
        f"Reasoner). This is iteration {n}, " + ("the best on dev." if _is_best(run, n) else "not the run's result."),
    ]
    if measured is not None:
        parts.append(f"Accuracy on test: {rate(measured)}, base model {rate(run.measured.get(('test', 0)))}.")
    parts += ["## Use", _use(run, exported), *_how_it_was_made(run, exported)]
    return "\n\n".join(parts) + "\n"


def data_card(run: Run, exported: Exported) -> str:
    """README.md of the data set."""
    best = exported.iteration
    counts = [[f"`{p.config}`", f"`{p.split}`", str(p.rows), _what(run, p, best)] for p in exported.parts]
    parts = [
        _front_matter_of_data(run, exported),
        f"# {md(run.name)}: samples and training sets",
        f"Everything that a run of selftaught sampled on the task {md(_task_name(run))} with {md(_base_name(run))} and "
        f"the method {md(run.setting('method'))}, kept or not, and what each iteration was trained on.",
        "```python\nfrom datasets import load_dataset\n\n"
        'samples = load_dataset("FOLDER_OR_REPO", "samples", split="rationale")\n```',
        "## Tables",
        table(["configuration", "split", "rows", ""], counts),
        "## Columns",
        *(
            f"`{name}`:\n\n{table(['column', ''], [[f'`{k}`', v] for k, v in columns.items()])}"
            for name, columns in COLUMNS
        ),
        *([] if best is not None else ["No iteration beat the base model on dev, so that no model is handed on."]),
        *_how_it_was_made(run, exported),
    ]
    return "\n\n".join(parts) + "\n"


def _how_it_was_made(run: Run, exported: Exported) -> Iterator[str]:
    """The sections that both cards have."""
    about, best = run.about, exported.iteration
    yield "## How it was made"
    yield _settings(run)
    yield "## Data and splits"
    yield _data(run, exported)
    yield "## Counts and accuracy"
    yield NUMBERS
    if run.summaries:
        yield from (work_table(run), left_out_table(run))
    if run.dev:
        yield from ("### Dev", dev_table(run))
    if checks := checks_table(run):
        yield from ("### Checks of the reasoning", checks)
    yield "### Test"
    if run.result:
        yield result_table(run, run.result["best_iteration"])
    else:
        yield "Not measured: the run has not finished."
    if best:
        yield f"False positives of iteration {best} on dev: {_false_positives_on_dev(run, best)}."
    yield "## Limits"
    yield LIMITS
    warnings = [f"- Iteration {s.iteration}: {md(text)}." for s in run.summaries for text in s.warnings]
    yield from ("The run's own warnings:", "\n".join(warnings)) if warnings else ()
    yield "## Licences"
    yield "\n".join(_licences(run, exported.licence))
    yield "## Versions"
    yield table(["", ""], [[md(name), md(version)] for name, version in about.get("versions", {}).items()])
    yield "## To repeat it"
    yield _repeating(run)


def _front_matter_of_model(run: Run, exported: Exported, measured: Measurement | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data, licence = _data_set(run), exported.licence
    task = _task_name(run)
    results = measured and [
        EvalResult(
            task_type="text-generation",
            dataset_type=(data and data.hub_id) or task,
            dataset_name=task,
            dataset_split="test",
            metric_type="accuracy",
            metric_value=round(measured.accuracy, 4),
            metric_name=f"accuracy, greedy, n = {measured.n}, 95 % interval "
            f"{measured.interval[0]:.3f} to {measured.interval[1]:.3f}",
        )
    ]
    card = ModelCardData(
        base_model=_hub_id(run),
        datasets=[data.hub_id] if data and data.hub_id else None,
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=_tags(run),
        model_name=run.name if results else None,
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml()}\n---"


def _front_matter_of_data(run: Run, exported: Exported) -> str:
    from huggingface_hub import DatasetCardData

    data = _data_set(run)
    card = DatasetCardData(
        license=data.licence if data else None,
        source_datasets=[data.hub_id] if data and data.hub_id else None,
        task_categories=["text-generation"],
        pretty_name=f"{run.name}: samples and training sets",
        tags=_tags(run),
        configs=list(_configs(exported.parts, exported.iteration)),
    )
    return f"---\n{card.to_yaml()}\n---"


def _configs(parts: Sequence[Part], best: int | None) -> Iterator[dict[str, Any]]:
    """The configurations of the data set; the first one is the default: the training set of the exported model."""
    trained = [p for p in parts if p.config == "examples" and p.split == f"iteration_{best or 0:03d}"]
    if trained:
        yield {
            "config_name": "training_set",
            "data_files": [{"split": "train", "path": trained[0].file}],
            "default": True,
        }
    for name in dict.fromkeys(p.config for p in parts):
        files = [{"split": p.split, "path": p.file} for p in parts if p.config == name]
        is_default = not trained and name == "samples"
        yield {"config_name": name, "data_files": files, **({"default": True} if is_default else {})}


def _what(run: Run, part: Part, best: int | None) -> str:
    if part.config == "examples":
        is_of_model = part.split == f"iteration_{best or 0:03d}"
        return "what an iteration was trained on" + (
            "; also as `training_set`: the exported model's" if is_of_model else ""
        )
    if part.config == "problems":
        return "the problems of the split, with reference answers"
    return {
        "rationale": "sampled without a hint",
        "rationalization": f"failed problems, sampled {AGAIN[run.shows]}",
    }.get(part.split, f"greedy, to measure on {part.split}")


def _use(run: Run, exported: Exported) -> str:
    is_chat = run.about["resolved"].get("chat") is not None
    special = ", add_special_tokens=False" if is_chat else ""
    form = "The prompts of this run are turns, rendered by the model's chat template; this is one:" if is_chat else ""
    form = form or "The prompts of this run are texts that the model continues; this is one:"
    code = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "FOLDER_OR_REPO"',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")',
        f'inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False{special})',
        f"ids = model.generate(**inputs, do_sample=False, max_new_tokens={run.setting('sampling.max_new_tokens')})",
        "print(tokenizer.decode(ids[0, inputs['input_ids'].shape[1]:], skip_special_tokens=True))",
    ]
    return "\n\n".join(
        [
            form,
            _block(exported.prompt),
            "What the model answered when it was measured:",
            _block(exported.completion),
            "```python\n" + "\n".join(code) + "\n```",
            "The run cut completions where the task says that another question begins, usually at an empty line.",
        ]
    )


def _settings(run: Run) -> str:
    """The method and the settings that differ from the defaults; the file beside the card has all of them."""
    defaults = {key: field.default for key, field in known_keys().items() if not field.is_required()}
    shown = public_values(run.about["config"])
    rows = [
        [f"`{key}`", md(value)]
        for key, value in shown.items()
        if value is not None and _plain(value) != _plain(defaults.get(key)) and key not in ("method", "model.path")
    ]
    resolved = run.about["resolved"]
    facts = [["method", md(run.setting("method"))], ["base model", md(_base_name(run))]]
    facts += [[f"{key} (resolved)", md(resolved[key])] for key in ("device", "dtype", "workers") if key in resolved]
    return f"{table(['', ''], [*facts, *rows])}\n\nAll settings: `{CONFIG_FILE}`."


def _data(run: Run, exported: Exported) -> str:
    counts = {p.split: p.rows for p in exported.parts if p.config == "problems"}
    rows = [[name, str(rows)] for name, rows in counts.items()]
    data, source = _data_set(run), run.about["config"].get("task.data")
    where = f"{data.hub_id} on the Hugging Face hub" if data and data.hub_id else _task_name(run)
    read = f", read from {md(public_name(source))}" if isinstance(source, str) else ""
    return (
        f"Problems of {md(where)}{read}. Splits share no question, and few-shot examples are in no split; dev chose "
        f"the iteration, test was measured once.\n\n{table(['split', 'problems'], rows)}"
    )


def _licences(run: Run, licence: Licence) -> Iterator[str]:
    stated = f"{licence.id or NOT_STATED}" + (f" ({licence.name})" if licence.name else "")
    where = f", by {licence.stated_in}" if licence.stated_in else ", in its folder; ask its authors"
    files = f"; its files: {', '.join(md(path.name) for path in licence.files)}" if licence.files else ""
    yield f"- Base model {md(_base_name(run))}: {md(stated)}{where}{files}."
    data = _data_set(run)
    if data is None:
        yield f"- Data of the task {md(_task_name(run))}: {NOT_STATED}."
    else:
        yield f"- Data of the task {md(_task_name(run))}: {md(data.licence)}, by {data.stated_in}."
    yield "- Completions are the model's text; the licence of the base model may bind their use."


def _repeating(run: Run) -> str:
    own = run.about.get("from_python", [])
    line = repeating_command(run.about["config"], file=CONFIG_FILE, run_dir=f"runs/{run.name}")
    if own or line is None:
        return (
            f"The run was started from Python with its own {md(' and '.join(own) or 'task')}: call that program again."
        )
    private = " Give `URL`, the address of your server." if "engine.url=URL" in line else ""
    paths = [key for key, value in public_values(run.about["config"]).items() if value != run.about["config"][key]]
    named = (
        f" {', '.join(f'`{key}`' for key in paths)} in it: a last name, of which you give the path." if paths else ""
    )
    return (
        f"{_block(line)}\n\nWith the engine `local`, on the same kind of machine and with the same versions, it ends "
        f"with the same bytes.{private}{named}"
    )


def _false_positives_on_dev(run: Run, iteration: int) -> str:
    measured = run.measured.get(("dev", iteration))
    return DASH if measured is None else false_positives(measured)


def _is_best(run: Run, iteration: int | None) -> bool:
    return run.result is not None and run.result["best_iteration"] == iteration


def _base_name(run: Run) -> str:
    return public_name(run.setting("model.path"))


def _hub_id(run: Run) -> str | None:
    """The base model's id on the hub; None for a folder and for a shipped model, which the hub does not have."""
    name = run.setting("model.path")
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and name not in BUILTIN else None


def _task_name(run: Run) -> str:
    return short_name(public_name(run.setting("task.name")))


def _data_set(run: Run) -> DataSet | None:
    """The public data set of the run's problems; None if the rows are from elsewhere on the hub."""
    source = TASKS.get(run.setting("task.name"))
    if source is None or source.data_set is None:
        return None
    rows = run.about["config"].get("task.data")
    is_other = isinstance(rows, str) and rows != source.data_set.hub_id and public_name(rows) == rows
    return None if is_other else source.data_set


def _tags(run: Run) -> list[str]:
    return ["selftaught", "star", "reasoning", *({run.setting("method")} - {"star"})]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _block(text: str) -> str:
    """Any text as a block of Markdown that it cannot end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    return f"{fence}text\n{shown}\n{fence}"
