"""The Slurm job file of the page about clusters, run with stand-ins for Slurm, for the run and, mostly, for Ray."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from builders import PATIENCE_S
from ray_nodes import SETTINGS, processes_of
from test_engine_vllm import wait_for

NAMES = {
    "SLURM_JOB_ID": "17",
    "SLURM_CPUS_PER_TASK": "4",
    "SLURMD_NODENAME": "node-a",  # which need not be what `hostname` says
}

SRUN = """#!/bin/sh
echo "srun $*" >> calls
echo $$ > step
while [ "$1" != ray ]; do shift; done
exec "$@"
"""
RAY = """#!/bin/sh
echo "ray $*" >> calls
case "$*" in
    *--head*)
        [ ! -e no-head ] || exit 1
        stat --format=%a "$RAY_AUTH_TOKEN_PATH" > mode
        mkdir -p "$RAY_TMPDIR/ray"
        echo 10.0.0.1:20017 > "$RAY_TMPDIR/ray/ray_current_cluster"
        ;;
    *--block*)
        touch joined
        exec sleep 1800
        ;;
esac
"""
# No time passes while the job waits for its machines, unless one is missing and all others are there.
RAY_MODULE = """
import time
from pathlib import Path

now, sleep = 0.0, time.sleep

def pass_by(seconds):
    global now
    now += seconds if Path("one-is-missing").exists() and Path("joined").exists() else 0.0
    sleep(0.01)

time.monotonic, time.sleep = lambda: now, pass_by

def init(address, **how):
    assert address == "auto"

def nodes():
    Path("looked").touch()
    names = ["node-a", *(["node-b"] if Path("joined").exists() else [])]
    return [{"NodeManagerHostname": name, "Alive": True} for name in names]
"""
SCONTROL = """#!/bin/sh
echo "scontrol $*" >> calls
[ ! -e "$RAY_AUTH_TOKEN_PATH" ] || touch token-is-left
"""
RUN = """#!/bin/sh
echo "selftaught $1 $2" >> calls
"""
ENDS_IN_ORDER = (
    RUN
    + """
