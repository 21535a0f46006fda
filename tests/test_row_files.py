"""The shapes of data files: JSON in every layout, CSV by its separator, numbers as their column's type holds them."""

import csv
import gzip
import json
import struct
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftaught.records.errors import ConfigError
from selftaught.tasks.rows.columns import choices_of, optional_texts, texts
from selftaught.tasks.rows.files import read_rows
from selftaught.tasks.rows.prompt_file import read_prompt_file
from strategies import setting_texts

WORDS = setting_texts.filter(bool)
VALUES = WORDS | st.integers() | st.booleans() | st.none() | st.lists(WORDS) | st.dictionaries(WORDS, WORDS)
OBJECTS = st.lists(st.fixed_dictionaries({"question": WORDS, "answer": VALUES}), min_size=2, max_size=6)


def by_number(objects: list[dict[str, Any]], indent: int | None) -> str:
    return json.dumps({str(i): value for i, value in enumerate(objects)}, indent=indent)


def as_lines(objects: list[dict[str, Any]], indent: int | None) -> str:
    return "\n".join(json.dumps(value, indent=indent, ensure_ascii=False) for value in objects)


SHAPES = {
    "array": lambda objects, indent: json.dumps(objects, indent=indent, ensure_ascii=False),
    "wrapped": lambda objects, indent: json.dumps(
        {"version": "1.0", "about": {"data": ["x"]}, "data": objects}, indent=indent, ensure_ascii=False
    ),
    "the only value of an object": lambda objects, indent: json.dumps({"things": objects}, indent=indent),
    "one after another": as_lines,
    "wrapped twice": lambda objects, indent: json.dumps(
        {"version": 2, "dataset": {"name": "x", "data": objects}}, indent=indent
    ),
    "by number": by_number,
    "a comma after each line": lambda objects, indent: (
        "[\n" + ",\n".join(json.dumps(value, indent=indent, ensure_ascii=False) for value in objects) + "\n]"
    ),
}


@given(OBJECTS, st.sampled_from(sorted(SHAPES)), st.sampled_from([None, 0, 2]), st.booleans(), st.booleans())
def test_any_objects_are_read_back_from_every_shape_of_json_with_their_lines(
    tmp_path_factory: pytest.TempPathFactory,
    objects: list[dict[str, Any]],
    shape: str,
    indent: int | None,
    has_mark: bool,
    windows: bool,
) -> None:
    text = SHAPES[shape](objects, indent)
    if windows:
        text = text.replace("\n", "\r\n")
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_bytes((b"\xef\xbb\xbf" if has_mark else b"") + text.encode())
    rows = read_rows(str(path))
    assert [row.values for row in rows] == objects
    lines = text.split("\n")
    for row in rows:
        number = int(row.place.rpartition(":")[2])
        assert lines[number - 1].lstrip().startswith(("{", "[", f'"{rows.index(row)}": {{')), (
            "the place is the line where the object begins"
        )
    numbers = [int(row.place.rpartition(":")[2]) for row in rows]
    assert numbers == sorted(numbers)
    if indent is not None:
        assert len({*numbers}) == len(numbers)


def test_a_byte_order_mark_in_the_middle_comes_from_two_concatenated_files(tmp_path: Path) -> None:
    line = b'\xef\xbb\xbf{"question": "1?", "answer": 1}\n'
    (tmp_path / "rows.jsonl").write_bytes(line + line)
    assert [row.values["question"] for row in read_rows(str(tmp_path / "rows.jsonl"))] == ["1?", "1?"]
    marked = "\ufeffQ: one?\nA: One. The answer is 1\n\n\ufeffQ: two?\nA: Two. The answer is 2\n"
    assert [p.answer for p in read_prompt_file(marked, "prompt.txt")] == ["1", "2"]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("2.50", "2.5"),
        ("5.0", "5"),
        ("3.14159265358979323846", "3.14159265358979323846"),
        ("0.1", "0.1"),
        ("12345678901234567890", "12345678901234567890"),
        ("1e3", "1000"),
    ],
)
def test_numbers_of_json_keep_all_their_digits(written: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"answer": {written}}}\n')
    assert texts(read_rows(str(tmp_path / "rows.jsonl")), "answer") == [text]


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=12).filter(
    str.strip
)


@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["csv", "tsv"]),
    st.booleans(),
    st.booleans(),
)
def test_the_header_decides_the_separator(
    tmp_path_factory: pytest.TempPathFactory,
    cells: list[tuple[str, str]],
    separator: str,
    ending: str,
    has_mark: bool,
    is_named: bool,
) -> None:
    path = tmp_path_factory.mktemp("rows") / f"rows.{ending}"
    with open(path, "w", encoding="utf-8-sig" if has_mark else "utf-8", newline="") as file:
        file.write(f"sep={separator}\r\n" if is_named else "")
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([("question", "answer"), *cells])
    rows = read_rows(str(path))
    assert [tuple(row.values.values()) for row in rows] == cells
    assert rows[0].place == f"{path}:{3 if is_named else 2}"


