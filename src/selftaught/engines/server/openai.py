"""The engine `openai`: any server with OpenAI's completions API (`/v1/completions`): vLLM, llama.cpp and others.

The API has one seed per HTTP request, so every completion is an HTTP request of its own; the server batches them.
Prompts are sent as token ids where the server takes them, so that it adds no second begin token; else as text, and the
server's count of the prompt's tokens must be the local tokenizer's. No torch here: the server has the weights.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selftaught.engines.server.replies import Reply, read_models, read_reply
from selftaught.engines.server.scoring import Scoring, find_scoring
from selftaught.engines.server.transport import (
    Connection,
    RequestRejected,
    Server,
    as_they_finish,
)
from selftaught.models.tokens import Codec, cut_at_stop
from selftaught.records.errors import EngineError, RefusedError
from selftaught.records.prompts import ChatSettings, Prompt, RenderedPrompt
from selftaught.records.samples import (
    Completion,
    FinishReason,
    ModelRef,
    Request,
    SamplingParams,
    TokenScores,
)

PROBE = "Question 12: is 3 + 45 = 48?\n  Yes, naïve 7"
"""Words, digits, white space and a letter outside ASCII: two tokenizers rarely agree on all of them."""
DIALECTS: dict[str, dict[str, Any]] = {
    # Servers have samplers and defaults of their own; these fields make them sample exactly as `sampling.*` says.
    "llamacpp": {"min_p": 0.0, "repeat_penalty": 1.0, "samplers": ["temperature", "top_k", "top_p"]},
    "vllm": {
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "return_token_ids": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    },
}
"""Fields beyond OpenAI's, by `owned_by` in /v1/models; a server that is not listed gets none."""


@dataclass(frozen=True, slots=True)
class _Served:
    name: str
    owner: str
    """The kind of server, if it says so."""
    path: str
    """Where the served weights are, if the server says so."""


