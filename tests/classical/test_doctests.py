"""The examples in the docstrings of the classical room run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

from napari_fcnseg import classical


def examples() -> Iterator[doctest.DocTest]:
    for module in pkgutil.iter_modules(classical.__path__, f"{classical.__name__}."):
        found = doctest.DocTestFinder().find(importlib.import_module(module.name))
        yield from (test for test in found if test.examples)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_example(example: doctest.DocTest) -> None:
    report: list[str] = []
    result = doctest.DocTestRunner().run(example, out=report.append)
    assert result.attempted > 0
    assert not result.failed, "".join(report)
