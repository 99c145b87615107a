"""How many workers of a trial the nodes of the joined cluster hold, now or once it has grown."""

from __future__ import annotations

from collections.abc import Mapping

from sweeps.config.resources import Resources
from sweeps.execution.ray_compat import has_autoscaler, startable_nodes
from sweeps.storage.errors import UserError

Amounts = Mapping[str, float]


def live_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster that this process has joined, if any."""
    import ray

    joined = ray.nodes() if ray.is_initialized() else ()
    return [node["Resources"] for node in joined if node["Alive"]]


def worker_needs(resources: Resources) -> dict[str, float]:
    """What Ray reserves for each worker, on the nodes that are there or may be started."""
    nodes = [*live_nodes(), *(node for node, _ in startable_nodes())]
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    return {"CPU": resources.cpus(nodes), **gpus}


def places(node: Amounts, needs: Amounts) -> int:
    """How many workers with these needs a node holds."""
    return min(int(node.get(name, 0) / amount) for name, amount in needs.items())


def check_room(resources: Resources, one_node: bool) -> None:
    """Refuse a trial that no growth of the cluster makes room for.

    ``one_node``: its workers share the disk of one node (see `Stored`).

    Raises:
        UserError: says how many workers fit. Nothing is refused if that is unknown.
    """
    startable = startable_nodes()
    nodes = startable or [(node, 1) for node in live_nodes()]
    if not nodes or (has_autoscaler() and not startable):
        return
    needs, wanted = worker_needs(resources), resources.workers
    fitting = [(places(node, needs), most) for node, most in nodes]
    each = " and ".join(f"{amount:g} {name}" for name, amount in needs.items())
    if wanted > (there := sum(here * most for here, most in fitting)):
        raise UserError(
            f"resources.workers {wanted}: the nodes of this cluster hold at most {there} workers "
            f"with {each} each; lower it, or use more or larger nodes"
        )
    if one_node and wanted > (largest := max(here for here, _ in fitting)):
        raise UserError(
            f"training.parallel fsdp with storage in an object store: the {wanted} workers of a "
            f"trial write one checkpoint to the disk of one node, and the largest node holds "
            f"{largest} workers with {each} each; use larger nodes, fewer resources.workers, or "
            "a folder that all nodes share as storage"
        )
