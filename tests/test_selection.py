"""Which samples are kept, which are left out and why; and that no hint of a training problem reaches an example."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from builders import few_shot_example, problem, sample, steps_check
from builders import problems as problems_with_ids
from selftaught.grading.judging import NEVER_ENDS
from selftaught.methods.selection import Rule, Selection, rejection, select
from selftaught.methods.training_set import (
    examples_from_samples,
    examples_from_solutions,
    rehearsed_examples,
    training_set,
)
from selftaught.prompts.rendering import render_completion, render_prompt
from selftaught.records.problems import Problem, Verdict
from selftaught.records.samples import Rereadable, Sample, SampleKey, sample_key
from selftaught.records.seeds import seed_for, uniform
from strategies import IDS, awkward_texts, knobs, problems, sample_sets
from toy import FORMAT, toy_config, toy_task

HELD_OUT = "held out for validation"


def selected(*samples: Sample, **knobs: Any) -> Selection:
    """Select with the paper's knobs and nothing held out; other knobs as given."""
    defaults = {"require": ("answer",), "require_hinted": ("answer",), "unique_by": "text"}
    defaults |= {"max_per_problem": None, "validation_share": 0.0, "seed": 0}
    return select(samples, Rule(**{**defaults, **knobs}))


def of_keys(samples: Iterable[Sample], *keys: Iterable[SampleKey]) -> list[Sample]:
    by_key = {sample_key(s): s for s in samples}
    return [by_key[key] for key in chain(*keys)]


def reasons(selection: Selection) -> list[str]:
    return [item.reason for item in selection.left_out]


def text_key(sample: Sample, unique_by: str) -> object:
    if unique_by == "none":
        return sample_key(sample)
    return sample.completion if unique_by == "text" else " ".join(sample.completion.split()).casefold()


def passes(sample: Sample, knobs: dict[str, Any]) -> bool:
    """Whether a sample is complete and meets what is required of its kind."""
    required = knobs["require_hinted" if sample.kind == "rationalization" else "require"]
    return (
        sample.finish_reason != "length"
        and sample.completion != ""
        and (sample.verdict is Verdict.CORRECT or "answer" not in required)
        and (sample.checks["steps"].passed or "steps" not in required)
    )


@given(sample_sets, knobs)
def test_every_sample_is_either_kept_or_left_out(samples: list[Sample], knobs: dict[str, Any]) -> None:
    selection = select(samples, Rule(**knobs))
    assert Counter([*map(sample_key, selection.kept), *map(sample_key, selection.left_out)]) == Counter(
        map(sample_key, samples)
    )


@given(sample_sets, knobs)
def test_held_out_samples_are_among_the_left_out_with_their_reason(
    samples: list[Sample], knobs: dict[str, Any]
) -> None:
    selection = select(samples, Rule(**knobs))
    assert sorted(map(sample_key, selection.held_out)) == [
        sample_key(i) for i in selection.left_out if i.reason == HELD_OUT
    ]


@given(sample_sets, knobs, st.randoms())
def test_the_order_of_the_samples_does_not_matter(samples: list[Sample], knobs: dict[str, Any], random: Any) -> None:
    shuffled = samples[:]
    random.shuffle(shuffled)
    assert select(shuffled, Rule(**knobs)) == select(samples, Rule(**knobs))


@given(sample_sets, knobs)
def test_every_kept_sample_is_correct_complete_and_accepted(samples: list[Sample], knobs: dict[str, Any]) -> None:
    selection = select(samples, Rule(**knobs))
    for kept in of_keys(samples, selection.kept, selection.held_out):
        assert passes(kept, knobs)


@given(sample_sets, knobs)
def test_no_problem_keeps_more_than_the_cap(samples: list[Sample], knobs: dict[str, Any]) -> None:
    assume(knobs["max_per_problem"])
    selection = select(samples, Rule(**knobs))
    kept = Counter(s.problem_id for s in (*selection.kept, *selection.held_out))
    assert all(count <= knobs["max_per_problem"] for count in kept.values())


