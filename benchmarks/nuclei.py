"""Score the nuclei model on annotated images, by kind of image.

    python benchmarks/nuclei.py [DATA] [--model nuclei] [--colour RULE] [--precision float32] [--json FILE]

DATA has folders ``images`` and ``labels``; by default the images kept for
validation. AP is TP / (TP + FP + FN) at an intersection over union, summed
over all objects of a kind.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from skimage.io import imread

from napari_fcnseg import load_model, segment
from napari_fcnseg.metrics import object_scores
from napari_fcnseg.training.samples import image_kind

VALIDATION = Path(__file__).resolve().parents[2] / "shared" / "data" / "nuclei_dsb2018" / "val"
THRESHOLDS = (0.5, 0.75, 0.9)


def segment_folder(data: Path, model: Any, colour: str, precision: str) -> dict[str, list[tuple[Any, Any]]]:
    """Return pairs of truth and labels by kind of image."""
    pairs: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    for path in sorted((data / "images").glob("*.png")):
        image, truth = imread(path), imread(data / "labels" / path.name)
        if image.ndim == 3:
            labels = segment(image, model, channel_axis=-1, normalization=colour, precision=precision)
        else:
            labels = segment(image, model, precision=precision)
        pairs[image_kind(image)].append((truth.astype(np.int64), labels))
        pairs["all"].append(pairs[image_kind(image)][-1])
    return pairs


def scores_of(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Return numbers of images and objects, and AP at each threshold."""
    found = object_scores(*zip(*pairs, strict=True), thresholds=THRESHOLDS)
    return {
        "images": len(pairs),
        "objects": found[0].tp + found[0].fn,
        **{f"AP {s.threshold:g}": round(s.average_precision, 4) for s in found},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=VALIDATION)
    parser.add_argument("--model", default="nuclei", help="name or folder")
    parser.add_argument("--colour", default="auto", help="rule for colour images, such as haematoxylin")
    parser.add_argument("--precision", default="float32", help="bfloat16 is the default of many machines")
    parser.add_argument("--json", type=Path, help="also write the scores here")
    args = parser.parse_args()
    if not any((args.data / "images").glob("*.png")):
        parser.error(f"no PNG files in {args.data / 'images'}; name a folder with images/ and labels/.")
    model = load_model(args.model)
    table = {
        kind: scores_of(pairs)
        for kind, pairs in sorted(segment_folder(args.data, model, args.colour, args.precision).items())
    }
    print(f"{model.record.id} on {args.data.name}, SHA-256 {model.record.sha256[:12]}, {args.precision}")
    columns = list(table["all"])
    print(f"{'kind':14}" + "".join(f"{name:>10}" for name in columns))
    for kind, row in table.items():
        print(f"{kind:14}" + "".join(f"{row[name]:>10}" for name in columns))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps({"data": f"2018 Data Science Bowl, {args.data.name}", **table}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
