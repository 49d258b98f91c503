"""`--engine ray`: the files of a release written by the machines of a Ray cluster.

Every machine sees source and target under the same paths, and has the same versions. Blocks whose
machine fails are written again by another one.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from medshield.engines import Block, Keep, Order, Tell, one_thread
from medshield.errors import InputError, SourceLost, WorkerLost
from medshield.journal import Finished
from medshield.methods.base import untold
from medshield.release_writer import ReleaseWriter, work_of
from medshield.versions import versions

BLOCKS_AHEAD = 2
"""Blocks that wait for each processor of the cluster."""
GPU_SHARE = 0.25
"""Of a GPU, for each task: others decode and encode while one computes."""
MOST_RETRIES = 5
"""Of a block whose worker died."""


def write_on_ray(
    order: Order,
    blocks: Sequence[Block],
    keep: Keep,
    *,
    address: str | None,
    tell: Tell = untold,
) -> None:
    """Write blocks on a cluster.

    Args:
        order: what to write.
        blocks: of files.
        keep: told of each file, in the order in which blocks are done.
        address: of the cluster, such as ray://head:10001; None for RAY_ADDRESS, or, without one,
            for the processors of this machine.
        tell: told of the work of each block that is done.

    Raises:
        InputError: Ray is not installed or not to be reached, or a machine has other versions or
            other folders.
        WorkerLost: a block was lost too often.
    """
    ray = _imported()
    with _connected(ray, address):
        task, shared = _task(ray, order)
        waiting = iter(blocks)
        at_work: dict[Any, float] = {}
        while True:
            most = BLOCKS_AHEAD * int(ray.cluster_resources().get("CPU", 1))
            while len(at_work) < most and (block := next(waiting, None)):
                at_work[task.remote(shared, versions(), block)] = work_of(block)
            if not at_work:
                return
            done = ray.wait(list(at_work))[0][0]
            for one in _result(ray, done):
                keep(one)
            tell(at_work.pop(done))


def _imported() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(
            "--engine ray: Ray is not installed; pip install 'medshield[cluster]'"
        ) from None
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unasked
    own = {"include_dashboard": False} if wanted == "local" else {}
    try:
        ray.init(wanted, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--ray-address {wanted}: no Ray cluster can be reached there "
            f"({type(error).__name__}); give one such as ray://head:10001, or `local`"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _task(ray: Any, order: Order) -> tuple[Any, Any]:
    """What writes a block, and the order as all machines share it.

    All take the same kind of device, or the release would depend on who does what.
    """
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    device = {"auto": "cuda" if has_gpu else "cpu"}.get(order.device, order.device)
    needs = {"num_cpus": 1, "num_gpus": GPU_SHARE if device == "cuda" else 0}
    task = ray.remote(max_retries=MOST_RETRIES, scheduling_strategy="SPREAD", **needs)(_write)
    return task, ray.put(order.without_files.on(device))


def _result(ray: Any, reference: Any) -> list[Finished]:
    """What came of a block.

    Raises:
        WorkerLost: nothing, as whoever had it died, again and again.
    """
    try:
        found: list[Finished] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise WorkerLost(
            f"the cluster lost what it was writing ({type(error).__name__}); run again with "
            "--resume when it is well"
        ) from None
    return found


_writer: ReleaseWriter | None = None
"""Of a process of the cluster, which lasts for many blocks of one run."""


def _write(order: Order, wanted: dict[str, str], block: Block) -> list[Finished]:
    global _writer
    if _writer is None:
        _see_machine(order, wanted)
        _writer = order.writer()
    with one_thread():
        return list(_writer.written(block))


def _see_machine(order: Order, wanted: dict[str, str]) -> None:
    """See to it that a machine of the cluster writes what any other one would.

    Raises:
        SourceLost: it has no such folders.
        InputError: it has other versions.
    """
    for folder in (order.found.source, order.places.partial, order.places.private):
        if not folder.is_dir():
            raise SourceLost(
                f"{folder}: not there on {platform.node()}, a machine of the cluster; all of "
                "them need source and target under the same paths; run again with --resume"
            )
    here = versions()
    other = sorted(name for name in wanted if here.get(name) != wanted[name])
    if other:
        raise InputError(
            f"{platform.node()}, a machine of the cluster, has another version of "
            f"{', '.join(other)}; give all of them the same"
        )