@given(sample_sets, knobs)
def test_only_a_full_problem_leaves_a_sample_out_over_the_cap(samples: list[Sample], knobs: dict[str, Any]) -> None:
    selection = select(samples, Rule(**knobs))
    kept = Counter(s.problem_id for s in (*selection.kept, *selection.held_out))
    for item in selection.left_out:
        assert item.reason != "over the cap" or kept[item.problem_id] == knobs["max_per_problem"]


@given(sample_sets, knobs)
def test_no_problem_keeps_two_samples_with_the_same_key(samples: list[Sample], knobs: dict[str, Any]) -> None:
    selection = select(samples, Rule(**knobs))
    kept = of_keys(samples, selection.kept, selection.held_out)
    keys = [(s.problem_id, text_key(s, knobs["unique_by"])) for s in kept]
    assert len(keys) == len(set(keys))


@given(sample_sets, knobs)
def test_a_duplicate_comes_after_the_sample_that_it_repeats(samples: list[Sample], knobs: dict[str, Any]) -> None:
    selection = select(samples, Rule(**knobs))
    by_key = {sample_key(s): s for s in samples}
    first: dict[tuple[str, object], Any] = {}
    for s in of_keys(samples, selection.kept, selection.held_out):
        first[s.problem_id, text_key(s, knobs["unique_by"])] = sample_key(s)
    for item in selection.left_out:
        if item.reason == "duplicate":
            own = by_key[sample_key(item)]
            assert first[own.problem_id, text_key(own, knobs["unique_by"])] < sample_key(own)


@given(sample_sets, knobs)
def test_without_a_cap_every_accepted_text_is_kept_once(samples: list[Sample], knobs: dict[str, Any]) -> None:
    selection = select(samples, Rule(**{**knobs, "max_per_problem": None}))
    wanted = {(s.problem_id, text_key(s, knobs["unique_by"])) for s in samples if passes(s, knobs)}
    kept = of_keys(samples, selection.kept, selection.held_out)
    assert {(s.problem_id, text_key(s, knobs["unique_by"])) for s in kept} == wanted


@given(sample_sets, knobs)
def test_holding_out_keeps_all_samples_of_a_problem_together(samples: list[Sample], knobs: dict[str, Any]) -> None:
    selection = select(samples, Rule(**knobs))
    assert not {s.problem_id for s in selection.kept} & {s.problem_id for s in selection.held_out}


@given(sample_sets, knobs)
def test_not_every_sample_is_held_out(samples: list[Sample], knobs: dict[str, Any]) -> None:
    selection = select(samples, Rule(**knobs))
    assert selection.kept or not selection.held_out


@given(sample_sets, knobs)
def test_holding_out_changes_nothing_else(samples: list[Sample], knobs: dict[str, Any]) -> None:
    with_some, with_none = select(samples, Rule(**knobs)), select(samples, Rule(**{**knobs, "validation_share": 0.0}))
    assert sorted(map(sample_key, (*with_some.kept, *with_some.held_out))) == sorted(map(sample_key, with_none.kept))
    assert with_none.held_out == ()


def test_the_share_of_problems_that_is_held_out_is_the_configured_one() -> None:
    selection = selected(*(sample(f"p{i}") for i in range(2000)), validation_share=0.1)
    assert 150 < len(selection.held_out) < 250


def test_a_problem_is_held_out_in_every_iteration_or_in_none() -> None:
    first = selected(*(sample(f"p{i}", iteration=1) for i in range(100)), validation_share=0.3)
    second = selected(*(sample(f"p{i}", iteration=2) for i in range(0, 100, 2)), validation_share=0.3)
    held_out = {s.problem_id for s in first.held_out}
    assert {s.problem_id for s in second.held_out} == {f"p{i}" for i in range(0, 100, 2)} & held_out
    assert held_out


