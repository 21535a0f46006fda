"""A tracker that keeps what it gets, in its process's memory or, told so by its environment, does not."""

import os
import time

from selftaught.tracking.points import Item
from selftaught.tracking.trackers import NotArrived, Place


def open_tracker(place: Place) -> "RecordingTracker":
    return RecordingTracker(place)


class RecordingTracker:
    def __init__(self, place: Place) -> None:
        self.where = str(place.folder / "recorded.txt")
        self.place = place
        self.items: list[Item] = []
        self._how = os.environ.get("RECORDING_TRACKER", "")

    def add(self, item: Item, attempt: int | None) -> None:
        if attempt is not None and self._how == "hangs":
            time.sleep(1000)
        if attempt is not None and self._how == "dies":
            os._exit(3)
        if attempt is not None and self._how == "raises":
            raise ValueError("it has had enough")
        self.items.append(item)

    def close(self, *, is_finished: bool) -> None:
        if self._how == "lost":
            raise NotArrived("the post is late")
        with open(self.where, "a", encoding="utf-8") as file:
            file.writelines(f"{item.key}\n" for item in self.items)
