"""TensorBoard: event files in tracking/tensorboard/ of the run folder. No network, nothing of the machine.

Its own writers put the host's name into the name of the file, so the records are put into one here.
"""

import html
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData
from tensorboard.summary.writer.record_writer import RecordWriter

from selftaught.tracking.points import Files, Item, Row, Texts
from selftaught.tracking.trackers import Place

PATTERN = "events.out.tfevents.*"
"""TensorBoard knows its files by this name."""


def open_tracker(place: Place) -> "EventFile":
    folder = place.folder / "tensorboard"
    folder.mkdir(parents=True, exist_ok=True)
    if place.is_new:
        for old in folder.glob(PATTERN):
            old.unlink()
    return EventFile(folder)


class EventFile:
    """One start of a run is one file; TensorBoard reads all files of a folder as one run."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        number = sum(1 for _ in folder.glob(PATTERN))
        self._writer = RecordWriter((folder / f"events.out.tfevents.{int(time.time()):010d}.{number:03d}").open("xb"))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, item: Item, attempt: int | None) -> None:
        match item:
            case Row():
                values = [Summary.Value(tag=name, simple_value=value) for name, value in item.values.items()]
                self._write(Event(wall_time=time.time(), step=item.at, summary=Summary(value=values)))
            case Texts():
                self._write(Event(wall_time=time.time(), step=item.iteration, summary=Summary(value=[_text(item)])))
            case Files():
                pass  # it has none; they are in the run folder

    def close(self, *, is_finished: bool) -> None:
        self._writer.close()

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def _text(table: Texts) -> Summary.Value:
    """One text, since TensorBoard has no tables: markdown, in which a model's text is shown and never interpreted."""
    parts = []
    for row in table.rows:
        facts = [f"{name}: {value}" for name, value in zip(table.columns, row, strict=True)]
        lines = "\n".join(facts).splitlines()
        parts.append("\n".join(f"    {html.escape(line, quote=False)}" for line in lines))
    content = TextPluginData(version=0).SerializeToString()
    return Summary.Value(
        tag=table.name,
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text", content=content)),
        tensor=TensorProto(
            dtype="DT_STRING",
            string_val=["\n\n---\n\n".join(parts).encode("utf-8", "replace")],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        ),
    )