@pytest.mark.parametrize(
    ("given_sample", "require", "reason"),
    [
        (sample(verdict=Verdict.INCORRECT), ("answer",), "incorrect"),
        (sample(verdict=Verdict.UNPARSEABLE), ("answer",), "unparseable"),
        (sample(finish_reason="length"), ("answer",), "truncated"),
        (sample(finish_reason="length"), (), "truncated"),
        (sample(completion="", token_ids=()), (), "empty"),
        (sample(checks={"thought": NEVER_ENDS}), ("steps",), "wrong steps"),
        (sample(verdict=Verdict.INCORRECT, finish_reason="length"), ("answer",), "incorrect"),
        (sample(checks=steps_check(passed=False)), ("answer", "steps"), "wrong steps"),
        (sample(verdict=Verdict.INCORRECT, checks=steps_check(passed=False)), ("steps",), "wrong steps"),
    ],
)
def test_the_reason_for_leaving_out(given_sample: Sample, require: tuple[str, ...], reason: str) -> None:
    assert reasons(selected(given_sample, require=require)) == [reason]


def test_wrong_steps_are_kept_unless_steps_are_required() -> None:
    assert selected(sample(checks=steps_check(passed=False))).kept
    assert selected(sample(checks=steps_check(passed=True)), require=("answer", "steps")).kept


def test_what_is_required_of_hinted_samples_is_required_of_no_others() -> None:
    wrong = steps_check(passed=False)
    selection = selected(
        sample("a", checks=wrong),
        sample("b", kind="rationalization", checks=wrong),
        sample("c", kind="rationalization", checks=steps_check(passed=True)),
        require_hinted=("answer", "steps"),
    )
    assert [s.problem_id for s in selection.kept] == ["a", "c"]
    assert [(i.problem_id, i.reason) for i in selection.left_out] == [("b", "wrong steps")]


def test_a_rule_without_requirements_keeps_incorrect_answers() -> None:
    assert selected(sample(verdict=Verdict.INCORRECT), require=()).kept


def test_a_sample_without_a_hint_stays_before_the_same_one_with_a_hint() -> None:
    selection = selected(sample(kind="rationalization"), sample(kind="rationale"))
    assert [s.kind for s in selection.kept] == ["rationale"]
    assert reasons(selection) == ["duplicate"]


def test_the_sample_of_an_earlier_iteration_stays() -> None:
    selection = selected(sample(iteration=2), sample(iteration=1, kind="rationalization"))
    assert [s.iteration for s in selection.kept] == [1]


def test_the_same_text_for_two_problems_is_no_duplicate() -> None:
    assert len(selected(sample("a"), sample("b")).kept) == 2


def test_a_rejected_sample_neither_makes_duplicates_nor_counts_towards_the_cap() -> None:
    wrong = sample(index=0, verdict=Verdict.INCORRECT)
    assert [s.index for s in selected(wrong, sample(index=1), max_per_problem=1).kept] == [1]


def test_a_duplicate_does_not_count_towards_the_cap() -> None:
    selection = selected(
        sample(index=0, completion="x"),
        sample(index=1, completion="x"),
        sample(index=2, completion="y"),
        sample(index=3, completion="z"),
        max_per_problem=2,
    )
    assert [s.index for s in selection.kept] == [0, 2]
    assert reasons(selection) == ["duplicate", "over the cap"]


@pytest.mark.parametrize(("unique_by", "kept"), [("none", 4), ("text", 3), ("normalized-text", 1)])
def test_what_counts_as_a_duplicate(unique_by: str, kept: int) -> None:
    completions = ["A b", "A b", "a  b", " A b\n"]
    samples = [sample(index=k, completion=text) for k, text in enumerate(completions)]
    assert len(selected(*samples, unique_by=unique_by).kept) == kept


def test_normalized_texts_that_differ_in_a_word_break_are_different() -> None:
    samples = [sample(index=0, completion="1 2"), sample(index=1, completion="12")]
    assert len(selected(*samples, unique_by="normalized-text").kept) == 2


