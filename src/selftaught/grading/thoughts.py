"""The thought that some models write before their answer. Pure: only what follows its end is graded."""

OPENS, CLOSES = "<think>", "</think>"


def after_thought(completion: str, *, opened: bool) -> str | None:
    """What a completion says after its thought; None if the thought does not end.

    `opened` says that the prompt itself opened the thought. Otherwise only an opening tag at the very start of the
    completion, after white space, begins one, and a completion without it is given back as it is. A thought ends at the
    last closing tag, since it may quote one.
    """
    if not opened and not completion.lstrip().startswith(OPENS):
        return completion
    _, end, answer = completion.rpartition(CLOSES)
    return answer if end else None
