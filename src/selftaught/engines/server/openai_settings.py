"""The engine `openai`: its settings, and how it is opened."""

import os
import re
from collections.abc import Callable
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from selftaught.engines.engine import Engine
from selftaught.engines.server.settings import ServerConfig
from selftaught.machine.opening import Opening
from selftaught.models.checking import check_model_and_tokenizer
from selftaught.records.errors import ConfigError
from selftaught.records.samples import ModelRef
from selftaught.records.sections import Text

EXAMPLE_URL = "http://127.0.0.1:8000"


class OpenAIConfig(ServerConfig):
    name: Literal["openai"] = Field("openai", description="any server with OpenAI's completions API, which you start")
    url: Text = Field(
        description=f"Where the server is, such as `{EXAMPLE_URL}`; without a user name or a key.",
        examples=[EXAMPLE_URL],
    )
    model: Text | None = Field(
        None, description="The served model's name; absent takes the only one that the server lists."
    )
    api_key_env: Text | None = Field(
        None,
        description="The environment variable that holds the server's key, such as `MY_API_KEY`; never the key itself.",
    )
    computes_here: ClassVar[bool] = False
    usual_concurrency: ClassVar[int] = 16  # few enough for a server that others use too
    may_change: ClassVar[frozenset[str]] = frozenset({"url", "model", "api_key_env", "timeout_s", "max_retries"})

    def check_values(self) -> None:
        if self.api_key_env and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise ConfigError(
                "engine.api_key_env is the name of an environment variable (capital letters, digits, _), such as "
                "MY_API_KEY; put the key itself into that variable and nowhere else"
            )
        check_url(self.url)

    def check(self) -> None:
        self.key()

    def key(self) -> str | None:
        """The server's key. Raises ConfigError if the variable that should hold it is not set."""
        if self.api_key_env is None:
            return None
        if key := os.environ.get(self.api_key_env, "").strip():
            return key
        raise ConfigError(
            f"engine.api_key_env names the environment variable {self.api_key_env}, which is not set here; export it, "
            "or remove the setting"
        )

    def opener(self, opening: Opening) -> Callable[[ModelRef], Engine]:
        def open_engine(model: ModelRef) -> Engine:
            from selftaught.engines.server.openai import OpenAIEngine
            from selftaught.engines.server.transport import Server

            check_model_and_tokenizer(
                model.path, chat=opening.chat, trust_remote_code=opening.trust_remote_code
            )  # the trainer loads it
            server = Server(url=self.url, key=self.key(), timeout_s=self.timeout_s, max_retries=self.max_retries)
            return OpenAIEngine(
                model,
                server=server,
                served_name=self.model,
                concurrency=int(self.concurrency),
                trust_remote_code=opening.trust_remote_code,
                chat=opening.chat,
                on_tokens=opening.on_tokens,
            )

        return open_engine


def check_url(url: str) -> None:
    """Raise ConfigError for what is no address of a server, or may hold a key."""
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ConfigError(f"engine.url is not an address ({error}); give one such as {EXAMPLE_URL}") from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            "engine.url holds a user name, a password, a query or a fragment; give scheme, host, port and path, and a "
            "key through engine.api_key_env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port or not url.isascii():
        raise ConfigError(f"engine.url = {url!r}: expected an address such as {EXAMPLE_URL}")