class OpenAIEngine:
    """Generates completions with a server of the model in a folder; the folder's tokenizer is used here.

    Raises EngineError if the server does not answer, or reads prompts as other tokens than the local tokenizer does.
    """

    def __init__(
        self,
        model: ModelRef,
        *,
        server: Server,
        served_name: str | None = None,
        concurrency: int = 16,
        trust_remote_code: bool = False,
        chat: ChatSettings | None = None,
        on_tokens: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        """`on_tokens` is called with the tokens of every completion that has arrived: answers are not streamed."""
        self._on_tokens = on_tokens
        self._codec = Codec(model.path, chat=chat, trust_remote_code=trust_remote_code)
        self._server = server
        self._concurrency = concurrency
        self._served = self._find_model(served_name)
        self._sends_ids = False  # while it is tried
        self._sends_ids = self._takes_ids()
        self._scoring: Scoring | None = None

    @property
    def address(self) -> str:
        """Of the server."""
        return self._server.base_url

    @property
    def serves(self) -> str:
        """The folder or file of the served weights as the server states it; empty if it does not."""
        return self._served.path

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        prompts = [self._codec.render(request.prompt) for request in requests]

        def job(position: int) -> Callable[[Connection], Awaitable[Completion]]:
            request, text, ids = requests[position], prompts[position].text, prompts[position].ids or ()
            who = f"request {position} (its prompt ends {text[-60:]!r})"
            body = self._body(text, ids, params, seed=request.seed)

            async def complete(connection: Connection) -> Completion:
                answer = await connection.request("/v1/completions", body, who=who, seed=request.seed)
                reply = read_reply(answer, who=who)
                self._check(reply, ids, params, who)
                return self._completion(position, reply, ids, params)

            return complete

        jobs = [job(position) for position in range(len(requests))]
        for completion in as_they_finish(self._server, jobs, concurrency=self._concurrency):
            self._on_tokens(completion.num_tokens)
            yield completion

    def render(self, prompt: Prompt) -> RenderedPrompt:
        return self._codec.render(prompt)

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        rows = [
            (self._codec.encode_prompt(r.prompt), self._codec.encode_completion(r.prompt, text))
            for r, text in zip(requests, completions, strict=True)
        ]
        if not self._sends_ids:
            raise EngineError(
                f"{self._server.base_url} takes prompts only as text, so log-probabilities of given tokens "
                "are not available from it; use one that takes token ids (vLLM, llama.cpp), or engine.name = 'local'"
            )
        if self._scoring is None:
            self._scoring = find_scoring(self._complete_all, self._codec.encode_prompt(PROBE), self._server.base_url)
        scores = self._scoring(self._complete_all, rows)
        return [TokenScores(token_ids=tuple(ids), logprobs=s) for (_, ids), s in zip(rows, scores, strict=True)]

    def close(self) -> None:
        """Nothing is held between calls; whoever started the server ends it."""

    def _body(self, prompt: str, ids: Sequence[int], params: SamplingParams, *, seed: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._served.name,
            "prompt": list(ids) if self._sends_ids else prompt,
            "max_tokens": params.max_new_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "seed": server_seed(seed),
            "logprobs": 1,
            "stream": False,
        }
        if params.stop:
            body["stop"] = list(params.stop)
        dialect = DIALECTS.get(self._served.owner)
        if dialect is not None or params.top_k:
            body["top_k"] = params.top_k or 0  # no limit; without the field a server takes its own default
        if self._served.owner == "vllm":
            body["stop_token_ids"] = sorted(self._codec.end_ids)  # by itself it knows those of the model's files alone
        return body | (dialect or {})

    def _check(self, reply: Reply, prompt_ids: Sequence[int], params: SamplingParams, who: str) -> None:
        """Refuse an answer to another prompt than the one sent, and one with another limit on new tokens."""
        if reply.prompt_tokens is not None and reply.prompt_tokens != len(prompt_ids):
            raise RefusedError(
                f"{who}: the server read {reply.prompt_tokens} tokens where the local tokenizer has {len(prompt_ids)} "
                "(another model, or a second begin token); serve the model of model.path"
            )
        num_tokens = reply.completion_tokens
        if num_tokens is not None and num_tokens > params.max_new_tokens:
            raise EngineError(
                f"{who}: got {num_tokens} tokens, expected at most sampling.max_new_tokens = {params.max_new_tokens}; "
                "the server does not keep to max_tokens"
            )
        if reply.finish == "length" and num_tokens is not None and num_tokens < params.max_new_tokens:
            raise RefusedError(
                f"{who}: the server ended the completion after {num_tokens} tokens, not at sampling.max_new_tokens = "
                f"{params.max_new_tokens}: its context is too short; start it with a longer one, or lower "
                "sampling.num_shots"
            )

    def _completion(self, position: int, reply: Reply, prompt_ids: Sequence[int], params: SamplingParams) -> Completion:
        text, was_cut = cut_at_stop(reply.text, params.stop)  # some servers leave the stop string in
        ids = list(reply.token_ids) if reply.token_ids is not None else None
        ended = bool(ids) and ids is not None and ids[-1] in self._codec.end_ids
        kept: list[int] | None = None
        if ids is not None:
            cut_text, kept, _ = self._codec.cut(ids[:-1] if ended else ids, params.stop, after=prompt_ids)
            if cut_text != text or self._codec.decode(kept, after=prompt_ids) != text:
                kept = None  # the ids hold a stop string's first letters or a split character; the text counts
        finish: FinishReason = "length"
        if was_cut or reply.stop_string is not None:
            finish = "stop"
        elif reply.finish == "stop":
            # The API has one word for an end token and a stop string; with no stop string it must be the end token.
            finish = "end" if ended or not params.stop else "stop"
        count = reply.completion_tokens
        if count is None and ids is not None:
            count = len(ids)
        if count is None:
            count = len(self._codec.encode_completion("", reply.text)) if reply.text else 0
        are_all_known = reply.logprobs is not None and len(reply.logprobs) == count
        return Completion(
            request=position,
            text=text,
            token_ids=tuple(kept) if kept is not None else None,
            finish_reason=finish,
            logprob=round(sum(reply.logprobs or ()), 6) if are_all_known else None,
            num_tokens=count,
            end_id=ids[-1] if ids and ended and finish == "end" else None,
        )

    def _find_model(self, name: str | None) -> _Served:
        who = "the list of models"
        models = read_models(self._send(lambda c: c.request("/v1/models", None, who=who)), who=who)
        names = [str(model["id"]) for model in models]
        if name and name not in names:
            raise EngineError(
                f"engine.model = {name!r}, but {self._server.base_url} serves {', '.join(map(repr, names[:10]))}; "
                "name one of them"
            )
        if not name and len(names) != 1:
            raise EngineError(
                f"{self._server.base_url} serves {len(names)} models ({', '.join(map(repr, names[:10]))}); set "
                "engine.model to one of them"
            )
        model = models[names.index(name) if name else 0]
        path = model.get("root") or model["id"]
        return _Served(name=str(model["id"]), owner=str(model.get("owned_by", "")), path=str(path))

    def _takes_ids(self) -> bool:
        """Whether prompts can be sent as ids: requests one token after PROBE, with ids and with text.

        A server that takes ids counts as many as were sent. It means the same tokens by them if it counts as many in
        the text, or if the ids that it generates decode here to its own text.
        """
        ids = self._codec.encode_prompt(PROBE)
        params = SamplingParams(temperature=0.0, max_new_tokens=1)
        who = "the probe of the tokenizer"
        text_body = self._body(PROBE, ids, params, seed=0)
        by_text = read_reply(self._send(lambda c: c.request("/v1/completions", text_body, who=who)), who=who)
        try:
            id_body = text_body | {"prompt": ids}
            by_ids = read_reply(self._send(lambda c: c.request("/v1/completions", id_body, who=who)), who=who)
        except RequestRejected:
            by_ids = None  # this server takes only text; the count below shows whether that is safe
        if by_ids is not None and by_ids.prompt_tokens == len(ids):
            if by_text.prompt_tokens == len(ids):
                return True
            new_ids = by_ids.token_ids
            if new_ids and by_ids.text.strip() and self._codec.decode(new_ids, after=ids) == by_ids.text:
                return True
        if by_text.prompt_tokens is not None and by_text.prompt_tokens != len(ids):
            raise EngineError(
                f"{self._server.base_url} reads {PROBE!r} as {by_text.prompt_tokens} tokens, the tokenizer in "
                f"model.path as {len(ids)}; serve the model of model.path, with the same tokenizer and no second begin "
                "token"
            )
        return False

    def _send(self, job: Callable[[Connection], Awaitable[Any]]) -> Any:
        (answer,) = as_they_finish(self._server, [job], concurrency=1)
        return answer

    def _complete_all(self, bodies: Sequence[dict[str, Any]], who: str) -> list[Any]:
        """The answers to several completion requests, in order."""

        def job(position: int) -> Callable[[Connection], Awaitable[tuple[int, Any]]]:
            async def complete(connection: Connection) -> tuple[int, Any]:
                body = {"model": self._served.name, "stream": False, **bodies[position]}
                return position, await connection.request("/v1/completions", body, who=who, seed=position)

            return complete

        jobs = [job(i) for i in range(len(bodies))]
        answers = dict(as_they_finish(self._server, jobs, concurrency=self._concurrency))
        return [answers[i] for i in range(len(bodies))]


def server_seed(seed: int) -> int:
    """A request's seed in the range that every server takes: 1 to 2^31 - 1 (for some, 0 or all ones means "any")."""
    return 1 + seed % ((1 << 31) - 1)
