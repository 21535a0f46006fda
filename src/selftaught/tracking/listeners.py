"""Telling several listeners: one that fails is reported once, and neither the run nor the others notice."""

from collections.abc import Callable, Sequence
from functools import partial

from selftaught.records.events import Event, Listener, Note


class Recorder:
    """Keeps everything that it is told; for tests and notebooks."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


class Listeners:
    """Tells every event to each listener, in the order in which they are given; use as a context manager."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = list(listeners)

    def __enter__(self) -> Callable[[Event], None]:
        return self.tell

    def __exit__(self, *_: object) -> None:
        for listener in [*self._listeners]:
            self._call(listener, listener.close)

    def tell(self, event: Event) -> None:
        for listener in [*self._listeners]:
            if listener in self._listeners:  # it may have failed at the report of another one's failure
                self._call(listener, partial(listener.tell, event))

    def _call(self, listener: Listener, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a listener does, the run goes on
            self._listeners.remove(listener)
            reason = str(error) or type(error).__name__
            self.tell(Note(text=f"{type(listener).__name__} failed and is told nothing more: {reason}"))
