"""Tiny real models for the tests that need one, made once per session; the two profiles of property tests."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# One thread: the models are tiny, and results must not depend on what else runs on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As the command sets it: libraries read it when they are imported, which a test may do before the command.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# The same examples every time, so that a test fails everywhere or nowhere, and without a limit on their time, since the
# machine may be busy; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("repeatable", max_examples=25, deadline=None, derandomize=True, database=None)
settings.register_profile("search", max_examples=1000, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_finish() -> None:
    """Keep what was imported by now out of every later garbage collection, which engines and trainers ask for: its
    millions of objects stay, and to look through them took a third of the time of the tests that train."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def kernel_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which this session's processes keep what they compile, in place of the user's cache.

    In pytest's own cache the next session finds it: a kernel is named by all that decides what it is.
    """
    cache = getattr(pytestconfig, "cache", None)  # which may be switched off
    folder = cache.mkdir("kernels") if cache else tmp_path_factory.getbasetemp() / "kernels"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def adder() -> Path:
    """The shipped model's folder."""
    from selftaught.models.weights import resolve_model

    return Path(resolve_model("builtin:adder").path)


@pytest.fixture
def fake_python(tmp_path: Path) -> str:
    """A program that stands in for an interpreter with vllm."""
    from vllm_servers import script

    return script(tmp_path / "python", f"exec {sys.executable} -I {Path(__file__).with_name('fake_vllm.py')}" + ' "$@"')


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, adder: Path) -> Path:
    """A random two-layer Llama with grouped-query attention and the shipped model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(adder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory, adder: Path) -> Callable[[str], Path]:
    """The folder of a random model of some kind (`tiny_models.KINDS`), made at its first use."""
    from tiny_models import save_model

    folder = tmp_path_factory.mktemp("kinds")

    def find(kind: str) -> Path:
        if not (folder / kind).exists():
            save_model(kind, folder / kind, adder)
        return folder / kind

    return find
