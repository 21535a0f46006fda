"""Seeds come from names, never change, and are random enough to sample tokens with."""

import hashlib
import json
import random

from hypothesis import given
from hypothesis import strategies as st

from builders import output_of
from selftaught.records.seeds import generator, seed_for, uniform
from strategies import texts

parts = st.lists(st.one_of(texts, st.integers()), max_size=5)

# The first outputs of the published SplitMix64 generator, by its seed.
SPLITMIX64 = {
    0: (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC),
    1234567: (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431),
}


def chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def test_a_seed_is_the_top_53_bits_of_the_sha256_of_its_parts_as_json() -> None:
    # printf '[0, 1, "rationale", "p1", 0]' | sha256sum  ->  5bee191a07e37738...
    assert seed_for(0, 1, "rationale", "p1", 0) == 0x5BEE191A07E37738 >> 11
    # printf '["\\u00e9"]' | sha256sum  ->  d8f81e7a2fa14557...
    assert seed_for("é") == 0xD8F81E7A2FA14557 >> 11


@given(parts)
def test_any_parts_are_hashed_as_json_writes_them(names: list[str | int]) -> None:
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    assert seed_for(*names) == int.from_bytes(digest[:8], "big") >> 11


def test_a_uniform_number_is_the_top_53_bits_of_splitmix64() -> None:
    for seed, outputs in SPLITMIX64.items():
        assert [uniform(seed, position) for position in range(4)] == [(z >> 11) / 2**53 for z in outputs]


def test_seeds_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    code = "from selftaught.records.seeds import seed_for, generator; print(seed_for(0, 'a'), generator('b').random())"
    assert output_of(code, env={"PYTHONHASHSEED": "1"}) == output_of(code, env={"PYTHONHASHSEED": "2"})


def test_a_number_and_its_text_name_different_samples() -> None:
    assert seed_for(1) != seed_for("1")


def test_parts_are_kept_apart() -> None:
    assert len({seed_for("ab", "c"), seed_for("a", "bc"), seed_for("abc"), seed_for("a", "b", "c")}) == 4


@given(parts, parts)
def test_different_names_get_different_seeds(one: list[str | int], other: list[str | int]) -> None:
    assert (seed_for(*one) == seed_for(*other)) == (one == other)


@given(parts)
def test_a_seed_is_exact_as_a_json_number_in_any_reader(names: list[str | int]) -> None:
    assert 0 <= seed_for(*names) < 2**53


def test_seeds_do_not_depend_on_the_order_in_which_they_are_computed() -> None:
    samples = [(iteration, f"p{i}", k) for iteration in (1, 2) for i in range(20) for k in range(3)]
    in_order = {name: (seed_for(0, *name), uniform(seed_for(0, *name), 5)) for name in samples}
    random.Random(0).shuffle(samples)
    assert {name: (seed_for(0, *name), uniform(seed_for(0, *name), 5)) for name in samples} == in_order


def test_generators_of_the_same_name_start_at_the_same_number() -> None:
    assert [generator("x", 1).random() for _ in range(3)] == [generator("x", 1).random()] * 3
    assert generator("x", 1).random() != generator("x", 2).random()


@given(st.integers(0, 2**64), st.integers(0, 2**32))
def test_uniform_numbers_are_in_the_half_open_unit_interval(seed: int, position: int) -> None:
    assert 0.0 <= uniform(seed, position) < 1.0


def test_the_positions_of_one_seed_are_equidistributed() -> None:
    counts = [0] * 20
    for position in range(20_000):
        counts[int(uniform(seed_for(0), position) * 20)] += 1
    assert chi_square(counts) < 50  # 19 degrees of freedom: exceeded by chance once in 7,000


def test_the_seeds_of_one_position_are_equidistributed() -> None:
    counts = [0] * 20
    for index in range(20_000):
        counts[int(uniform(seed_for(0, 1, "rationale", "p", index), 0) * 20)] += 1
    assert chi_square(counts) < 50


def test_neighbouring_positions_are_independent() -> None:
    counts = [0] * 25
    for position in range(0, 40_000, 2):
        row, column = int(uniform(1, position) * 5), int(uniform(1, position + 1) * 5)
        counts[row * 5 + column] += 1
    assert chi_square(counts) < 57  # 24 degrees of freedom


def test_neighbouring_seeds_are_independent() -> None:
    counts = [0] * 25
    for seed in range(20_000):
        counts[int(uniform(seed, 0) * 5) * 5 + int(uniform(seed + 1, 0) * 5)] += 1
    assert chi_square(counts) < 57
