"""vLLM's offline class, prefix caching on; runs in the interpreter given by --vllm-python.

The offline class gives the engine all prompts at once and has no HTTP in between, which makes it the faster of vLLM's
two ways to serve. Imports nothing of selftaught: that interpreter does not have it.
"""

import os
import time
from typing import Any

from benchmarks.child import Clock, Job, generated, serve


def run(job: Job) -> dict[str, Any]:
    """job: model, device, threads, dtype, prompts, longest_prompt, warm_up, max_new_tokens, stop, ignore_end,
    max_num_seqs, kv_cache_bytes (on a CPU; a GPU's is vLLM's own choice)."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    own: dict[str, Any] = {}
    if job["device"] == "cpu":
        cpus = sorted(os.sched_getaffinity(0))[: job["threads"]]
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cpus)))
        own["kv_cache_memory_bytes"] = job["kv_cache_bytes"]
    began = time.perf_counter()
    import vllm

    longest = job["longest_prompt"] + job["max_new_tokens"] + 1
    engine = vllm.LLM(
        model=job["model"],
        dtype=job["dtype"],
        enable_prefix_caching=True,
        max_model_len=longest,
        max_num_seqs=job["max_num_seqs"],
        disable_log_stats=True,
        **own,
    )
    load = time.perf_counter() - began
    params = vllm.SamplingParams(
        temperature=0.0,
        max_tokens=job["max_new_tokens"],
        stop=job["stop"] or None,
        ignore_eos=job["ignore_end"],
    )
    began = time.perf_counter()
    engine.generate(job["warm_up"], params, use_tqdm=False)
    warm_up = time.perf_counter() - began
    with Clock() as clock:
        outputs = engine.generate(job["prompts"], params, use_tqdm=False)
    rows = [
        {"ids": list(o.outputs[0].token_ids), "text": o.outputs[0].text, "tokens": len(o.outputs[0].token_ids)}
        for o in outputs
    ]
    versions = {"vllm": vllm.__version__}
    return generated(clock, rows, load_s=load, warm_up_s=warm_up, dtype=job["dtype"], versions=versions)


if __name__ == "__main__":
    serve(run)