@given(sample_sets, st.sampled_from(["", "other", "{hint}", "3"]))
def test_the_trained_prompt_does_not_depend_on_the_answer(samples: list[Sample], other: str) -> None:
    train = {name: problem(name, answer="GOLD") for name in IDS}
    changed = {name: replace(p, answer=other, rationale=other) for name, p in train.items()}
    examples = examples_from_samples(samples, train, FORMAT)
    assert [e.prompt for e in examples] == [e.prompt for e in examples_from_samples(samples, changed, FORMAT)]
    assert not any("GOLD" in e.prompt for e in examples)


@given(sample_sets)
def test_an_example_is_the_prompt_without_a_hint_and_its_samples_completion(samples: list[Sample]) -> None:
    train = {name: problem(name) for name in IDS}
    for example, source in zip(examples_from_samples(samples, train, FORMAT), samples, strict=True):
        assert example.prompt == render_prompt(FORMAT, train[source.problem_id], hint=False)
        assert (example.completion, example.completion_ids) == (source.completion, source.token_ids)
        assert (example.problem_id, example.iteration, example.index) == (
            source.problem_id,
            source.iteration,
            source.index,
        )
        assert example.source == source.kind


def test_an_example_keeps_the_ids_that_were_sampled() -> None:
    (example,) = examples_from_samples([sample(token_ids=(5, 6))], {"p1": problem()}, FORMAT)
    assert example.completion_ids == (5, 6)


@given(st.lists(problems(), max_size=4), awkward_texts)
def test_examples_of_human_solutions_carry_no_hint(solved: list[Problem], other: str) -> None:
    examples = examples_from_solutions(solved, FORMAT, iteration=1)
    changed = examples_from_solutions([replace(p, answer=other) for p in solved], FORMAT, iteration=1)
    assert [e.prompt for e in examples] == [e.prompt for e in changed]
    assert [e.completion for e in examples] == [render_completion(FORMAT, p) for p in solved]


def test_a_solution_with_a_rationale_is_human_and_one_without_is_an_answer() -> None:
    examples = examples_from_solutions([few_shot_example("a"), problem("b")], FORMAT, iteration=4)
    assert [(e.source, e.iteration, e.completion_ids) for e in examples] == [("human", 4, None), ("answer", 4, None)]


def test_few_shot_examples_are_rehearsed_with_and_without_a_hint_if_the_method_uses_hints() -> None:
    examples = rehearsed_examples(
        [few_shot_example("s1"), few_shot_example("s2")], FORMAT, with_hints=True, iteration=3
    )
    assert [(e.problem_id, e.index, "(answer: 3)" in e.prompt) for e in examples] == [
        ("s1", 0, False),
        ("s1", 1, True),
        ("s2", 0, False),
        ("s2", 1, True),
    ]
    assert {(e.source, e.iteration, e.completion) for e in examples} == {
        ("rehearsed", 3, render_completion(FORMAT, few_shot_example("s1"))),
        ("rehearsed", 3, render_completion(FORMAT, few_shot_example("s2"))),
    }


def test_a_method_without_hints_rehearses_no_prompt_with_a_hint() -> None:
    examples = rehearsed_examples(
        [few_shot_example("s1"), few_shot_example("s2")], FORMAT, with_hints=False, iteration=3
    )
    assert [e.problem_id for e in examples] == ["s1", "s2"]
    assert not any("(answer:" in e.prompt for e in examples)


def test_without_samples_the_selection_is_empty() -> None:
    assert selected() == Selection(kept=(), held_out=(), left_out=())


@given(sample_sets, knobs)
def test_what_is_kept_held_out_and_left_out_is_in_canonical_order(samples: list[Sample], knobs: dict[str, Any]) -> None:
    selection = select(samples, Rule(**knobs))
    for part in (selection.kept, selection.held_out, selection.left_out):
        keys = [sample_key(item) for item in part]
        assert keys == sorted(keys)


