"""The command line for its user: exit codes, one-line errors, JSON, and that no finished work is lost."""

import contextlib
import fcntl
import io
import json
import os
import pty
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import warnings
from pathlib import Path
from typing import TextIO
from unittest.mock import patch

import pytest

import held_runs
from builders import PATIENCE_S
from selftaught import __version__
from selftaught.cli.app import main
from selftaught.records.errors import one_line
from toy import folder_bytes

COMMANDS = [
    *(
        "run",
        "compare",
        "doctor",
        "eval",
        "show",
        "regrade",
        "report",
        "predict",
        "export",
        "score",
        "track",
        "view",
        "tasks",
        "tasks check",
        "init",
    )
]
SETTINGS = {
    "task.problems_per_iteration": 96,
    "task.dev_problems": 24,
    "task.test_problems": 24,
    "sampling.max_new_tokens": 64,
    "training.num_rehearsed": 10,
    "training.steps_first_iteration": 6,
    "training.batch_size": 8,
    "tracking.log_every_steps": 1,
    "compute.threads": 1,
    "engine.slots": 4,
    "compute.chunk_completions": 32,
}
"""Of a short run, with a chunk of samples every second or so."""
QUICK = {
    **SETTINGS,
    "compute.workers": 1,  # a second one would take time to start; tests/test_kill.py has two
    "task.problems_per_iteration": 24,
    "task.dev_problems": 10,
    "task.test_problems": 10,
    "loop.max_iterations": 1,
}


def selftaught(
    *arguments: str, cwd: Path | None = None, stdout: TextIO | None = None
) -> subprocess.CompletedProcess[str]:
    """The command without a process of its own, whose imports would cost seconds: its exit code and what it printed.

    An error that it does not turn into a line is raised.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd or "."),
        contextlib.redirect_stdout(stdout or out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", ["selftaught", *arguments]),
        patch.dict(os.environ),
        warnings.catch_warnings(),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out.getvalue(), err.getvalue())


def in_a_process(
    *arguments: str, cwd: Path | None = None, timeout: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it, for what only a process of its own shows."""
    command = [sys.executable, "-m", "selftaught", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, cwd=cwd)


def on_a_terminal(width: int, *arguments: str) -> tuple[int, str]:
    """The command with a terminal as its stdout: its exit code and what stands there."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    printed = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # the terminal's end, when all that write to it have closed it
            while piece := os.read(parent, 4096):
                printed.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    before = os.dup(1)
    os.dup2(child, 1)
    os.close(child)
    try:
        with open(1, "w", encoding="utf-8", closefd=False) as terminal:
            done = selftaught(*arguments, stdout=terminal)
    finally:
        os.dup2(before, 1)
        os.close(before)
        reader.join()
        os.close(parent)
    return done.returncode, printed.decode()


def settings(values: dict[str, object]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error that the user can fix."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("selftaught: ")]
    assert len(errors) == 1, done.stderr
    assert lines[-1] == errors[0]
    return errors[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made by the command."""
    run_dir = tmp_path_factory.mktemp("runs") / "quick"
    done = selftaught("run", "arithmetic", "--run-dir", str(run_dir), *settings(QUICK))
    assert done.returncode == 0, done.stderr
    (run_dir / "stdout.txt").write_text(done.stdout)
    (run_dir / "stderr.txt").write_text(done.stderr)
    return run_dir


def test_help_names_every_command() -> None:
    done = in_a_process("--help")
    assert done.returncode == 0
    assert all(command.split()[0] in done.stdout for command in COMMANDS)


def test_the_version_is_printed() -> None:
    done = selftaught("--version")
    assert (done.returncode, done.stdout) == (0, f"selftaught {__version__}\n")


