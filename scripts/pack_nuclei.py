"""Turn the checkpoint of ``train_nuclei.py`` into the embedded model.

    python scripts/pack_nuclei.py runs/nuclei src/napari_fcnseg/models/zoo/nuclei@1
    python benchmarks/nuclei.py --json benchmarks/results/nuclei.json
    python scripts/pack_nuclei.py runs/nuclei src/napari_fcnseg/models/zoo/nuclei@1 \\
        --scores benchmarks/results/nuclei.json

The last line writes the measured scores into the card; the weights stay the same.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from napari_fcnseg.models.files import save_model
from napari_fcnseg.models.model import make_model
from napari_fcnseg.models.record import ModelClass, ModelRecord, OutputMap
from napari_fcnseg.networks import build_network, network_config
from napari_fcnseg.refine.instances import ObjectRule

CITATION = """\
@article{caicedo2019nucleus,
  title = {Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl},
  author = {Caicedo, Juan C. and Goodman, Allen and Karhohs, Kyle W. and others},
  journal = {Nature Methods}, volume = {16}, pages = {1247--1253}, year = {2019},
  doi = {10.1038/s41592-019-0612-7}
}"""
WEAKNESSES = (
    "Tissue nuclei in bright, crowded sections are often merged or missed; see the histology scores.",
    "Brightfield was trained on 10 images only; outlines are looser there than in fluorescence.",
    "min_size and the colour rule were chosen on the images that the scores come from.",
    "Outlines of small objects (under 10 pixels across) are coarse: see the scores at IoU 0.75 and above.",
    "Cell bodies, phase contrast and electron microscopy are not what it was trained on.",
    "Objects are cut `reach` pixels from their seed; rescale nuclei larger than 100 pixels with diameter=.",
)


def card(training: dict[str, Any], scores: dict[str, Any]) -> ModelRecord:
    """Return everything the card states but the hash."""
    network = build_network("unet", in_channels=1, classes=4)
    return ModelRecord(
        name="nuclei",
        version=1,
        title="Nuclei in fluorescence, histology and brightfield (2D)",
        description=(
            "Separates single nuclei. Takes one channel, bright nuclei on dark or dark on bright, or a "
            "colour image of stained tissue, of which it sees the nuclear stain."
        ),
        network=network_config(network),
        inputs=("nuclei",),
        outputs=(
            OutputMap("background", value=0),
            OutputMap("inside", value=1),
            OutputMap("boundary", value=1),
            OutputMap("distance", "sigmoid"),
        ),
        classes=(ModelClass(1, "nucleus", "#1f77b4"),),
        kind="instances",
        objects=ObjectRule(seed_threshold=0.4, foreground_threshold=0.5, reach=32),
        seed_map="distance",
        min_size=30,
        diameter=17.0,
        pixel_size=0.5,
        colour_input=True,
        licence="CC0-1.0",
        data_licence="CC0-1.0",
        training=training,
        scores=scores,
        weaknesses=WEAKNESSES,
        citation=CITATION,
    )


def main() -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="folder with checkpoint.pt")
    parser.add_argument("out", type=Path, help="the model's folder")
    parser.add_argument("--scores", type=Path, help="what benchmarks/nuclei.py wrote")
    args = parser.parse_args()
    state = torch.load(args.run / "checkpoint.pt", weights_only=True)
    network = build_network("unet", in_channels=1, classes=4)
    network.load_state_dict(state["average"])
    training = {
        "data": "2018 Data Science Bowl, 500 images (BBBC038, CC0)",
        "script": "scripts/train_nuclei.py",
        "pixel_size": "assumed: the images state none; 0.5 micrometres is usual at 20x",
        "iterations": state["iteration"],
        **{name: state["options"][name] for name in ("seed", "learning_rate", "average")},
    }
    scores = json.loads(args.scores.read_text()) if args.scores else {}
    model = make_model(card(training, scores), network.eval())
    record = save_model(model, args.out, half=True, overwrite=True)
    print(f"{record.id}: {args.out}, SHA-256 {record.sha256}")


if __name__ == "__main__":
    main()
