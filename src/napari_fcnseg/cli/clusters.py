"""The workers of a command line: those of a cluster, or some of its own."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

from napari_fcnseg._shared.errors import InputError, MissingPackageError


def add_cluster_flags(group: argparse._ArgumentGroup) -> None:
    """Add what chooses the workers."""
    group.add_argument(
        "--scheduler", metavar="ADDRESS", help="spread the work over this dask.distributed cluster"
    )
    group.add_argument(
        "--workers", type=int, metavar="N", help="spread the work over N processes of this machine"
    )


@contextlib.contextmanager
def cluster_client(scheduler: str | None, workers: int | None) -> Iterator[Any]:
    """Give the client of a cluster, or None where neither is asked for.

    Raises
    ------
    InputError
        If both are asked for, or nobody answers at the address.
    MissingPackageError
        If `distributed` is not installed.
    """
    if scheduler is None and workers is None:
        yield None
        return
    if scheduler is not None and workers is not None:
        raise InputError(
            "--scheduler and --workers were both given; take the cluster, or processes of this machine."
        )
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; give 1 or more.")
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(_connected(stack, scheduler, workers))


def _connected(stack: contextlib.ExitStack, scheduler: str | None, workers: int | None) -> Any:
    try:
        from distributed import Client, LocalCluster
    except ImportError as exc:
        raise MissingPackageError(
            "--scheduler and --workers need distributed; install it with: "
            "pip install 'napari-fcnseg[cluster]'"
        ) from exc
    if scheduler is None:
        options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        return Client(stack.enter_context(LocalCluster(**options)))  # type: ignore[no-untyped-call]
    try:
        return Client(scheduler, timeout="10s")  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as exc:
        raise InputError(f"no dask scheduler answers at {scheduler} ({exc}); check the address.") from exc
