"""What an engine is, and what an entry of the table of engines owns.

An engine generates with one fixed set of weights; new weights mean a new engine. Heavy libraries are imported only
when an engine that needs them is opened.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, runtime_checkable

from selftaught.machine.devices import Machine
from selftaught.machine.opening import Opening
from selftaught.models.forecast import Forecast
from selftaught.models.shape import Shape
from selftaught.records.prompts import Prompt, RenderedPrompt
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
    TokenScores,
)
from selftaught.records.sections import Section


class Engine(Protocol):
    """Generates completions with one fixed set of weights."""

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        """One completion per request, in the order in which they finish; `Completion.request` is the position.

        The tokens are a function of (weights, requests, params) and the engine's own settings: nothing carries over
        from one call to the next. Raises RefusedError for a prompt that does not fit the context.
        """
        ...

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        """Log-probabilities of given completions (nats, temperature 1), one record per request, in order.

        Raises RefusedError for a prompt without tokens, EngineError if the engine cannot score.
        """
        ...

    def close(self) -> None:
        """Release the memory; the engine cannot be used afterwards."""
        ...


@runtime_checkable
class ServedEngine(Engine, Protocol):
    """An engine whose weights are in a server that the run does not start: it may serve those of any model."""

    @property
    def address(self) -> str:
        """Where the server is."""
        ...

    @property
    def serves(self) -> str:
        """What the server states as the place of its weights; "" if it states none."""
        ...


def served_by(engine: Engine) -> str | None:
    """What the server of a ServedEngine states as the place of its weights; None for an engine that loads them."""
    return engine.serves if isinstance(engine, ServedEngine) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLengths:
    """Tokens of the longest prompts that a run generates from."""

    shared: int
    """The few-shot examples, which all prompts begin with."""
    own: int
    """What follows them, at most."""
    new: int
    """Tokens that are generated, at most."""
    is_greedy: bool


class EngineConfig(Section):
    """The section [engine] for one engine: its settings, and all that a run asks of it before it generates.

    A subclass gives `name` as a Literal with a default and a description, its settings, and `opener`.
    """

    name: str
    may_change: ClassVar[frozenset[str]] = frozenset()
    """The settings that may differ when a run is carried on, because they decide no token: how a server is reached."""
    serves_folders: ClassVar[bool] = False
    """Whether a server loads the weights, which takes the folder of a complete model: adapters are merged for it."""
    computes_here: ClassVar[bool] = True
    """Whether the model is run on this machine; False for a server that somebody else starts, wherever it is."""

    def check_values(self) -> None:
        """Raise ConfigError for values that are wrong by themselves or contradict each other. Looks at nothing else.

        A message must not show a value that may hold a key by mistake.
        """

    def check(self) -> None:
        """Raise ConfigError if the engine cannot be opened here; called before anything is written."""

    def versions(self) -> Mapping[str, str]:
        """Versions of what the engine runs on, beyond the libraries that every run names; kept in run.json."""
        return {}

    def resolved(self, machine: Machine) -> Self:
        """The same settings with every "auto" replaced; kept in run.json and used again at every resume.

        Raises ConfigError for settings that the machine cannot serve.
        """
        return self

    def completions_at_a_time(self, machine: Machine) -> int:
        """Of resolved settings: how many completions are generated at a time, in all processes together."""
        return 128

    def lines(self, machine: Machine) -> Sequence[str]:
        """Of resolved settings: what the user should know of them on this machine, told at every start."""
        return ()

    def forecast(self, lengths: PromptLengths, shape: Shape, machine: Machine) -> Forecast | None:
        """Of resolved settings: the memory that generating needs in the run's own processes; None if not known."""
        return None

    @abstractmethod
    def opener(self, opening: Opening) -> Callable[[ModelRef], Engine]:
        """Of resolved settings: how to open the engine on a model."""
        ...


@runtime_checkable
class RendersPrompts(Protocol):
    """What an engine with a tokenizer offers besides: what it generates from, for the run folder."""

    def render(self, prompt: Prompt) -> RenderedPrompt:
        """A prompt as text, with its token ids. Raises RefusedError for one without tokens."""
        ...
