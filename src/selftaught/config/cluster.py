"""What of the section [cluster] contradicts other sections, and what it means for them."""

from selftaught.config.settings import RunConfig
from selftaught.records.errors import ConfigError


def check_cluster(config: RunConfig) -> None:
    """Raise ConfigError for workers that could not do what the other sections say."""
    cluster, engine = config.cluster, config.engine
    which = "cluster.address" if cluster.address else f"cluster.workers = {cluster.workers}"
    if not cluster.address and not cluster.workers:
        return
    if config.compute.workers > 1:
        raise ConfigError(
            f"{which} and compute.workers = {config.compute.workers}: each of the processes that sample would be "
            "several; leave the workers out, or --set compute.workers=1"
        )
    if not engine.computes_here:
        raise ConfigError(
            f"{which}, but engine.name = {engine.name!r} asks a server that you start; leave the workers out, or use "
            "the engine 'local' or 'vllm', of which each worker has its own"
        )


def processes_on_cpu(config: RunConfig) -> int:
    """How many processes share the CPUs and the memory of this machine while they sample, where none has a GPU."""
    here = 1 if config.cluster.address else config.cluster.workers or 1
    return max(config.compute.workers, here)
