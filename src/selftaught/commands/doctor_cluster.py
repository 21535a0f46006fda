"""The part of `selftaught doctor` about a Ray cluster: its nodes, and whether a run's processes can work there."""

from dataclasses import asdict
from pathlib import Path

from selftaught.commands.doctor_text import Part, plain
from selftaught.config.resolving import Resolved
from selftaught.machine.cluster import ClusterConfig, Needs, needs_of_rank
from selftaught.records.errors import ConfigError, SelftaughtError

SHOWN_VERSIONS = ("selftaught", "python", "ray", "torch", "transformers", "vllm")


def cluster_part(settings: ClusterConfig, resolved: Resolved | None, folder: Path) -> Part:
    """What a run's start would find in the cluster that the settings name. `folder` is where the run would be;
    `resolved` is None if nothing is known of the run."""
    refusals: list[str] = []
    lines: list[str] = []
    facts: dict[str, object] = {"address": settings.address}
    try:
        settings.check()
        found, refusals = _nodes(settings, resolved, folder, lines)
        facts |= found
    except SelftaughtError as error:
        refusals.append(str(error))
    return Part(name="cluster", title="Cluster", lines=plain(*lines), facts=facts, refusals=tuple(refusals))


def _nodes(
    settings: ClusterConfig, resolved: Resolved | None, folder: Path, lines: list[str]
) -> tuple[dict[str, object], list[str]]:
    """The facts and the refusals; adds a line for each node and what there is room for."""
    from selftaught.machine.ray_cluster import (
        described,
        free_now,
        joined,
        look,
        nonce_in,
        refusals,
        refuse_too_few,
        refuse_too_few_for_ranks,
        unused_gpus,
    )

    assert settings.address is not None
    with joined(settings.address), nonce_in(folder) as nonce:
        nodes = look(nonce=nonce)
        facts: dict[str, object] = {"nodes": [asdict(node) for node in nodes], "folder": str(folder)}
        for node in nodes:
            versions = ", ".join(f"{name} {node.versions[name]}" for name in SHOWN_VERSIONS if name in node.versions)
            sees = f"{'sees' if node.sees_folder else 'does not see'} {nonce[0].parent}"
            lines.append(f"node {node.name}: {described(node)}; {node.problem or f'{versions}; {sees}'}")
        lines.append(f"free now: {free_now()}")
        if resolved is None:
            return facts, refusals(nodes, [Needs(cpus=0, gpus=0)], folder)
        kinds: list[Needs] = []
        wrong: list[str] = []
        if settings.workers != 0:
            kinds.append(needs := settings.needs(resolved.machine))
            try:
                facts["workers"] = refuse_too_few(nodes, needs, settings.workers)
                lines.append(f"workers: {facts['workers']} with {needs} each")
            except ConfigError as error:
                wrong.append(str(error))
        if (ranks := settings.train_workers) > 1:
            kinds.append(needs := needs_of_rank(resolved.machine))
            try:
                refuse_too_few_for_ranks(nodes, needs, ranks)
                facts["train_workers"] = ranks
                lines.append(f"train workers: {ranks} with {needs} each")
            except ConfigError as error:
                wrong.append(str(error))
        lines += filter(None, [unused_gpus(resolved.device)])
        return facts, [*wrong, *refusals(nodes, kinds, folder)]
