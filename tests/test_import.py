"""What importing the package loads, and which room may import which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import napari_fcnseg

HEAVY = ("torch", "dask", "zarr", "skimage", "scipy", "napari", "qtpy", "tifffile", "imagecodecs", "numpy")
ROOT = Path(__file__).parents[1]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def loaded_by(code: str) -> list[str]:
    return run(f"import sys; {code}; print(*[m for m in {HEAVY!r} if m in sys.modules])").split()


@pytest.mark.parametrize(
    "code", ["import napari_fcnseg", "import napari_fcnseg; dir(napari_fcnseg); napari_fcnseg.__all__"]
)
def test_the_facade_loads_nothing_heavy(code: str) -> None:
    assert loaded_by(code) == []


def test_the_check_would_notice() -> None:
    assert "torch" in loaded_by("import napari_fcnseg; napari_fcnseg.segment")


def test_errors_and_settings_load_nothing_heavy() -> None:
    assert loaded_by("from napari_fcnseg import SegmentSettings, RunRecord, FcnsegError, __version__") == []


def test_images_open_without_torch() -> None:
    assert "torch" not in loaded_by("from napari_fcnseg import open_image, save_labels")


def test_import_changes_nothing_of_the_process() -> None:
    code = (
        "import logging, os, warnings\n"
        "before = dict(os.environ), list(logging.getLogger().handlers), list(warnings.filters)\n"
        "import napari_fcnseg\n"
        "napari_fcnseg.segment\n"
        "ours = logging.getLogger('napari_fcnseg')\n"
        "after = dict(os.environ), list(logging.getLogger().handlers)\n"
        "print(before[0] == after[0], before[1] == after[1], ours.handlers)"
    )
    assert run(code) == "True True []"


def test_types_travel_with_the_package() -> None:
    folder = Path(napari_fcnseg.__file__).parent
    assert (folder / "py.typed").is_file()
    assert (folder / "__init__.pyi").is_file()
