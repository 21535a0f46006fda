"""What each column of an exported data set means; docs/run-folder.md says the same of the files that they come from."""

COLUMNS: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "samples",
        {
            "problem_id": "in `problems`",
            "question": "of the problem, as are the next three",
            "answer": "the reference answer; with choices, the correct one's label",
            "choices": "their texts, labelled A, B, C, … in this order; empty without choices",
            "class_name": "results are reported by it",
            "prompt": "everything that the model read: few-shot examples, the question, perhaps a hint",
            "completion": "what it wrote, without the stop string and what follows",
            "prediction": "the answer read from the completion, or null",
            "verdict": "`correct`, `incorrect` or `unparseable`",
            "kind": "`rationale`, `rationalization` (second attempt, mostly with a hint) or `evaluation`",
            "iteration": "that it was sampled for; 0 is before the first",
            "index": "of the completions of a problem, from 0",
            "seed": "of its random numbers, below 2^53",
            "prompt_sha256": "first 16 hex digits of the prompt's SHA-256",
            "weights_sha256": "first 16 hex digits of the hash of the weights that wrote it",
            "checkpoint": "which model of the run wrote it: the number of an iteration, or null for the base model",
            "token_ids": "that decode to `completion`, without the end token; null if the engine knew none",
            "num_tokens": "generated, the end token and cut ones included",
            "finish_reason": "`end` (end token), `stop` (stop string) or `length` (truncated)",
            "end_id": "the end token that ended it, or null",
            "logprob": "sum over the generated tokens, temperature 1, nats; null if unknown",
            "checks": "`name`, `passed`, `share` (of the steps before the first wrong one), `detail` and "
            "`at` (characters of `completion`)",
        },
    ),
    (
        "examples, training_set",
        {
            "problem_id": "in `problems`",
            "prompt": "without hint and few-shot examples; no loss. A text, or turns (`role`, `content`)",
            "given": "the beginning of the completion that carried no loss, mostly empty",
            "completion": "carried the loss, with one end token after it",
            "source": "`rationale`, `rationalization`, `human`, `answer` or `rehearsed`",
            "iteration": "of the sample it came from",
            "index": "of that sample",
            "completion_ids": "the sampled ids that were trained on, or null for text that was encoded",
            "end_id": "the end token that was trained after them; null where it was the model's own",
        },
    ),
    (
        "problems",
        {
            "id": "in the task",
            "question": "",
            "answer": "the reference answer",
            "choices": "their texts",
            "class_name": "results are reported by it",
            "rationale": "the human solution that came with the data, or empty",
        },
    ),
)
"""By configuration: column -> meaning."""
