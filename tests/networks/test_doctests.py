"""The examples of the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

from napari_fcnseg import networks, tiling


def modules_of(package: ModuleType) -> list[ModuleType]:
    return [
        package,
        *(
            importlib.import_module(m.name)
            for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        ),
    ]


@pytest.mark.parametrize("module", [*modules_of(networks), *modules_of(tiling)], ids=lambda m: m.__name__)
def test_examples_run(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def test_there_are_examples() -> None:
    assert sum(doctest.testmod(module).attempted for module in modules_of(networks)) >= 3
    assert sum(doctest.testmod(module).attempted for module in modules_of(tiling)) >= 3