trap 'sleep 0.2; echo "the chunk in hand is finished" >> calls; exit 75' TERM
touch began
while :; do sleep 0.05; done
"""
)
DOES_NOT_LISTEN_YET = RUN + "touch began\nexec sleep 1800\n"
HEAD = "ray start --head --port=20017 --num-cpus=4 --include-dashboard=false"
STEP = (
    "srun --nodes={0} --ntasks={0} --cpus-per-task=4 --exclude=node-a --kill-on-bad-exit=0 --wait=0 "
    "ray start --address=10.0.0.1:20017 --num-cpus=4 --block"
)
JOINED = "ray start --address=10.0.0.1:20017 --num-cpus=4 --block"
REQUEUED = ["ray stop", "scontrol requeue 17"]


class Job:
    """The job file, in a folder that is its home and has the programs that it calls."""

    def __init__(self, folder: Path, ray_folder: str, *, nodes: int = 2, run: str = RUN) -> None:
        self.folder = folder
        programs = {"srun": SRUN, "ray": RAY, "scontrol": SCONTROL, "selftaught": run}
        programs["python"] = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
        self.write("venv/bin/activate", "")
        self.write("modules/ray.py", RAY_MODULE)
        for name, text in programs.items():
            self.write(f"bin/{name}", text)
        page = Path(__file__).parents[1] / "docs" / "cluster.md"
        text = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
        # A test sends its signal when the shell listens for it and waits for the run.
        text = self._replaced(text, "\nwhile kill -0", "\ntouch waits\nwhile kill -0")
        self.text = self._replaced(text, "/tmp/ray-$UID", ray_folder)
        self.env = {**NAMES, "SLURM_JOB_NUM_NODES": str(nodes), "HOME": str(folder), "LC_ALL": "C.UTF-8"}
        self.env |= {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(folder / "modules")}

    @staticmethod
    def _replaced(text: str, old: str, new: str) -> str:
        assert text.count(old) == 1
        return text.replace(old, new)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def touch(self, name: str) -> None:
        (self.folder / name).touch()

    def has(self, *names: str) -> bool:
        return all((self.folder / name).exists() for name in names)

    def calls(self) -> list[str]:
        """The programs that it has called, in order; the other machines begin while it looks for them."""
        lines = (self.folder / "calls").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line != JOINED]

    def run(self, *, signalled_at: tuple[str, ...] = ()) -> tuple[int, str]:
        """Its exit code and what it said; SIGTERM is sent to its shell once all these files are there."""
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(
                ["bash", "-c", self.text],
                env=self.env,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            if signalled_at:
                assert wait_for(lambda: self.has(*signalled_at) or process.poll() is not None)
                process.send_signal(signal.SIGTERM)
            return process.wait(timeout=PATIENCE_S), (self.folder / "log").read_text(encoding="utf-8")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise

    def leaves_nothing(self) -> bool:
        """Whether its token is gone and its other machines have ended, as they do soon."""
        tokens = list((self.folder / ".ray").glob("*"))
        return not tokens and not self.has("token-is-left") and wait_for(lambda: not self.is_step_there())

    def is_step_there(self) -> bool:
        step = self.folder / "step"
        if not step.exists():
            return False
        stat = Path(f"/proc/{step.read_text().strip()}/stat")
        try:
            return stat.read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False


@pytest.fixture
def ray_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # Ray's sockets need a short path
        yield folder


def test_a_job_starts_its_machines_and_its_run_and_leaves_nothing(tmp_path: Path, ray_folder: str) -> None:
    job = Job(tmp_path, ray_folder)
    code, said = job.run()
    assert code == 0
    assert job.calls() == [HEAD, STEP.format(1), "selftaught run gsm8k", "ray stop"]
    assert "machines" not in said
    assert (tmp_path / "mode").read_text() == "600\n"
    assert job.leaves_nothing()


def test_a_job_of_one_machine_starts_no_other(tmp_path: Path, ray_folder: str) -> None:
    job = Job(tmp_path, ray_folder, nodes=1)
    assert job.run()[0] == 0
    assert job.calls() == [HEAD, "selftaught run gsm8k", "ray stop"]
    assert job.leaves_nothing()


@pytest.mark.parametrize("code", [75, 1])
def test_a_job_is_queued_again_when_its_run_has_more_to_do_and_only_then(
    code: int, tmp_path: Path, ray_folder: str
) -> None:
    job = Job(tmp_path, ray_folder, run=RUN + f"exit {code}\n")
    assert job.run()[0] == code
    end = REQUEUED if code == 75 else ["ray stop"]
    assert job.calls() == [HEAD, STEP.format(1), "selftaught run gsm8k", *end]
    assert job.leaves_nothing()


def test_a_job_that_gets_sigterm_while_it_waits_for_machines_is_queued_again(tmp_path: Path, ray_folder: str) -> None:
    job = Job(tmp_path, ray_folder, nodes=3)
    assert job.run(signalled_at=("looked", "joined"))[0] == 75
    assert job.calls() == [HEAD, STEP.format(2), *REQUEUED]
    assert job.leaves_nothing()


def test_a_job_that_gets_sigterm_lets_its_run_finish_the_work_in_hand(tmp_path: Path, ray_folder: str) -> None:
    job = Job(tmp_path, ray_folder, run=ENDS_IN_ORDER)
    assert job.run(signalled_at=("began", "waits"))[0] == 75
    assert job.calls() == [
        HEAD,
        STEP.format(1),
        "selftaught run gsm8k",
        "the chunk in hand is finished",
        *REQUEUED,
    ]
    assert job.leaves_nothing()


def test_a_job_whose_run_cannot_listen_to_sigterm_yet_is_queued_again(tmp_path: Path, ray_folder: str) -> None:
    job = Job(tmp_path, ray_folder, run=DOES_NOT_LISTEN_YET)
    assert job.run(signalled_at=("began", "waits"))[0] == 75
    assert job.calls() == [HEAD, STEP.format(1), "selftaught run gsm8k", *REQUEUED]
    assert job.leaves_nothing()


def test_a_job_goes_on_without_a_machine_that_does_not_come_and_says_so(tmp_path: Path, ray_folder: str) -> None:
    job = Job(tmp_path, ray_folder, nodes=3)
    job.touch("one-is-missing")
    code, said = job.run()
    assert code == 0
    assert "after five minutes 2 of 3 machines are in the cluster: node-a, node-b; going on with these\n" in said
    assert job.calls() == [HEAD, STEP.format(2), "selftaught run gsm8k", "ray stop"]
    assert job.leaves_nothing()


def test_a_job_without_a_head_ends(tmp_path: Path, ray_folder: str) -> None:
    job = Job(tmp_path, ray_folder)
    job.touch("no-head")
    assert job.run()[0] == 1
    assert job.calls() == [HEAD, "ray stop"]
    assert job.leaves_nothing()


REAL_RAY = """#!/bin/sh
echo "ray $*" >> calls
[ "$1" != stop ] || exec python "$HOME/stop.py"
exec python -c 'from ray.scripts.scripts import main; main()' "$@" --object-store-memory=83886080
"""
# `ray stop` that sees this job's processes alone: it would end the clusters of all other tests, too.
STOP = """
import os
from ray.scripts import scripts

def is_ours(process):
    try:
        return process.environ().get("RAY_TMPDIR") == os.environ["RAY_TMPDIR"]
    except scripts.psutil.Error:
        return False

every = scripts.psutil.process_iter
scripts.psutil.process_iter = lambda *how: filter(is_ours, every(*how))
scripts.stop(["--grace-period", "3"])
"""
REAL_RUN = """#!/bin/sh
exec python - <<'PYTHON'
from pathlib import Path
import ray
from selftaught.machine.ray_cluster import joined
with joined("auto"):
    alive = [node for node in ray.nodes() if node["Alive"]]
    Path("seen").write_text(f"{len(alive)} nodes, {ray.cluster_resources()['CPU']:.0f} CPUs")
PYTHON
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray")
def test_a_job_with_the_real_ray_has_a_second_node_and_its_run_joins_it(tmp_path: Path, ray_folder: str) -> None:
    job = Job(tmp_path, ray_folder, run=REAL_RUN)
    job.write("bin/ray", REAL_RAY)
    job.write("stop.py", STOP)
    job.env |= {**SETTINGS, "HF_HUB_OFFLINE": "1", "SLURM_JOB_ID": str(os.getpid())}  # a port of its own
    try:
        code, said = job.run()
        assert code == 0, said
        assert (tmp_path / "seen").read_text() == "2 nodes, 8 CPUs", said
        assert job.leaves_nothing()
        assert wait_for(lambda: not processes_of(ray_folder)), processes_of(ray_folder)
    finally:
        for pid in processes_of(ray_folder):
            os.kill(pid, signal.SIGKILL)
