"""The examples in the docstrings of preprocess, refine, models and training run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

from napari_fcnseg import models, preprocess, refine, training


def examples() -> Iterator[doctest.DocTest]:
    """Find every docstring with an example."""
    for room in (preprocess, refine, models, training):
        for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            found = doctest.DocTestFinder().find(importlib.import_module(module.name))
            yield from (test for test in found if test.examples)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_example(example: doctest.DocTest) -> None:
    report: list[str] = []
    result = doctest.DocTestRunner().run(example, out=report.append)
    assert result.attempted > 0
    assert not result.failed, "".join(report)


def test_the_verbs_of_models_have_examples() -> None:
    names = {example.name for example in examples()}
    assert {"napari_fcnseg.models.model.as_model", "napari_fcnseg.models.registry.load_model"} <= names
