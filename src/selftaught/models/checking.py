"""The check of a model's folder before anything is opened on it. torch is imported only when it is called."""

from collections.abc import Sequence

from selftaught.machine.workers import Worker
from selftaught.records.prompts import ChatSettings


def check_model_and_tokenizer(
    path: str, *, chat: ChatSettings | None, trust_remote_code: bool, workers: Sequence[Worker] = ()
) -> None:
    """Raise for a model that no engine or trainer could open, without reading its weights.

    The workers import the same libraries meanwhile.
    """
    for worker in workers:
        worker.load("selftaught.models.loading")  # at the same time as this process imports it
    from selftaught.models.loading import check_model
    from selftaught.models.tokens import Codec

    check_model(path, trust_remote_code=trust_remote_code)
    Codec(path, chat=chat, trust_remote_code=trust_remote_code)
