"""The file of a stage: whatever a kill leaves of it, complete chunks are read and the rest is made again."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import sample
from selftaught.records.errors import StoreError
from selftaught.records.samples import Sample
from selftaught.runs.lines import complete_lines, parsed
from selftaught.runs.stage_file import StageFile
from test_store import fresh_store, numbered, one_line_error, planned, written_in_chunks


def read(stage: StageFile, samples: list[Sample]) -> list[Sample] | None:
    return stage.read(planned(samples), [s.seed for s in samples])


def carried_on(path: Path, samples: list[Sample], chunk: int) -> list[int]:
    """Do what a run does with a stage that is planned as these samples; returns the chunks that were missing."""
    stage, missing = StageFile(path), []
    for first in range(0, len(samples), chunk):
        wanted = samples[first : first + chunk]
        if (found := read(stage, wanted)) is None:
            missing.append(first)
            stage.append(wanted)
        else:
            assert found == wanted
    stage.end()
    return missing


def test_the_bytes_of_a_stage_do_not_depend_on_the_size_of_its_chunks() -> None:
    contents = set()
    for chunk in (1, 3, 7):
        with fresh_store() as store:
            contents.add(written_in_chunks(store, numbered(7), chunk).read_bytes())
    assert len(contents) == 1


def test_a_file_cut_at_any_byte_keeps_its_complete_chunks_and_is_completed_to_the_same_bytes() -> None:
    samples, chunk = numbered(5), 2  # chunks of 2, 2 and 1
    with fresh_store() as store:
        path = written_in_chunks(store, samples, chunk)
        content = path.read_bytes()
        ends = [sum(len(line) for line in content.splitlines(keepends=True)[:n]) for n in range(6)]
        for cut in range(len(content) + 1):
            path.write_bytes(content[:cut])
            kept = max(n for n in (0, 2, 4, 5) if ends[n] <= cut)
            assert carried_on(path, samples, chunk) == [first for first in (0, 2, 4) if first >= kept]
            assert path.read_bytes() == content


@given(st.integers(1, 12), st.integers(1, 5), st.data())
def test_only_complete_chunks_of_a_cut_file_are_kept(number: int, chunk: int, data: st.DataObject) -> None:
    with fresh_store() as store:
        path = written_in_chunks(store, numbered(number), chunk)
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        lines = content[:cut].count(b"\n")
        kept = number if lines == number else lines // chunk * chunk
        assert carried_on(path, numbered(number), chunk) == [f for f in range(0, number, chunk) if f >= kept]
        assert path.read_bytes() == content


def test_a_torn_chunk_stays_until_another_one_takes_its_place(tmp_path: Path) -> None:
    stage = StageFile(tmp_path / "stage.jsonl")
    stage.append(numbered(2))
    complete = stage.path.read_bytes()
    torn = complete + complete.splitlines(keepends=True)[0] + b'{"problem_id": "torn'
    stage.path.write_bytes(torn)
    again = StageFile(stage.path)
    assert read(again, numbered(2)) == numbered(2)
    assert read(again, numbered(4)[2:]) is None
    assert stage.path.read_bytes() == torn
    again.append(numbered(4)[2:])
    assert list(parsed(Sample, complete_lines(stage.path), stage.path)) == numbered(4)


def test_a_stage_that_has_not_begun_has_no_chunks(tmp_path: Path) -> None:
    stage = StageFile(tmp_path / "stage.jsonl")
    assert read(stage, numbered(2)) is None
    assert stage.is_empty
    assert not stage.path.exists()


def test_a_file_with_more_samples_than_planned_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "stage.jsonl"
    StageFile(path).append(numbered(3))
    content = path.read_bytes()
    stage = StageFile(path)
    assert read(stage, numbered(2)) == numbered(2)
    assert "only 2 samples were planned; the file is not this run's" in one_line_error(stage.end)
    assert path.read_bytes() == content


@given(st.binary(max_size=30).filter(lambda tail: b"\n" not in tail))
def test_whatever_follows_the_last_line_is_cut(tail: bytes) -> None:
    with fresh_store() as store:
        path = written_in_chunks(store, numbered(3), 2)
        content = path.read_bytes()
        path.write_bytes(content + tail)
        assert carried_on(path, numbered(3), 2) == []
        assert path.read_bytes() == content


def test_samples_that_were_not_planned_are_refused_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "stage.jsonl"
    StageFile(path).append(numbered(2))
    content = path.read_bytes()
    for other in ([sample("p0"), sample("other")], [sample("p0", completion="line\n0", seed=8), sample("p1", index=1)]):
        with pytest.raises(StoreError, match="is planned; the file is not this run's"):
            read(StageFile(path), other)
    assert path.read_bytes() == content
