"""The command `selftaught predict`, which app.py lists with the others."""

import json
from typing import Annotated

import typer

from selftaught.cli.output import note
from selftaught.machine.paths import given_name, given_path


def predict_command(
    target: Annotated[
        str,
        typer.Argument(
            help="A run folder (its result), a model folder, a hub id, or builtin:adder.", metavar="RUN_OR_MODEL"
        ),
    ],
    file: Annotated[str, typer.Argument(help="A file of questions (jsonl, csv, parquet).", metavar="FILE")],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Where to write: .jsonl, .csv or .parquet; default: FILE's name with .predictions.jsonl. An output of "
            "the same command is carried on.",
            metavar="OUT",
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task whose prompts to use; default: the run's, else own.")] = None,
    question_key: Annotated[
        str | None, typer.Option(help="Key of the question; default: the run's, else guessed.")
    ] = None,
    num_shots: Annotated[
        int | None, typer.Option(min=0, help="Few-shot examples in the prompt; default: the run's, else the setting's.")
    ] = None,
    num_samples: Annotated[
        int,
        typer.Option(
            "--samples", "--num-samples", min=1, help="Completions per question, K; with more than 1 the majority wins."
        ),
    ] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Default: 0 (greedy) for one sample, 0.7 for several.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Default: the run's, else the setting's.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="section.key=value, over the run's or task's settings; repeatable.", metavar="KEY=VALUE"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")] = False,
) -> None:
    """Answer a file of new questions: a prediction and its rationale for every row; a killed command carries on."""
    from selftaught.commands.evaluate import AskedSampling
    from selftaught.commands.predict import predict, predicted_json, predicted_text
    from selftaught.config.loading import parse_overrides

    asked = AskedSampling(
        task_name=task,
        num_shots=num_shots,
        num_samples=num_samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        overrides=parse_overrides(overrides or ()),
    )
    predicted = predict(
        given_name(target, "RUN_OR_MODEL"),
        given_name(file, "FILE"),
        asked,
        out=None if out is None else given_path(out, "--out"),
        question_key=question_key,
        note=note,
    )
    print(json.dumps(predicted_json(predicted)) if as_json else predicted_text(predicted))
