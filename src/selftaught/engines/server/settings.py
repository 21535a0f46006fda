"""What the engines that generate with a server have in common in their settings."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from selftaught.engines.engine import EngineConfig
from selftaught.machine.devices import Machine, given_or


class ServerConfig(EngineConfig):
    concurrency: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        "auto",
        description="Requests that are under way at a time; `auto` is 16 for `openai` and 128 for `vllm`.",
    )
    timeout_s: float = Field(
        600.0,
        gt=0.0,
        le=86400.0,
        description="Seconds until a request without its complete answer fails.",
    )
    max_retries: int = Field(
        5,
        ge=0,
        le=100,
        description="Further tries of a request that met a busy, failing or silent server.",
    )
    serves_folders: ClassVar[bool] = True
    usual_concurrency: ClassVar[int]
    """What `auto` stands for."""

    def resolved(self, machine: Machine) -> Self:
        return self.model_copy(update={"concurrency": given_or(self.concurrency, self.usual_concurrency)})

    def completions_at_a_time(self, machine: Machine) -> int:
        return given_or(self.concurrency, self.usual_concurrency)
