"""What tests of all rooms share: patience with slow machines, and the real images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# A test that is slow on a busy machine is not a failure. Continuous integration draws the same
# examples every time, so that a red run is the fault of the change.
settings.register_profile("patient", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("patient")


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Return the path of a real file or folder, or skip the test where it is not."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip("the real images are not part of the repository: no ../shared/data beside it")
        return path

    return find