def test_the_first_samples_of_each_problem_are_kept_up_to_the_cap() -> None:
    samples = [sample(name, index=k, completion=str(k)) for name in "cab" for k in (2, 0, 1)]
    selection = selected(*samples, max_per_problem=2)
    groups: dict[str, list[int]] = defaultdict(list)
    for s in selection.kept:
        groups[s.problem_id].append(s.index)
    assert list(groups.items()) == [("a", [0, 1]), ("b", [0, 1]), ("c", [0, 1])]
    assert [(i.problem_id, i.index) for i in selection.left_out] == [("a", 2), ("b", 2), ("c", 2)]


@given(sample_sets, knobs)
def test_a_matched_draw_keeps_as_many_as_pass_and_of_those_that_state_an_answer(
    samples: list[Sample], knobs: dict[str, Any]
) -> None:
    knobs = {**knobs, "validation_share": 0.0, "require": ("answer",), "require_hinted": ("answer", "steps")}
    matched = select(samples, Rule(**knobs, keep="random-matched"))
    assert len(matched.kept) == len(select(samples, Rule(**knobs)).kept)
    for kept in of_keys(samples, matched.kept):
        assert kept.verdict is not Verdict.UNPARSEABLE
        assert kept.finish_reason != "length"
        assert kept.completion
    per_problem = Counter(s.problem_id for s in matched.kept)
    assert all(count <= (knobs["max_per_problem"] or count) for count in per_problem.values())
    assert len(matched.kept) + len(matched.left_out) == len(samples)
    assert matched == select(samples[::-1], Rule(**knobs, keep="random-matched"))


def test_a_matched_draw_is_uniform_over_samples_and_does_not_see_the_verdict() -> None:
    samples = [
        sample(f"p{i}", verdict=Verdict.CORRECT if i < 4 else Verdict.INCORRECT, completion=f"c{i}") for i in range(10)
    ]
    drawn: Counter[str] = Counter()
    for seed in range(1000):
        drawn.update(s.problem_id for s in selected(*samples, keep="random-matched", seed=seed).kept)
    assert drawn.total() == 4000
    assert all(330 < drawn[f"p{i}"] < 470 for i in range(10))  # 400 each; 4.5 standard deviations


def test_a_matched_draw_names_those_that_were_not_drawn() -> None:
    samples = (
        sample("a", completion="right"),
        sample("b", completion="wrong", verdict=Verdict.INCORRECT),
        sample("c", completion="none", verdict=Verdict.UNPARSEABLE),
        sample("d", completion="cut", finish_reason="length"),
    )
    assert sorted(reasons(selected(*samples, keep="random-matched"))) == ["not drawn", "truncated", "unparseable"]


def test_without_a_filter_whatever_states_an_answer_and_ends_is_kept() -> None:
    samples = (
        sample("a", completion="right"),
        sample("b", completion="wrong", verdict=Verdict.INCORRECT),
        sample("c", completion="none", verdict=Verdict.UNPARSEABLE),
        sample("d", completion="cut", finish_reason="length"),
    )
    selection = selected(*samples, require=("parseable",))
    assert [s.problem_id for s in selection.kept] == ["a", "b"]
    assert reasons(selection) == ["unparseable", "truncated"]


def number_of_words(completion: str) -> str:
    return str(len(completion.split()))


