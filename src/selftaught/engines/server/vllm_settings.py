"""The engine `vllm`: its settings, and how it is opened."""

import shlex
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from pydantic import Field

from selftaught.engines.engine import Engine
from selftaught.engines.server.settings import ServerConfig
from selftaught.machine.opening import Opening
from selftaught.models.checking import check_model_and_tokenizer
from selftaught.records.errors import ConfigError
from selftaught.records.samples import ModelRef
from selftaught.records.sections import Text


class VllmConfig(ServerConfig):
    name: Literal["vllm"] = Field("vllm", description="a vLLM server that the run starts")
    vllm_python: Text | None = Field(None, description="The Python interpreter that has vllm; absent is this one.")
    vllm_args: Text | None = Field(
        None,
        description="Further arguments of `vllm serve`, as on a command line, such as `--max-model-len 2048`.",
    )
    start_timeout_s: float = Field(
        1800.0,
        gt=0.0,
        le=86400.0,
        description="Seconds until a server that is not ready fails. Loading and compiling take minutes.",
    )
    usual_concurrency: ClassVar[int] = 128  # as many as keep it busy
    may_change: ClassVar[frozenset[str]] = frozenset({"timeout_s", "max_retries", "vllm_python", "start_timeout_s"})

    def check_values(self) -> None:
        try:
            shlex.split(self.vllm_args or "")
        except ValueError as error:
            raise ConfigError(
                f"engine.vllm_args = {self.vllm_args!r}: {error}; quote it as on a command line"
            ) from error

    def check(self) -> None:
        self.versions()

    def versions(self) -> Mapping[str, str]:
        """Raises ConfigError if the interpreter cannot be run or has no vllm."""
        from selftaught.engines.server.vllm import vllm_version

        return {"vllm": vllm_version(self.vllm_python)}

    def opener(self, opening: Opening) -> Callable[[ModelRef], Engine]:
        def open_engine(model: ModelRef) -> Engine:
            from selftaught.engines.server.vllm import VllmEngine, VllmSettings

            # Before the server starts, which takes minutes.
            check_model_and_tokenizer(model.path, chat=opening.chat, trust_remote_code=opening.trust_remote_code)
            settings = VllmSettings(
                python=self.vllm_python,
                arguments=self.vllm_args,
                dtype=opening.machine.dtype,
                device=opening.machine.device,
                threads=opening.machine.threads,
                concurrency=int(self.concurrency),
                start_timeout_s=self.start_timeout_s,
                timeout_s=self.timeout_s,
                max_retries=self.max_retries,
                trust_remote_code=opening.trust_remote_code,
                chat=opening.chat,
                served_dir=opening.served_dir,
            )
            log = opening.log_dir / f"vllm-{model.iteration:03d}.log" if opening.log_dir else None
            return VllmEngine(model, settings, log=log, on_tokens=opening.on_tokens)

        return open_engine
