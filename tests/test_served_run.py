"""Commands with a server that the user starts: an evaluation, and a run that refuses a server of other weights."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from llama_server import make_model, needs_llama_cpp, serving, to_gguf
from test_cli import selftaught

pytestmark = needs_llama_cpp

CONFIG = """
[model]
path = "{model}"

[task]
name = "arithmetic"
problems_per_iteration = 4
dev_problems = 3
test_problems = 3

[sampling]
num_shots = 0
num_shots_fine_tuned = 0
max_new_tokens = 16

[training]
num_rehearsed = 8
steps_first_iteration = 6
batch_size = 4
learning_rate = 1e-2

[loop]
max_iterations = 1

[engine]
name = "openai"
url = "{url}"
concurrency = 4
max_retries = 0
timeout_s = 60.0
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("served") / "model")
    to_gguf(folder, folder / "model.gguf")
    return folder


def test_eval_measures_a_server_as_it_measures_the_model_itself(model: Path) -> None:
    arguments = ["eval", str(model), "--task", "arithmetic", "--num-shots", "1", "--max-new-tokens", "12", "--json"]
    small = ["--set", "task.dev_problems=12", "--set", "compute.threads=1"]
    local = selftaught(*arguments, *small)
    with serving(model / "model.gguf") as address:
        served = selftaught(*arguments, *small, "--set", "engine.name=openai", "--set", f"engine.url={address}")
    assert served.returncode == 0, served.stderr
    assert f"what {address} serves; the server names '{model / 'model.gguf'}'" in served.stderr
    of_model, of_server = json.loads(local.stdout), json.loads(served.stdout)
    assert of_model["n"] == 12
    assert of_server == of_model


def test_eval_refuses_to_set_what_has_an_option_of_its_own(model: Path) -> None:
    for key in ("sampling.num_shots=3", "model.path=x"):
        done = selftaught("eval", str(model), "--task", "arithmetic", "--set", key)
        assert done.returncode == 2
        assert "an argument of its own" in done.stderr


@pytest.mark.slow
def test_a_run_stops_until_the_server_serves_the_weights_that_are_due(model: Path, tmp_path: Path) -> None:
    """The base, the checkpoint, and the base again to measure it on test: each time the run names the folder.

    Every server has another port, and that is not a change of the run's settings.
    """
    run_dir, config = tmp_path / "run", tmp_path / "run.toml"
    checkpoint = run_dir / "checkpoints" / "001"

    def go(weights: Path, times: int = 1) -> list[subprocess.CompletedProcess[str]]:
        with serving(weights) as address:
            config.write_text(CONFIG.format(model=model, url=address))
            return [selftaught("run", str(config), "--run-dir", str(run_dir)) for _ in range(times)]

    for done in go(model / "model.gguf", times=2):
        assert done.returncode == 2
        message = done.stderr.strip().splitlines()[-1]
        assert "does not serve the weights of iteration 1" in message
        assert f"restart the server on {checkpoint} and run the same command again" in message
        assert not list((run_dir / "samples").glob("001-dev*"))
    trained = to_gguf(checkpoint, tmp_path / "001.gguf")
    (done,) = go(trained)
    assert done.returncode == 2
    message = done.stderr.strip().splitlines()[-1]
    assert "does not serve the base model's weights" in message
    assert f"restart the server on {model} and" in message
    assert list((run_dir / "samples").glob("001-dev*"))
    assert not list((run_dir / "samples").glob("000-test*"))
    (done,) = go(model / "model.gguf")
    if done.returncode == 2:  # an iteration beat the base model on dev, and is measured on test, too
        (done,) = go(trained)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^test, base model: \d+/3", done.stdout, flags=re.MULTILINE)


def test_a_key_that_is_not_set_stops_a_run_before_anything_is_written(model: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.format(model=model, url="http://127.0.0.1:9") + 'api_key_env = "NO_SUCH_KEY_IS_SET"\n')
    done = selftaught("run", str(config), "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "NO_SUCH_KEY_IS_SET, which is not set here" in done.stderr
    assert not (tmp_path / "run").exists()
