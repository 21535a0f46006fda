"""What a second attempt is shown: the answer, nothing, another problem's answer, or random letters."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import config, problem, problems
from selftaught.commands.setting_check import check_settings
from selftaught.config.loading import load_config
from selftaught.grading.signs import fold
from selftaught.methods.hints import NUM_WORDS, WORD_LETTERS, hints_of, longest_hints, shuffled_answers
from selftaught.methods.settings import Shows
from selftaught.prompts.chat import chat_format_of
from selftaught.prompts.rendering import own_hint, prompt_text, render_prompt, render_prompts
from selftaught.records.errors import ConfigError, EngineError
from selftaught.records.problems import LABELS, Problem, PromptFormat
from selftaught.stages.sampling import sampling_spec
from toy import folder_bytes, reply, run_toy, toy_config, toy_task

MARKED = PromptFormat(
    question="Q: {question}\n{choices}A:",
    hint=" (CORRECT)",
    completion=" {rationale} ({answer})",
    answer_only=" ({answer})",
    choice="({label}) {text}{hint}\n",
)
"""As CommonsenseQA has it: the hint stands beside the correct choice."""


@st.composite
def open_problems(draw: st.DrawFn) -> list[Problem]:
    answers = draw(st.lists(st.sampled_from(["1", "2", "30", "x", "X ", "400"]), min_size=1, max_size=30))
    return [
        problem(f"p{i}", answer=answer, class_name=draw(st.sampled_from(["one", "two"])))
        for i, answer in enumerate(answers)
    ]


@st.composite
def choice_problems(draw: st.DrawFn) -> list[Problem]:
    made = []
    for i in range(draw(st.integers(1, 20))):
        texts = draw(st.lists(st.sampled_from(["bank", "river", "Bank", "shop", "tree"]), min_size=1, max_size=5))
        made.append(problem(f"p{i}", choices=tuple(texts), answer=draw(st.sampled_from(LABELS[: len(texts)]))))
    return made


def has_another(one: Problem, among: list[Problem]) -> bool:
    if one.choices:
        return len({fold(text) for text in one.choices}) > 1
    return any(fold(other.answer) != fold(one.answer) for other in among)


@given(open_problems() | choice_problems(), st.integers(0, 99), st.integers(1, 9))
def test_no_problem_is_shown_its_own_answer_where_another_exists(
    train: list[Problem], seed: int, iteration: int
) -> None:
    if not all(has_another(one, train) for one in train):
        with pytest.raises(ValueError, match="no problem has another one"):
            shuffled_answers(train, seed=seed, iteration=iteration)
        return
    shown = shuffled_answers(train, seed=seed, iteration=iteration)
    assert shown == shuffled_answers(train, seed=seed, iteration=iteration)
    for one in train:
        answer = shown[one.id]
        if one.choices:
            text = one.choices[LABELS.index(answer)]
            assert fold(text) != fold(one.choices[LABELS.index(one.answer)])
        else:
            assert answer in {other.answer for other in train}
            assert fold(answer) != fold(one.answer)


@given(open_problems(), st.integers(0, 99))
def test_a_shuffled_hint_is_of_the_same_class_where_the_class_has_another(train: list[Problem], seed: int) -> None:
    if not all(has_another(one, train) for one in train):
        return
    shown = shuffled_answers(train, seed=seed, iteration=1)
    for one in train:
        of_class = [other for other in train if other.class_name == one.class_name]
        if has_another(one, of_class):
            assert shown[one.id] in {other.answer for other in of_class}


@given(st.integers(0, 99), st.integers(2, 40))
def test_different_answers_are_dealt_out_once_each(seed: int, number: int) -> None:
    train = [problem(f"p{i}", answer=str(i)) for i in range(number)]
    shown = shuffled_answers(train, seed=seed, iteration=1)
    assert Counter(shown.values()).most_common(1)[0][1] <= 2  # two where the last one could not swap
    assert sum(count == 1 for count in Counter(shown.values()).values()) >= number - 2


def test_another_iteration_or_seed_shows_other_answers() -> None:
    train = [problem(f"p{i}", answer=str(i)) for i in range(50)]
    first = shuffled_answers(train, seed=0, iteration=1)
    assert first != shuffled_answers(train, seed=0, iteration=2)
    assert first != shuffled_answers(train, seed=1, iteration=1)


def shown_prompt(train: Problem, shows: Shows, fmt: Any, others: tuple[Problem, ...] = ()) -> str:
    task = toy_task(train=(train, *others), prompt_format=fmt)
    return prompt_text(render_prompts(fmt, [train], hint=True, shown=hints_of(task, shows, seed=0, iteration=1))[0])


def test_a_shuffled_hint_marks_another_choice_of_the_same_question() -> None:
    asked = problem("p", choices=("bank", "shop", "river"), answer="B")
    prompt = shown_prompt(asked, "shuffled", MARKED)
    assert prompt.count("(CORRECT)") == 1
    assert "(B) shop (CORRECT)" not in prompt


@pytest.mark.parametrize("fmt", [MARKED, chat_format_of(MARKED)])
def test_a_random_text_says_nothing_of_the_choices(fmt: Any) -> None:
    """Beside the correct choice, any text would be its mark."""
    places: Counter[str] = Counter()
    for i in range(60):
        asked = problem(f"p{i}", choices=("one1", "two2", "three3"), answer="B")
        prompt = shown_prompt(asked, "text", fmt)
        text = re.search(r"(?:[a-z]{5} ){2}[a-z]{5}", prompt.replace("The correct answer is", ""))
        assert text is not None
        assert "CORRECT" not in prompt
        places[next((line[:3] for line in prompt.splitlines() if line.startswith("(") and text[0] in line), "")] += 1
    assert set(places) == ({"(A)", "(B)", "(C)"} if fmt is MARKED else {""})


@given(st.text(max_size=40), st.integers(0, 9))
def test_a_random_text_does_not_depend_on_the_answer(answer: str, seed: int) -> None:
    def hint(of: Problem) -> str:
        shown = hints_of(toy_task(), "text", seed=seed, iteration=1)
        assert shown is not None
        return shown(of).text

    text = hint(problem("p", answer=answer))
    assert text == hint(problem("p", answer="3"))
    assert len(text) == len(" (answer: )") + NUM_WORDS * (WORD_LETTERS + 1) - 1


@pytest.mark.parametrize("shows", ["answer", "shuffled", "text"])
def test_few_shot_examples_keep_their_own_answers(shows: Shows) -> None:
    task = toy_task()
    given = config(rationalization={"shows": shows})
    spec = sampling_spec(given, task, num_shots=2, temperature=0.0, again=True)
    prompt = prompt_text(spec.prompt(task, task.train[0]))
    assert prompt.startswith("Q: lemur easy (answer: 5)\nA:")
    assert ("(answer: 3)" in prompt.rpartition("Q: ")[2]) == (shows == "answer")


def test_with_nothing_to_show_the_second_attempt_has_the_prompt_of_the_first() -> None:
    task = toy_task()
    given = config(rationalization={"shows": "nothing", "temperature": 0.7})
    first, second = (
        sampling_spec(given, task, num_shots=2, temperature=0.0, again=again).prompts(task, task.train)
        for again in (False, True)
    )
    assert first == second


@given(open_problems() | choice_problems(), st.sampled_from(["answer", "shuffled", "text"]))
def test_no_hint_is_longer_than_the_longest(train: list[Problem], shows: Shows) -> None:
    if not all(has_another(one, train) for one in train):
        return
    task = toy_task(
        train=tuple(train), prompt_format=chat_format_of(MARKED if train[0].choices else toy_task().prompt_format)
    )
    longest = longest_hints(task, shows, seed=0)
    for iteration in (1, 2):
        shown = hints_of(task, shows, seed=0, iteration=iteration)
        assert shown is not None
        assert longest is not None
        assert all(len(shown(one).text) <= len(longest(one).text) for one in train)


def test_a_prompt_with_its_own_hint_is_as_it_was() -> None:
    asked = problem("p", answer="7")
    fmt = toy_task().prompt_format
    shown = render_prompts(fmt, [asked], hint=True, shown=lambda p: own_hint(fmt, p))
    assert shown == [render_prompt(fmt, asked, hint=True)]


def test_a_task_in_which_all_answers_are_one_is_refused_for_shuffled_hints() -> None:
    task = toy_task(train=problems("a", "b"))
    with pytest.raises(ConfigError, match=r"\Arationalization.shows = 'shuffled', but problem 'a' has the answer '3'"):
        check_settings(config(rationalization={"shows": "shuffled"}, sampling={"num_shots": 2}), task)


def test_a_second_attempt_that_can_only_repeat_the_first_is_refused() -> None:
    with pytest.raises(ConfigError, match="would get the same completion again"):
        load_config("gsm8k", ["method=custom", "rationalization.shows=nothing"])
    assert load_config("gsm8k", ["method=retry"]).rationalization.temperature == 0.7


def test_a_matched_draw_needs_samples_that_state_an_answer() -> None:
    with pytest.raises(ConfigError, match="lets samples without an answer pass"):
        config(selection={"keep": "random-matched", "require_hinted": ("steps",)})


@pytest.mark.parametrize("method", ["retry", "hint-shuffled", "hint-text"])
def test_a_control_that_dies_shows_the_same_after_it(method: str, tmp_path: Path) -> None:
    def run(folder: Path, dies_at: int = 0) -> None:
        left = [dies_at]

        def dying(prompt: str, seed: int) -> str:
            left[0] -= 1
            if left[0] == 0:
                raise EngineError("killed")
            return reply(prompt, seed)

        run_toy(folder, config=toy_config(method), reply=dying)

    run(tmp_path / "whole")
    names = ("samples", "examples", "left_out", "prompts.jsonl")
    for dies_at in range(2, 26, 3):
        with pytest.raises(EngineError):
            run(tmp_path / str(dies_at), dies_at)
        run(tmp_path / str(dies_at))
        assert folder_bytes(tmp_path / str(dies_at), *names) == folder_bytes(tmp_path / "whole", *names)
