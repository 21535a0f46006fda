"""Work that may hang runs in a verifier process, which is killed at its time limit."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from builders import PATIENCE_S, output_of, problem
from selftaught.grading.verifiers import make_verifier
from selftaught.grading.verifiers.pool import Pool, ProcessDiedError, TimedOutError
from selftaught.records.errors import ConfigError, VerifierError
from selftaught.records.problems import Verdict, Verifier

FUNCTIONS = """
import os, sys, time

print("imported: this must not disturb anything")

def same_text(completion, problem):
    print("called", input() if False else "")
    return completion.strip() == problem.answer

def named(completion, problem):
    return "incorrect", completion[:3] + problem.choices[0]

def unparseable(completion, problem):
    return "unparseable"

def broken(completion, problem):
    return {}["missing"]

def silent(completion, problem):
    pass

def hangs(completion, problem):
    while completion == "hang":
        time.sleep(0.01)
    return True

def dies(completion, problem):
    return completion == "go on" or os._exit(3)

def process(completion, problem):
    return True, f"{os.getpid()} {'torch' in sys.modules} {sys.stdin.read()!r}"

not_a_function = 3
"""

Make = Callable[..., Verifier]


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user") / "my_checks.py"
    path.write_text(FUNCTIONS)
    return path


@pytest.fixture
def own(functions: Path) -> Make:
    def make(name: str, limit_s: float = 60.0) -> Verifier:
        return make_verifier("python", marker="", function=f"{functions}:{name}", limit_s=limit_s)

    return make


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def request(text: str) -> dict[str, Any]:
    """What a pool is asked."""
    return {"text": text, "problem": {"id": "p", "question": "", "answer": "", "choices": []}}


def pid_in(pool: Pool) -> int:
    """Of the process that answers."""
    return int(pool.call(request("x"))["prediction"].split()[0])


def test_a_function_of_the_user_judges(own: Make) -> None:
    verify = own("same_text")
    assert verify(" 3 ", problem(answer="3")).verdict is Verdict.CORRECT
    assert verify("4", problem(answer="3")).verdict is Verdict.INCORRECT
    verification = own("named")("abcdef", problem(choices=("x", "y")))
    assert (verification.verdict, verification.prediction) == (Verdict.INCORRECT, "abcx")
    assert own("unparseable")("x", problem()).prediction is None


def test_a_function_of_a_module_on_the_path_is_loaded(functions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(functions.parent))
    verify = make_verifier("python", marker="", function="my_checks:same_text")
    assert verify("3", problem(answer="3")).verdict is Verdict.CORRECT


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "problem 'p1': KeyError: 'missing'"),
        ("silent", "problem 'p1': TypeError: the function returned None, expected True or False"),
        ("dies", "problem 'p1': its process ended with exit code 3"),
    ],
)
def test_a_function_that_fails_is_named_with_the_problem(own: Make, name: str, message: str) -> None:
    with pytest.raises(VerifierError, match=r"\A.+\Z") as caught:
        own(name)("x", problem("p1"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("{folder}/my_checks.py:nothing", "AttributeError"),
        ("{folder}/my_checks.py:not_a_function", "expected a function"),
        ("{folder}/absent.py:same_text", "FileNotFoundError"),
        ("no_such_module_anywhere:same_text", "ModuleNotFoundError"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_named(functions: Path, function: str, message: str) -> None:
    verify = make_verifier("python", marker="", function=function.format(folder=functions.parent))
    with pytest.raises(ConfigError, match=r"\A.+\Z") as caught:
        verify("x", problem())
    assert message in str(caught.value)


def test_a_function_that_hangs_is_killed_and_the_next_call_works(own: Make) -> None:
    verify = own("hangs", limit_s=1.0)
    assert verify("hang", problem()).verdict is Verdict.UNPARSEABLE
    retry = (verify("go on", problem()).verdict for _ in range(10))  # the limit is short
    assert Verdict.CORRECT in retry


def test_a_verifier_process_has_neither_torch_nor_the_parents_input(own: Make) -> None:
    prediction = own("process")("x", problem()).prediction
    assert prediction is not None
    pid, *rest = prediction.split()
    assert rest == ["False", "''"]
    assert int(pid) != os.getpid()


def test_an_expression_that_backtracks_for_ever_is_unparseable_and_costs_its_limit() -> None:
    verify = make_verifier("regex", marker="", pattern=r"((?:a+)+)$", limit_s=1.0)
    assert verify("a" * 60 + "b", problem()).verdict is Verdict.UNPARSEABLE  # after ages without a limit


def test_a_formula_that_takes_for_ever_is_unparseable() -> None:
    pytest.importorskip("sympy")
    verify = make_verifier("math", marker="####", limit_s=2.0)
    assert verify("\\boxed{10^{10^{10^{10}}}}", problem(answer="1")).verdict is Verdict.UNPARSEABLE
    written_out = "((a+b+c)^2+2(a+b+c)(d+e_1+f)+(d+e_1+f)^2)^{30}"
    start = time.monotonic()
    assert verify(f"\\boxed{{{written_out}}}", problem(answer="(a+b+c+d+e_1+f)^{60}")).verdict is Verdict.UNPARSEABLE
    assert time.monotonic() - start > 2, "its limit ended it"
    retry = (verify("\\boxed{\\sqrt{4}}", problem(answer="2")).verdict for _ in range(10))  # the limit is short
    assert Verdict.CORRECT in retry


def test_a_missing_library_is_named_with_what_to_run() -> None:
    code = """