def test_help_waits_for_no_heavy_library() -> None:
    """Each of them takes a second or more to import."""
    script = """
import sys
from selftaught import __version__
from selftaught.cli.app import main
sys.argv = ["selftaught", "--help"]
try:
    main()
finally:
    heavy = {"torch", "transformers", "trl", "datasets", "numba", "matplotlib", "wandb", "sympy"}
    print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = selftaught(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_a_run_prints_a_table_a_plot_and_the_next_command(finished: Path) -> None:
    out, err = (finished / "stdout.txt").read_text(), (finished / "stderr.txt").read_text()
    assert "iter" in out
    assert "accuracy.svg" in out
    assert "next:  selftaught show" in out
    assert "iteration 1/1  rationale" in err
    assert "iteration 1/1  train" in err
    assert "the first rationale in full" in err
    for name in ("report.md", "accuracy.svg", "accuracy.png", "result.json"):
        assert (finished / name).stat().st_size > 0


def test_the_contract_of_iterations_and_result_holds(finished: Path) -> None:
    (line,) = (finished / "iterations.jsonl").read_text().splitlines()
    summary = json.loads(line)
    for stage in ("rationale", "rationalization"):
        assert {"samples", "correct", "incorrect", "unparseable", "truncated", "false_positive"} <= set(summary[stage])
    assert {"steps", "tokens", "seconds", "first_loss", "last_loss", "validation_loss"} <= set(summary["train"])
    assert {"n", "correct", "accuracy", "interval", "by_class"} <= set(summary["dev"])
    assert {"iteration", "examples", "left_out", "seconds", "tokens_per_s"} <= set(summary)
    result = json.loads((finished / "result.json").read_text())
    assert {"best_iteration", "checkpoint", "base", "test"} <= set(result)
    for name in ("base", "test"):
        assert result[name]["n"] == 10
        assert {"n", "correct", "accuracy", "interval", "by_class"} <= set(result[name])


def test_the_same_command_again_carries_on_and_finds_nothing_to_do(finished: Path) -> None:
    before = {p: p.read_bytes() for p in (finished / "samples").iterdir()}
    done = selftaught("run", "arithmetic", "--run-dir", str(finished), *settings(QUICK))
    assert done.returncode == 0, done.stderr
    assert {p: p.read_bytes() for p in (finished / "samples").iterdir()} == before


def test_a_folder_of_another_config_is_refused_with_the_setting_that_differs(finished: Path) -> None:
    done = selftaught("run", "arithmetic", "--run-dir", str(finished), *settings({**QUICK, "loop.patience": 9}))
    assert "loop.patience = 3, now 9" in refused(done)


def test_a_finished_run_that_is_carried_on_imports_neither_torch_nor_trl(finished: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "selftaught", "run", "--resume", str(finished)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "selftaught.loop" in imported
    assert not imported & {"torch", "transformers", "trl"}


def test_resume_takes_no_other_argument(finished: Path) -> None:
    assert "leave out" in refused(selftaught("run", "arithmetic", "--resume", str(finished)))


def test_eval_prints_one_json_object_with_n_and_interval(finished: Path) -> None:
    done = selftaught("eval", str(finished), "--split", "dev", "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["n"] == 10
    assert measured["interval"][0] <= measured["accuracy"] <= measured["interval"][1]
    assert set(measured["by_class"]) == {"1", "2", "3", "4", "5"}


def test_eval_of_a_checkpoint_takes_the_settings_of_its_run(finished: Path) -> None:
    done = selftaught("eval", str(finished / "checkpoints" / "001"), "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    (line,) = (finished / "iterations.jsonl").read_text().splitlines()
    assert (measured["iteration"], measured["num_shots"]) == (1, 0)
    assert measured["correct"] == json.loads(line)["dev"]["correct"]


def test_eval_with_several_samples_gives_pass_at_k_and_majority(finished: Path) -> None:
    options = {"task": "arithmetic", "split": "dev", "num-samples": "4", "max-new-tokens": "64"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    small = settings({"task.dev_problems": 20, "compute.threads": 1, "compute.workers": 1})
    done = selftaught("eval", "builtin:adder", *arguments, *small, "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert (measured["num_samples"], set(measured["pass_at_k"])) == (4, {"1", "2", "4"})
    assert measured["pass_at_k"]["1"] <= measured["pass_at_k"]["4"]
    assert 0 <= measured["majority_at_k"] <= 1


def test_predict_answers_as_the_run_measures_and_says_which_rows_the_run_was_trained_on(
    finished: Path, tmp_path: Path
) -> None:
    stored = [json.loads(line) for line in (finished / "problems.jsonl").read_text().splitlines()]
    measured = [json.loads(line) for line in (finished / "samples" / "001-dev.jsonl").read_text().splitlines()]
    dev = {problem["id"]: problem for problem in stored if problem["split"] == "dev"}
    train = [problem for problem in stored if problem["split"] == "train"][:2]
    rows = [{"question": problem["question"]} for problem in (*(dev[s["problem_id"]] for s in measured), *train)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = selftaught("predict", str(finished / "checkpoints" / "001"), "q.jsonl", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["known"] == 2
    lines = [json.loads(line) for line in (tmp_path / "q.predictions.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines[:10]] == [sample["prediction"] for sample in measured]


def test_show_filters_and_prints_json_lines(finished: Path) -> None:
    done = selftaught("show", str(finished), "--kind", "rationale", "--verdict", "incorrect", "--limit", "5", "--json")
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert 1 <= len(printed) <= 5
    assert {(s["kind"], s["verdict"]) for s in printed} == {("rationale", "incorrect")}
    assert all(s["prediction"] != s["answer"] for s in printed)
    assert "expected one of" in refused(selftaught("show", str(finished), "--verdict", "wrong"))


def test_regrade_lists_exactly_the_verdicts_that_changed_and_changes_no_file(finished: Path, tmp_path: Path) -> None:
    assert selftaught("regrade", str(finished)).stdout == ""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    path = copy / "samples" / "001-rationale.jsonl"
    lines = path.read_text().splitlines()
    first = json.loads(lines[0])
    first["verdict"] = "incorrect" if first["verdict"] == "correct" else "correct"
    path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    before = path.read_bytes()
    (changed,) = [json.loads(line) for line in selftaught("regrade", str(copy), "--json").stdout.splitlines()]
    assert (changed["problem_id"], changed["was"]) == (first["problem_id"], first["verdict"])
    assert path.read_bytes() == before


def test_report_overlays_several_runs(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "other")
    done = selftaught("report", str(finished), str(tmp_path / "other"), "--out-dir", str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "both" / "report.md").exists()


def test_a_run_is_not_compared_with_itself(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(finished)
    for other in (finished, finished / "samples" / "..", tmp_path / "link"):
        done = selftaught("report", str(finished), str(other), "--out-dir", str(tmp_path / "both"))
        assert f"{finished} and {other} are one run; give each run once" in refused(done)
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("what", ["report.md", "samples", "checkpoints/001", "samples/none", "logs/."])
def test_a_path_inside_of_a_run_is_named_as_a_part_of_that_run(finished: Path, what: str) -> None:
    for arguments in (["show"], ["regrade"], ["report"], ["run", "--resume"]):
        done = selftaught(*arguments, str(finished / what))
        assert f"something of the run {finished}: give that folder" in refused(done)


def test_what_holds_runs_or_is_a_file_is_no_run(finished: Path, tmp_path: Path) -> None:
    assert f"of them: give one, such as {finished}" in refused(selftaught("show", str(finished.parent)))
    (tmp_path / "notes.txt").write_text("")
    assert "but a file; give the folder of a run" in refused(selftaught("show", str(tmp_path / "notes.txt")))
    assert "is a run folder; carry the run on with `selftaught run --resume" in refused(
        selftaught("run", str(finished))
    )


def test_an_unfinished_run_names_only_models_that_it_has(finished: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(finished, tmp_path / "r"))
    (run_dir / "result.json").unlink()
    assert f"or give one of its models, such as {run_dir}/checkpoints/001" in refused(selftaught("eval", str(run_dir)))
    shutil.rmtree(run_dir / "checkpoints" / "001")
    line = refused(selftaught("eval", str(run_dir)))
    assert "checkpoints" not in line
    assert "it has no model of its own yet" in line


def test_tasks_lists_and_checks() -> None:
    listed = [json.loads(line) for line in selftaught("tasks", "--json").stdout.splitlines()]
    assert {"arithmetic", "gsm8k", "commonsenseqa", "own", "reasoning-gym"} == {task["name"] for task in listed}
    facts = json.loads(selftaught("tasks", "check", "arithmetic", "--json").stdout)
    assert facts["test"]["by_class"] == {"1": 12, "2": 120, "3": 120, "4": 120, "5": 120}
    assert "unknown task" in refused(selftaught("tasks", "check", "arithmetics"))


def test_a_dry_run_shows_config_prompts_loss_tokens_and_cost_and_writes_nothing(tmp_path: Path) -> None:
    done = selftaught("run", "arithmetic", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'method = "star"' in done.stdout
    assert done.stdout.count("# rationale prompt of problem") == 3
    assert done.stdout.count("# rationalization prompt of problem") == 3
    assert "tokens carry loss" in done.stdout
    assert "optimizer steps" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "give a task or a config file"),
        (["run", "arithmetik"], "neither a task with a shipped config"),
        (["run", "arithmetic", "--set", "sampling.shot=3"], "did you mean 'sampling.num_shots'"),
        (["run", "arithmetic", "--set", "loop.patience=no"], "loop.patience = 'no'"),
        (["run", "arithmetic", "--set", "method=starr"], "did you mean 'star'"),
        (["run", "arithmetic", "--set", "training.target=thoughts"], "training.target = 'thoughts'"),
        (["run", "arithmetic", "--set", "model.path=./nowhere"], "no such folder"),
        (["run", "arithmetic", "--set", "model.path=builtin:multiplier"], "the shipped models are"),
        (["run", "arithmetic", "--set", "task.variant=roman"], "arithmetic knows paper, restated"),
        (["run", "arithmetic", "--set", "training.num_rehearsed=9999"], "has 221 few-shot examples"),
        (["run", "arithmetic", "--dry-run", "--set", "sampling.num_shots=500"], "has 221 few-shot examples"),
        (["run", "arithmetic", "--set", "task.choose=all"], "task.choose = 'all': expected"),
        (["run", "arithmetic", "--set", "seed=" + "9" * 5_000], "seed = "),
        (["run", "arithmetic-fewshot"], "no such folder"),
        (["eval", "foo/ba r", "--task", "arithmetic"], "no such folder"),
        (["eval", "x" * 5_000, "--task", "arithmetic"], "no such folder"),
        (["run", "--resume", "nowhere"], "is not a run folder"),
        (["eval", "builtin:adder"], "--task is needed"),
        (["eval", "builtin:adder", "--task", "arithmetic", "--split", "tset"], "expected one of"),
        (["show", "nowhere"], "is not a run folder"),
        (["report", "nowhere"], "is not a run folder"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    assert message in refused(selftaught(*arguments, cwd=tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--frobnicate"], "No such option: --frobnicate"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["show"], "Missing argument 'DIR'"),
        (["show", "x", "--limit", "-1"], "--limit"),
        (["show", "x", "--iteration", "a\nb"], "--iteration"),
        (["tasks", "check"], "Missing argument"),
        (["eval", "x", "--temperature", "warm"], "--temperature"),
        (["run", "--resume"], "--resume"),
        (["eval", "runs/none"], "'runs/none': no such folder"),
        (["eval", "./none"], "no such folder"),
        (["eval", "."], "is no run folder (no run.json in it)"),
        (["eval", "file"], "is a file"),
        (["run", "a\x1b[31mb\nc"], r"a\x1b[31mb\nc"),
        (["run", "x" * 3_000], "x" * 3_000),
        (["show", "runs/" + "long name " * 100], "--run-dir 'runs/" + "long name " * 100),
    ],
)
def test_a_mistake_in_the_command_line_is_one_uncut_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    (tmp_path / "file").write_text("")
    done = selftaught(*arguments, cwd=tmp_path)
    assert message in refused(done)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_message_of_a_library_over_several_lines_is_printed_to_its_end(tmp_path: Path, adder: Path) -> None:
    """transformers ends a line on "from one of:", and then lists what it looked for."""
    model = tmp_path / "model"
    shutil.copytree(adder, model)
    for path in model.glob("tokenizer*"):
        path.unlink()
    done = selftaught("run", "arithmetic", "--run-dir", str(tmp_path / "run"), "--set", f"model.path={model}")
    assert not refused(done).rstrip().endswith(":")
    message = "a backend from one of: \n(1) a file\n (2) another\r\n"
    assert one_line(message) == "a backend from one of: (1) a file (2) another"


def test_a_filter_that_no_sample_passes_lists_the_values_that_exist(finished: Path, tmp_path: Path) -> None:
    done = selftaught("show", str(finished), "--kind", "rationale", "--iteration", "7", "--problem", "1+")
    assert (done.returncode, done.stdout) == (0, "")
    (line,) = done.stderr.splitlines()
    assert "samples has problem_id '1+' and iteration 7 and kind 'rationale'" in line
    for expected in ("by iteration: 0 (", "rationalization (", "1+", "others"):
        assert expected in line
    assert json.loads(selftaught("show", str(finished), "--json", "--limit", "1").stdout)
    empty = tmp_path / "empty"
    (empty / "samples").mkdir(parents=True)
    shutil.copy(finished / "run.json", empty)
    assert "has no samples yet" in selftaught("show", str(empty)).stderr


@pytest.mark.parametrize("width", [80, 20, *(pytest.param(width, marks=pytest.mark.slow) for width in (120, 60, 40))])
def test_the_result_is_uncut_on_a_terminal_of_any_width(
    finished: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    code, text = on_a_terminal(width, "run", "--resume", str(finished))
    assert code == 0
    assert "…" not in text
    lines = (finished / "iterations.jsonl").read_text().splitlines()
    counts = json.loads(lines[0])["rationale"]
    assert f"{counts['correct']}/{counts['samples']}" in text.split()
    table = text[: text.index("report ")].splitlines()
    assert all(len(line) <= width or len(line.split()) == 1 or "no iteration beat" in line for line in table)


@pytest.mark.slow
def test_the_commands_that_are_printed_can_be_pasted(finished: Path, tmp_path: Path) -> None:
    here = tmp_path / "my runs; $HOME"
    here.mkdir()
    shutil.copytree(finished, here / "it's  one")
    for name in ("-dash", "a 'q\" b"):
        shutil.copytree(finished, here / name)
    (here / "my rows.jsonl").write_text("".join(f'{{"question": "{n}?", "answer": "{n}"}}\n' for n in range(30)))
    printed = [selftaught("init", "my rows.jsonl", "--out", "a b", cwd=here).stdout]
    for name in ("it's  one", "./-dash", "a 'q\" b"):
        printed.append(selftaught("run", "--resume", name, cwd=here).stdout)
    lines = [line for text in printed for line in text.splitlines() if "selftaught " in line]
    commands = [line[line.index("selftaught ") :] for line in lines]
    assert len(commands) == 5
    for line in commands:
        pasted = line.replace("selftaught run", "selftaught tasks check", 1)
        shell = f'selftaught() {{ {sys.executable} -m selftaught "$@"; }}; {pasted}'
        done = subprocess.run(["bash", "-c", shell], cwd=here, capture_output=True, text=True, check=False)
        if "show" in line:
            assert done.returncode == 0, done.stderr
        else:  # the model is still to be filled in, but the path to the file is correct
            assert "no such" not in done.stderr or "model" in done.stderr, done.stderr


def test_a_run_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = selftaught("run", "arithmetic", "--run-dir", str(tmp_path / "file" / "run"), *settings(QUICK))
    assert "cannot create" in refused(done)


def test_a_second_process_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    from selftaught.runs.store import RunStore

    with RunStore(tmp_path / "run"):
        done = selftaught("run", "arithmetic", "--run-dir", str(tmp_path / "run"), *settings(QUICK))
    assert "another selftaught process" in refused(done)


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle_of_a_run_loses_nothing_that_was_done(finished: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = ["run", "arithmetic", "--run-dir", str(run_dir), *settings(QUICK)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow past 6 kB: a write in the middle of sampling fails like one on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, hard))
    try:
        limited = selftaught(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free some space" in refused(limited)
    done = selftaught(*command)
    assert done.returncode == 0, done.stderr
    for path in (finished / "samples").iterdir():
        assert (run_dir / "samples" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_the_first_ctrl_c_finishes_the_work_in_hand_and_says_how_to_carry_on(finished: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "selftaught", "run", "arithmetic", "--run-dir", str(run_dir), *settings(QUICK)]
    process = held_runs.started(command, run_dir / "prompts.jsonl")  # those of the second chunk, which it has in hand
    held_runs.held(process)
    process.send_signal(signal.SIGINT)
    held_runs.go_on(process)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert f"run --resume {run_dir}" in err
    assert "Traceback" not in err
    done = selftaught("run", "--resume", str(run_dir))
    assert done.returncode == 0, done.stderr
    for path in (finished / "samples").iterdir():
        assert (run_dir / "samples" / path.name).read_bytes() == path.read_bytes()


def test_a_broken_model_is_one_line(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"')
    done = selftaught("run", "arithmetic", "--run-dir", str(tmp_path / "run"), "--set", f"model.path={model}")
    assert "is not JSON" in refused(done)
    (model / "config.json").write_text('{"model_type": "llama"}')
    done = selftaught("run", "arithmetic", "--run-dir", str(tmp_path / "run"), "--set", f"model.path={model}")
    assert "has no *.safetensors weights" in refused(done)


def test_samples_without_their_run_json_are_not_used(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    (copy / "run.json").unlink()
    done = selftaught("run", "arithmetic", "--run-dir", str(copy), *settings({**QUICK, "seed": 5}))
    assert "holds samples but no run.json" in refused(done)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", '{"format": 1, "config": {}}'),
        ("run.json", '{"format": 2, "config": "x"}'),
        ("run.json", '{"format": 2, "config": {}, "resolved": {"a": 1}, "model": {}}'),
        ("run.json", "{"),
        ("iterations.jsonl", '{"iteration": "one"}\n'),
        ("evaluations.jsonl", "[]\n"),
    ],
)
def test_a_damaged_run_folder_is_one_line(finished: Path, tmp_path: Path, name: str, content: str) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    (copy / name).write_text(content)
    assert name in refused(selftaught("run", "--resume", str(copy)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("chunk_completions", 0),
        ("threads", "many"),
        ("engine.slots", None),
        ("engine.slots", "auto"),
    ],
)
def test_a_damaged_value_in_run_json_is_named_and_no_sample_is_lost(
    finished: Path, tmp_path: Path, key: str, value: object
) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    about = json.loads((copy / "run.json").read_text())
    *_, section, name = ("resolved", *key.split("."))
    (about["resolved"]["engine"] if section == "engine" else about["resolved"])[name] = value
    (copy / "run.json").write_text(json.dumps(about))
    assert f"run.json: resolved.{key}: input should be" in refused(selftaught("run", "--resume", str(copy)))
    assert folder_bytes(copy, "samples") == folder_bytes(finished, "samples")


def test_a_damaged_result_is_one_line(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    (copy / "result.json").write_text('{"best_iteration": "x"}')
    for arguments in (["eval", str(copy)], ["report", str(copy)]):
        assert "'best_iteration' is missing or damaged" in refused(selftaught(*arguments))


def test_base_weights_that_changed_under_a_run_are_refused(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    about = json.loads((copy / "run.json").read_text())
    about["model"]["sha256"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(about))
    assert "was started with other weights" in refused(selftaught("run", "--resume", str(copy)))


def test_output_into_a_closed_pipe_is_no_error(finished: Path) -> None:
    show = f"{sys.executable} -m selftaught show {finished} --limit 0 --json"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {show} | head -1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