def test_a_header_with_two_separators_is_split_by_the_one_that_fits_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("question (long, plain);answer\nfirst, of two, or three;1\nsecond;2\n")
    assert list(read_rows(str(path))[0].values) == ["question (long, plain)", "answer"]
    path.write_text("question,answer;unit\nfirst;second,1\nthird,2\n")
    assert [row.values["question"] for row in read_rows(str(path))] == ["first;second", "third"]


def test_columns_without_a_name_get_the_names_that_pandas_gives_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",question,,answer\n0,one?,,1\n")
    assert read_rows(str(path))[0].values == {"Unnamed: 0": "0", "question": "one?", "Unnamed: 2": "", "answer": "1"}
    path.write_text(",Unnamed: 0,question\n0,0,one?\n")
    with pytest.raises(ConfigError, match=r"rows\.csv:1: the header .* has a name twice"):
        read_rows(str(path))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", gzip.compress(b'{"question": "1?"}', mtime=0), "is compressed (gzip), not text; unpack it first"),
        ("a.csv", b"PK\x03\x04" + bytes(40), "is a zip archive or a spreadsheet, not text; unpack it, or save"),
        ("a.jsonl", b"PAR1" + bytes(40), "is a Parquet file, not text; call it .parquet"),
        ("a.csv", "question,answer\nhow?,1\n".encode("utf-16-le"), "not UTF-8 text but UTF-16 or UTF-32"),
        ("a.jsonl", '{"question": "1?"}'.encode("utf-16-be"), "not UTF-8 text but UTF-16 or UTF-32"),
        ("a.jsonl", b'{"question": "1?"},\n{"question": "2?"}\n', "jsonl:1: a comma follows the object; leave out"),
        (
            "a.jsonl",
            b'{"q1": {"question": "1?"}, "q2": {"question": "2?"}}',
            "jsonl:1: one object that holds rows by name",
        ),
        (
            "a.csv",
            b"question,answer,more\none?,1\n",
            "csv:2: 2 values, but the header has 3 columns, separated by ','; wr",
        ),
        ("a.csv", b"question,answer\none, two?,1\n", "put quotes around a value that holds the separator"),
    ],
)
def test_the_error_for_a_file_of_another_kind_says_what_it_is(
    name: str, content: bytes, says: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_rows(str(tmp_path / name))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_maps_are_choices_and_nan_is_no_value(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    kind = pyarrow.map_(pyarrow.string(), pyarrow.float32())
    table = {
        "choices": pyarrow.array([[("A", 0.7), ("B", 2.0)]] * 2, kind),
        "answer": pyarrow.array([1.5, float("nan")]),
    }
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    rows = read_rows(str(path))
    assert [(given.labels, given.texts) for given in choices_of(rows, "choices")] == [(("A", "B"), ("0.7", "2"))] * 2
    assert optional_texts(rows, "answer") == ["1.5", ""]
    with pytest.raises(ConfigError, match=r"rows\.parquet:2: 'answer' is NaN, which stands for no value; every row"):
        texts(rows, "answer")
    pyarrow.parquet.write_table(pyarrow.table({"x": pyarrow.array([[("A", 1.0), ("A", 2.0)]], kind)}), path)
    with pytest.raises(ConfigError, match="a map holds a key twice"):
        read_rows(str(path))


def test_the_error_for_a_link_to_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(ConfigError, match=r"rows\.jsonl is a link to '.*gone\.jsonl', which is not there"):
        read_rows(str(tmp_path / "rows.jsonl"))


# Numbers of Arrow

DECIMALS = st.builds(lambda integer, part: f"{integer}.{part}", st.integers(-999, 999), st.integers(1, 9))
KINDS: dict[str, Any] = {"float32": pyarrow.float32(), "float64": pyarrow.float64()}


@given(st.lists(DECIMALS, min_size=1, max_size=8), st.sampled_from(sorted(KINDS)), st.booleans())
def test_a_number_is_the_shortest_that_its_columns_type_holds(
    tmp_path_factory: pytest.TempPathFactory, written: list[str], kind: str, is_dictionary: bool
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    numbers = [float(number) for number in written]
    column = pyarrow.array(numbers, KINDS[kind])
    nested = pyarrow.array([{"x": [number]} for number in numbers], pyarrow.struct({"x": pyarrow.list_(KINDS[kind])}))
    table = {"answer": column.dictionary_encode() if is_dictionary else column, "nested": nested}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    rows = read_rows(str(path))
    assert texts(rows, "answer") == [str(number) for number in numbers]
    assert [row.values["nested"]["x"] for row in rows] == [[number] for number in numbers]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_shortest_number_still_has_the_same_value(tmp_path_factory: pytest.TempPathFactory, number: float) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"answer": pyarrow.array([number], pyarrow.float32())}), path)
    (text,) = texts(read_rows(str(path)), "answer")
    assert struct.pack("f", float(text)) == struct.pack("f", number) or number == 0


