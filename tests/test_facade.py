"""The public names: complete, resolvable, documented."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import napari_fcnseg
from napari_fcnseg import io, metrics, models, networks, refine

FOLDER = Path(napari_fcnseg.__file__).parent
STUB = ast.parse((FOLDER / "__init__.pyi").read_text(encoding="utf-8"))
PUBLIC = sorted(set(napari_fcnseg.__all__) - {"__version__"})
FUNCTIONS = [name for name in PUBLIC if isinstance(getattr(napari_fcnseg, name), FunctionType)]
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(FOLDER)], "napari_fcnseg."))


def test_all_is_what_the_stub_imports() -> None:
    imported = [
        a.asname or a.name for node in STUB.body if isinstance(node, ast.ImportFrom) for a in node.names
    ]
    (listed,) = [ast.literal_eval(node.value) for node in STUB.body if isinstance(node, ast.Assign)]
    assert sorted(imported) == sorted(listed) == listed
    assert sorted(napari_fcnseg.__all__) == sorted(listed)


def test_dir_lists_all() -> None:
    assert set(napari_fcnseg.__all__) <= set(dir(napari_fcnseg))


@pytest.mark.parametrize("name", [*PUBLIC, "__version__"])
def test_every_name_resolves(name: str) -> None:
    value = getattr(napari_fcnseg, name)
    assert value is getattr(napari_fcnseg, name)
    if name != "__version__":
        assert value.__module__.startswith("napari_fcnseg.")
        assert value.__name__ == name


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="segmnt"):
        napari_fcnseg.segmnt  # type: ignore[attr-defined]  # noqa: B018


def test_no_module_is_called_as_a_public_function() -> None:
    last = {module.rpartition(".")[2] for module in MODULES}
    assert {"segmentation", "record", "job"} <= last
    assert not last & {*PUBLIC, *models.__all__, *networks.__all__, *refine.__all__}


def test_no_package_hides_a_module_behind_a_name() -> None:
    for package in (napari_fcnseg, models, networks, io, metrics, refine):
        folder = Path(str(package.__file__)).parent
        submodules = {module.name for module in pkgutil.iter_modules([str(folder)])}
        assert len(submodules) > 1
        for name in submodules & set(dir(package)):
            assert isinstance(getattr(package, name), ModuleType)


def section(doc: str, title: str) -> str:
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", doc, re.M | re.S)
    return found[1] if found else ""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented(name: str) -> None:
    function: Any = getattr(napari_fcnseg, name)
    doc = inspect.getdoc(function) or ""
    assert re.match(r"[A-Z][^\n]*\.(\n|$)", doc), "one line that says it"
    wanted = [p.lstrip("*") for p in inspect.signature(function).parameters]
    listed = re.findall(r"^(\S[\w*, ]*)(?: :.*)?$", section(doc, "Parameters"), re.M)
    named = [part.strip().lstrip("*") for line in listed for part in line.split(",")]
    assert sorted(set(named)) == sorted(wanted)
    if inspect.signature(function).return_annotation not in (None, "None"):
        assert section(doc, "Returns").strip()
    assert section(doc, "Raises").strip() or not wanted  # what takes nothing refuses nothing


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in FUNCTIONS])
def test_classes_are_documented(name: str) -> None:
    doc = inspect.getdoc(getattr(napari_fcnseg, name)) or ""
    assert doc[0].isupper()
    assert doc.splitlines()[0].endswith(".")


def test_the_verbs_take_what_the_settings_hold() -> None:
    settings = set(inspect.signature(napari_fcnseg.SegmentSettings).parameters)
    verb = inspect.signature(napari_fcnseg.segment).parameters
    assert set(verb) == settings | {"image", "progress", "control"}
    assert set(inspect.signature(napari_fcnseg.predict).parameters) <= set(verb) | {"raw"}
    for name, parameter in verb.items():
        if name not in ("image", "model"):
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if name in settings:
            default = inspect.signature(napari_fcnseg.SegmentSettings).parameters[name].default
            assert parameter.default == default


WITH_EXAMPLES = [
    module
    for module in MODULES
    if re.match(r"napari_fcnseg\.(engine|segmentation)", module)
    and ">>>" in Path(str(importlib.import_module(module).__file__)).read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_run(module: str) -> None:
    done = doctest.testmod(importlib.import_module(module))
    assert done.attempted > done.failed == 0


def test_the_verbs_have_examples() -> None:
    for verb in (napari_fcnseg.segment, napari_fcnseg.predict, napari_fcnseg.segment_recorded):
        assert ">>>" in (verb.__doc__ or "")