import sys
sys.modules["sympy"] = None
from selftaught.records.errors import ConfigError
from selftaught.grading.verifiers import make_verifier
try:
    make_verifier("math", marker="####")
except ConfigError as error:
    print(error)
"""
    assert "pip install 'selftaught[math]'" in output_of(code)


def test_many_threads_get_their_own_answers(own: Make) -> None:
    verify = own("same_text")
    with ThreadPoolExecutor(8) as threads:
        calls = [(str(k % 7), problem(answer=str(k % 5))) for k in range(200)]
        verdicts = list(threads.map(lambda pair: verify(*pair).verdict, calls))
    assert verdicts == [Verdict.CORRECT if k % 7 == k % 5 else Verdict.INCORRECT for k in range(200)]


def test_a_pool_that_is_closed_leaves_no_process_and_starts_again(functions: Path) -> None:
    pool = Pool({"kind": "python", "function": f"{functions}:process"}, limit_s=60)
    first = pid_in(pool)
    assert pid_in(pool) == first, "a process is used again"
    pool.close()
    assert not running(first)
    assert pid_in(pool) != first


def test_a_pool_that_is_forgotten_leaves_no_process(functions: Path) -> None:
    pool = Pool({"kind": "python", "function": f"{functions}:process"}, limit_s=60)
    pid = pid_in(pool)
    del pool
    gc.collect()
    assert not running(pid)


def test_a_killed_process_is_reported_and_replaced(functions: Path) -> None:
    pool = Pool({"kind": "python", "function": f"{functions}:hangs"}, limit_s=1.0, size=1)
    with pytest.raises(TimedOutError):
        pool.call(request("hang"))
    pool = Pool({"kind": "python", "function": f"{functions}:dies"}, limit_s=60, size=1)
    with pytest.raises(ProcessDiedError, match="exit code 3"):
        pool.call(request("die"))
    assert pool.call(request("go on"))["verdict"] == "correct"


def test_a_script_without_a_main_guard_ends_by_itself_and_leaves_no_process(functions: Path, tmp_path: Path) -> None:
    """One thread is in the middle of a call that hangs, and the script just ends."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import threading
from selftaught.records.problems import Problem
from selftaught.grading.verifiers import make_verifier
question = Problem(id="p", question="", answer="3")
print(make_verifier("python", marker="", function={str(functions) + ":process"!r})("x", question).prediction.split()[0])
verify = make_verifier("python", marker="", function={str(functions) + ":hangs"!r}, limit_s=600)
verify("go", question)
threading.Thread(target=verify, args=("hang", question), daemon=True).start()
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + PATIENCE_S
    while running(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.05)