def by_definition(samples: list[Sample], rule: Rule) -> tuple[list[Sample], list[Sample], set[tuple[SampleKey, str]]]:
    """What is kept and held out, and the keys of what is left out with their reasons; with all samples in a list."""
    ordered = sorted(samples, key=sample_key)

    def kept_and_left_out(rule: Rule) -> tuple[list[Sample], set[tuple[SampleKey, str]]]:
        kept: list[Sample] = []
        left_out: set[tuple[SampleKey, str]] = set()
        for s in ordered:
            of_problem = [other for other in kept if other.problem_id == s.problem_id]
            reason = rejection(s, rule)
            if reason is None and key_of(s) in map(key_of, of_problem):
                reason = "duplicate"
            if reason is None and len(of_problem) == rule.max_per_problem:
                reason = "over the cap"
            if reason is None:
                kept.append(s)
            else:
                left_out.add((sample_key(s), reason))
        return kept, left_out

    def key_of(s: Sample) -> object:
        return number_of_words(s.completion) if rule.unique_by == "equations" else text_key(s, rule.unique_by)

    kept, left_out = kept_and_left_out(rule)
    if rule.keep == "random-matched":
        everything = replace(rule, require=("parseable",), require_hinted=("parseable",), max_per_problem=None)
        pool, left_out = kept_and_left_out(everything)
        drawn: list[Sample] = []
        for s in sorted(pool, key=lambda s: seed_for(rule.seed, "random-matched", *sample_key(s))):
            is_full = [other.problem_id for other in drawn].count(s.problem_id) == rule.max_per_problem
            if len(drawn) < len(kept) and not is_full:
                drawn.append(s)
        left_out |= {(sample_key(s), "not drawn") for s in pool if s not in drawn}
        kept = [s for s in pool if s in drawn]
    held_out = [
        s
        for s in kept
        if s.problem_id not in rule.never_held_out
        and uniform(seed_for(rule.seed, "validation", s.problem_id), 0) < rule.validation_share
    ]
    held_out = [] if len(held_out) == len(kept) else held_out
    left_out |= {(sample_key(s), HELD_OUT) for s in held_out}
    return [s for s in kept if s not in held_out], held_out, left_out


requirements = st.lists(st.sampled_from(["answer", "parseable", "steps", "no-leak"]), unique=True).map(tuple)
every_rule = st.builds(
    Rule,
    require=requirements,
    require_hinted=requirements,
    unique_by=st.sampled_from(["none", "text", "normalized-text", "equations"]),
    max_per_problem=st.none() | st.integers(1, 4),
    validation_share=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    seed=st.integers(0, 2**32),
    never_held_out=st.frozensets(st.sampled_from(IDS)),
    keep=st.sampled_from(["accepted", "random-matched"]),
)


@given(sample_sets, every_rule)
def test_samples_that_are_read_one_at_a_time_are_selected_as_if_all_were_in_a_list(
    samples: list[Sample], rule: Rule
) -> None:
    stream = Rereadable(lambda: (replace(s) for s in samples))
    selection = select(stream, rule, solution_key=number_of_words)
    kept, held_out, left_out = by_definition(samples, rule)
    assert selection.kept == tuple(map(sample_key, kept))
    assert selection.held_out == tuple(map(sample_key, held_out))
    assert len(selection.left_out) == len(left_out)
    assert {(sample_key(item), item.reason) for item in selection.left_out} == left_out
    assume(kept)
    task = toy_task(train=problems_with_ids(*IDS))
    chosen = training_set(toy_config().training, task, 2, selection, stream, (), with_hints=False)
    train = {p.id: p for p in task.train}
    assert list(chosen.examples) == examples_from_samples(kept, train, FORMAT)
    assert list(chosen.validation) == examples_from_samples(held_out, train, FORMAT)


def test_samples_that_can_be_read_only_once_are_refused() -> None:
    once = iter([sample("a"), sample("b")])
    selection = selected(*once)
    with pytest.raises(ValueError, match="2 samples were selected, and 0 of them found again"):
        training_set(
            toy_config().training, toy_task(train=problems_with_ids("a", "b")), 1, selection, once, (), with_hints=False
        )


def test_the_examples_of_a_problem_share_one_prompt() -> None:
    samples = [sample("a", index=0), sample("b"), sample("a", index=1)]
    first, _, last = examples_from_samples(iter(samples), {p.id: p for p in problems_with_ids("a", "b")}, FORMAT)
    assert first.prompt is last.prompt
