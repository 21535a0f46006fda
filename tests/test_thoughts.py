"""Where a thought ends, and what is graded."""

from hypothesis import given
from hypothesis import strategies as st

import strategies  # noqa: F401 (loads the profile of property tests)
from selftaught.grading.thoughts import after_thought

texts = st.lists(st.sampled_from(["a", " ", "\n", "<think>", "</think>", "think>", "#### 4"]), max_size=8).map("".join)
without_tags = texts.filter(lambda text: "<think>" not in text and "</think>" not in text)


@given(texts, st.booleans())
def test_the_answer_is_the_end_of_the_completion_and_holds_no_closing_tag_after_a_thought(
    completion: str, opened: bool
) -> None:
    answer = after_thought(completion, opened=opened)
    has_thought = opened or completion.lstrip().startswith("<think>")
    if answer is None:
        assert has_thought
        assert "</think>" not in completion
    elif has_thought:
        assert completion.endswith("</think>" + answer)
        assert "</think>" not in answer
    else:
        assert answer == completion


@given(texts, without_tags, st.sampled_from(["", " ", "\n\n"]))
def test_a_thought_that_ends_is_cut_off_whoever_opened_it(thought: str, answer: str, space: str) -> None:
    assert after_thought(f"{thought}</think>{answer}", opened=True) == answer
    assert after_thought(f"{space}<think>{thought}</think>{answer}", opened=False) == answer
    assert after_thought(f"{space}<think>{thought}</think>{answer}", opened=True) == answer


@given(without_tags)
def test_a_thought_that_never_ends_has_no_answer(text: str) -> None:
    assert after_thought(text, opened=True) is None
    assert after_thought("<think>" + text, opened=False) is None
    assert after_thought(text, opened=False) == text


def test_a_tag_in_the_middle_of_a_text_opens_no_thought() -> None:
    assert after_thought("It writes <think> first. #### 4", opened=False) == "It writes <think> first. #### 4"
    assert after_thought("So </think> ends it. #### 4", opened=False) == "So </think> ends it. #### 4"
