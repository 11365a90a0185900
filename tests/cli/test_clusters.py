"""The workers of a command line: chosen, refused, ended."""

from __future__ import annotations

import pytest

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.cli.clusters import cluster_client


def test_no_flag_no_client() -> None:
    with cluster_client(None, None) as client:
        assert client is None


@pytest.mark.parametrize(
    ("scheduler", "workers", "says"),
    [
        ("tcp://127.0.0.1:1", 2, "both given"),
        (None, 0, "--workers is 0; give 1 or more"),
        ("nonsense://there", None, "no dask scheduler answers at nonsense://there"),
    ],
)
def test_what_cannot_be(scheduler: str | None, workers: int | None, says: str) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match=says), cluster_client(scheduler, workers):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_cluster_of_its_own_ends_with_the_command() -> None:
    distributed = pytest.importorskip("distributed")
    with cluster_client(None, 1) as client:
        assert sum(client.nthreads().values()) == 1
        address = client.scheduler.address
        # Its address is a cluster like any other.
        with cluster_client(address, None) as other:
            assert other.submit(sum, [1, 2]).result() == 3
        assert client.submit(sum, [2, 2]).result() == 4
    with pytest.raises(OSError, match="Timed out"):
        distributed.Client(address, timeout="1s")
