"""``napari-fcnseg demo``: a real image and one with known truth, offline, in seconds."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_fcnseg._shared.errors import OutputExistsError
from napari_fcnseg._shared.record import SUFFIX, RunRecord
from napari_fcnseg.cli.console import Commands, Progress, new_command, package_version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FOLDER = "fcnseg-demo"
_MARK = "README.txt"
_TISSUE_DIAMETER = 20.0  # pixels, of a nucleus of the epithelium
_README = """\
Made by "napari-fcnseg demo", which may replace what lies here.

tissue.png        immunohistochemistry, the image that ships with scikit-image
fluorescence.tif  synthetic nuclei; fluorescence_truth.tif says where they are
*_labels.tif      what was found: 0 background, 1..N the objects
*_overlay.png     outlines of it over the image: look at these first
*.fcnseg.json     run records: every setting as it was resolved
"""
_EXAMPLES = """\
  napari-fcnseg demo
  napari-fcnseg demo --out pictures/
"""


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add ``demo`` to the command line."""
    summary = "segment a real image and one with known truth, offline"
    parser = new_command(commands, common, "demo", run_demo, summary, _EXAMPLES)
    parser.add_argument(
        "--out", default=_FOLDER, metavar="DIR", help=f"folder for the results; default: {_FOLDER}"
    )
    parser.add_argument("--model", default="nuclei", metavar="NAME", help="another model; default: nuclei")


def run_demo(args: argparse.Namespace) -> int:
    """Segment both images, print how it went, write labels and pictures."""
    out = Path(args.out)
    _claim(out)
    print(f"napari-fcnseg {package_version()}", flush=True)
    _demo_tissue(out, args.model)
    _demo_fluorescence(out, args.model)
    print(f"Look at the overlays first: {out / 'tissue_overlay.png'}")
    return 0


def _demo_tissue(out: Path, model: str) -> None:
    from skimage.data import immunohistochemistry

    from napari_fcnseg.io import save_png
    from napari_fcnseg.models import load_model

    image = immunohistochemistry()  # type: ignore[no-untyped-call]
    save_png(out / "tissue.png", image, overwrite=True)
    # Not every model states a size; where it does, say that these nuclei are larger than usual.
    size = {"diameter": _TISSUE_DIAMETER} if load_model(model).record.diameter else {}
    _segment_one(out, "tissue", image, image, axes="yxc", model=model, **size)


def _demo_fluorescence(out: Path, model: str) -> None:
    from napari_fcnseg.cli.synthetic import fluorescence_field
    from napari_fcnseg.io import save_labels
    from napari_fcnseg.metrics import average_precision
    from napari_fcnseg.pictures import to_display

    image, truth = fluorescence_field()
    _save_tiff(out / "fluorescence.tif", image)
    save_labels(out / "fluorescence_truth.tif", truth, overwrite=True)
    labels = _segment_one(out, "fluorescence", image, to_display(image), model=model)
    half, three_quarters = average_precision(truth, labels, (0.5, 0.75))
    print(f"  {truth.max()} true nuclei: AP {half:.3f} at IoU 0.5, {three_quarters:.3f} at IoU 0.75")
    print()


def _segment_one(
    out: Path, name: str, image: NDArray[Any], shown: NDArray[np.uint8], **options: Any
) -> NDArray[Any]:
    import numpy as np

    from napari_fcnseg.io import save_labels, save_png
    from napari_fcnseg.pictures import draw_outlines
    from napari_fcnseg.segmentation import segment_recorded

    with Progress(name) as progress:
        labels, record = segment_recorded(image, progress=progress, **options)
    found = np.asarray(labels)
    _print_run(name, image, record, progress.total)
    written = [
        save_labels(out / f"{name}_labels.tif", found, overwrite=True),
        save_png(out / f"{name}_overlay.png", draw_outlines(shown, found), overwrite=True),
        record.save(out / f"{name}_labels{SUFFIX}", overwrite=True),
    ]
    for path in written:
        print(f"  {path}")
    return found


def _print_run(name: str, image: NDArray[Any], record: RunRecord, tiles: int) -> None:
    size = " x ".join(str(n) for n in image.shape)
    print()
    diameter = record.settings.diameter
    scale = f", diameter {diameter:g} pixels" if diameter else ""
    print(f"{name}: {size} {image.dtype}, model {record.settings.model}{scale}")
    print(f"  device {record.device}, {record.threads} threads, {record.settings.precision}")
    print(f"  {tiles} tile{'s' if tiles != 1 else ''}, {record.objects} objects, {record.seconds:.1f} s")


def _claim(out: Path) -> None:
    """Make the folder, unless it holds what is not the demo's."""
    mark = out / _MARK
    own = mark.is_file() and mark.read_text(encoding="utf-8", errors="replace").startswith(_README[:32])
    if os.path.lexists(out) and not own and (not out.is_dir() or any(out.iterdir())):
        raise OutputExistsError(
            f"{out} exists and was not made by the demo. Name a new or empty folder: --out DIR"
        )
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(_README, encoding="utf-8")


def _save_tiff(path: Path, image: NDArray[Any]) -> None:
    import tifffile

    from napari_fcnseg.io.atomic import written_whole

    with written_whole(path, overwrite=True) as partial:
        tifffile.imwrite(partial, image)