def test_half_floats_decimals_and_gaps(tmp_path: Path) -> None:
    import numpy

    path = tmp_path / "rows.parquet"
    table = {
        "half": pyarrow.array([numpy.float16(0.7), None], pyarrow.float16()),
        "decimal": pyarrow.array(["0.70", "5.00"]).cast(pyarrow.decimal128(10, 2)),
        "large": pyarrow.array([2**63, 1], pyarrow.uint64()),
        "day": pyarrow.array([0, 1], pyarrow.date32()),
    }
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    rows = read_rows(str(path))
    assert rows[0].values["half"] == 0.7
    assert rows[1].values["half"] is None
    assert texts(rows, "decimal") == ["0.7", "5"]
    assert texts(rows, "large") == [str(2**63), "1"]
    with pytest.raises(ConfigError, match=r"rows\.parquet:1: 'day' is of type date; expected a text or a number"):
        texts(rows, "day")


def test_rows_of_the_hub_are_read_by_their_types_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    table = pyarrow.table({"answer": pyarrow.array([0.7], pyarrow.float32())})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: datasets.Dataset(table))
    (row,) = read_rows("someone/something")
    assert row.values == {"answer": 0.7}


def test_the_error_lists_all_that_the_hub_offers_in_place_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(*args: object, **kwargs: object) -> None:
        raise ValueError("Config name is missing.\nPlease pick one from one of:\n['main', 'socratic']")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ConfigError, match=r"from one of: \['main', 'socratic'\]"):
        read_rows("someone/something")


# Choices in a prompt file

EXAMPLE = "Q: Which one?\n{}\nA: One is left. {}\n"
LISTS = [
    "(a) clip\n(b) cup\n(c) lamp",
    "(A) clip (B) cup (C) lamp",
    "Answer Choices: (a) clip (b) cup (c) lamp",
    "Answer Choices:\n(a) clip\n(b) cup\n(c) lamp",
    "Answer Choices:\n(a) clip (b) cup\n(c) lamp",
    "Choices: A) clip, B) cup, C) lamp",
    "Options: A. clip; B. cup; C. lamp",
    "a) clip\nb) cup\nc) lamp",
    "A. clip\nB. cup\nC. lamp",
    "A: clip\nB: cup\nC: lamp",
    "(a)clip(b)cup(c)lamp",
    "(a)clip\n(b)cup\n(c)lamp",
]
ANSWERS = [
    "the cup (b)",
    "“cup” (b)",
    "**cup (b)**",
    "option (b)",
    "(b). Because it is one",
    "(b)",
    "(B)",
    "cup",
    "cup (b)",
    "(b) cup",
    "cup (B)",
    "b) cup",
    "B. cup",
    "B",
]


@pytest.mark.parametrize("listed", LISTS)
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("marker", ["So the answer is {}.", "Therefore, the answer is {}.", "The answer is {}"])
def test_choices_and_answers_of_a_prompt_file_are_read_as_people_write_them(
    listed: str, answer: str, marker: str
) -> None:
    (example,) = read_prompt_file(EXAMPLE.format(listed, marker.format(answer)), "prompt.txt")
    assert (example.question, example.choices, example.answer) == ("Which one?", ("clip", "cup", "lamp"), "B")
    assert example.rationale == "One is left."


@pytest.mark.parametrize("question", ["Which one? Answer Choices: (a) clip (b) cup", "Which one? (A) clip (B) cup"])
def test_choices_may_follow_their_question_on_its_line(question: str) -> None:
    (example,) = read_prompt_file(f"Q: {question}\nA: One. The answer is (b).\n", "prompt.txt")
    assert (example.question, example.choices, example.answer) == ("Which one?", ("clip", "cup"), "B")


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("What did they see?\nA. Smith saw one.", "What did they see?\nA. Smith saw one."),
        ("Which?\nOne of two.\n(A) dog\n(B) cat\nChoose one.", "Which?\nOne of two.\nChoose one."),
        ("What is f(x) (as above)?", "What is f(x) (as above)?"),
    ],
)
def test_other_lines_belong_to_the_question(text: str, question: str) -> None:
    answer = "(A)" if "(A)" in text else "1"
    assert read_prompt_file(f"Q: {text}\nA: So. The answer is {answer}\n", "p.txt")[0].question == question


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Which?\nAnswer Choices: dog or cat", "no choices after `Answer Choices:`"),
        ("Which?\nA) dog\nC) cat", r"choice \(C\), expected \(B\)"),
        ("Which?\n(a) dog (c) cat", "choice"),
    ],
)
def test_choices_that_cannot_be_read_are_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"p\.txt:1: .*{says}" if says != "choice" else r"p\.txt:1: "):
        read_prompt_file(f"Q: {text}\nA: So. The answer is (B)\n", "p.txt")
