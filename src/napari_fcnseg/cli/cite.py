"""``napari-fcnseg cite``: a methods paragraph and BibTeX from a run record."""

from __future__ import annotations

import argparse
import math
import textwrap
from typing import Any

from napari_fcnseg._shared.errors import FcnsegError
from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg.cli.console import Commands, complain, new_command

_EXAMPLES = """\
  napari-fcnseg cite cells_labels.fcnseg.json
  napari-fcnseg cite cells_labels.fcnseg.json > methods.txt
"""
_WIDTH = 100

UNET = """\
@inproceedings{ronneberger2015unet,
  author    = {Ronneberger, Olaf and Fischer, Philipp and Brox, Thomas},
  title     = {U-Net: Convolutional Networks for Biomedical Image Segmentation},
  booktitle = {Medical Image Computing and Computer-Assisted Intervention (MICCAI 2015)},
  series    = {Lecture Notes in Computer Science},
  volume    = {9351},
  pages     = {234--241},
  publisher = {Springer},
  year      = {2015},
  doi       = {10.1007/978-3-319-24574-4_28}
}"""

_SOFTWARE = """\
@software{{napari_fcnseg,
  author  = {{{{napari-fcnseg developers}}}},
  title   = {{napari-fcnseg: exact segmentation of images of any size with fully convolutional networks}},
  version = {{{version}}},
  year    = {{{year}}}
}}"""


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add ``cite`` to the command line."""
    summary = "print a methods paragraph and BibTeX for a run record"
    parser = new_command(commands, common, "cite", run_cite, summary, _EXAMPLES)
    parser.add_argument(
        "record", metavar="RECORD", help="*.fcnseg.json, which segment writes beside its output"
    )


def run_cite(args: argparse.Namespace) -> int:
    """Print paragraph and references."""
    record = RunRecord.load(args.record)
    card = _card(record)
    print(textwrap.fill(methods_paragraph(record, card), _WIDTH, break_long_words=False))
    for entry in references(record, card):
        print(f"\n{entry}")
    return 0


def methods_paragraph(record: RunRecord, card: dict[str, Any]) -> str:
    """Return what a methods section has to say about the run.

    Parameters
    ----------
    record : RunRecord
    card : dict
        What is known of the model.
    """
    sentences = [
        _what(record, card),
        _training(card),
        _image(record),
        _tiles(record),
        _numerics(record),
        _options(record),
        _result(record),
        *_notes(record),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _notes(record: RunRecord) -> list[str]:
    """Return what was noted of the image; what was noted of the model is no matter for readers."""
    return [f"{note[0].upper()}{note[1:]}." for note in record.notes if not note.startswith("the model")]


def references(record: RunRecord, card: dict[str, Any]) -> list[str]:
    """Return the BibTeX of the network, the software and the data set."""
    software = _SOFTWARE.format(version=_version(record), year=record.started[:4])
    entries = [UNET] if _is_unet(card) else []
    entries.append(software)
    citation = str(card.get("citation") or "").strip()
    return [*entries, citation] if citation else entries


def _card(record: RunRecord) -> dict[str, Any]:
    """Return the model's card: what the record holds, completed from the installed or saved model."""
    from napari_fcnseg.models import load_model

    try:
        known = load_model(record.settings.model).record
    except (FcnsegError, OSError) as exc:
        complain(f"note: the model is not here ({exc}); only what the record says of it is cited")
        return record.model
    if known.sha256 != record.model.get("sha256"):
        complain("note: the model that is installed has other weights; only what the record says is cited")
        return record.model
    return {**known.to_dict(), **record.model}


def _is_unet(card: dict[str, Any]) -> bool:
    network = card.get("network") or {}
    name = network.get("network", "") if isinstance(network, dict) else network
    return "unet" in str(name).lower()


def _version(record: RunRecord) -> str:
    return record.versions.get("napari-fcnseg", "of unknown version")


def _what(record: RunRecord, card: dict[str, Any]) -> str:
    model = f"model {card.get('name', record.settings.model)}"
    if card.get("version") is not None:
        model += f", version {card['version']}"
    if card.get("sha256"):
        model += f" (SHA-256 {card['sha256'][:16]})"
    unet = ", a U-Net (Ronneberger et al., 2015)" if _is_unet(card) else ""
    task = "Objects" if record.objects is not None else "Pixel classes"
    return f"{task} were segmented with napari-fcnseg {_version(record)} and its {model}{unet}."


def _training(card: dict[str, Any]) -> str:
    training = card.get("training")
    data = training.get("data") if isinstance(training, dict) else None
    return f"Training data of the model: {data}." if data else ""


def _image(record: RunRecord) -> str:
    shape = " x ".join(str(n) for n in record.image.get("shape") or ())
    axes = record.image.get("axes")
    facts = [
        f"{shape} pixels" if shape else "",
        f"axes {axes}" if axes else "",
        str(record.image.get("dtype", "")),
    ]
    name = record.image.get("name")
    head = f"The image {name}" if name else "The image"
    return f"{head} ({', '.join(filter(None, facts))}) was {_normalised(record)}." if shape else ""


def _normalised(record: RunRecord) -> str:
    recipe = record.settings.normalization
    recipe = recipe if isinstance(recipe, dict) else {}
    rendered = f"turned from colour into {recipe['colour']} and " if recipe.get("colour") else ""
    if recipe.get("method") == "percentile":
        how = f"normalised by its percentiles {recipe['low']:g} and {recipe['high']:g}, taken once"
    elif recipe.get("method") == "none":
        how = "used without normalisation"
    else:
        how = "normalised once as a whole"
    return rendered + how


def _tiles(record: RunRecord) -> str:
    layout = record.plan.get("layout", record.plan)  # the first records had no levels here
    if "halo" not in layout:
        return ""
    if record.plan["tiles"] == 1:
        return "It was processed in one piece."
    core = " x ".join(map(str, layout["core_shape"]))
    halo = max(max(pair) for pair in layout["halo"])
    tiles = f"{record.plan['tiles']:,} tiles of {core} pixels"
    return f"It was processed in {tiles} with a halo of {halo} pixels."


def _numerics(record: RunRecord) -> str:
    torch = f" with PyTorch {record.versions['torch']}" if "torch" in record.versions else ""
    plural = "s" if record.threads != 1 else ""
    threads = f" ({record.threads} thread{plural})" if record.device.startswith("cpu") else ""
    return f"Computation was in {record.settings.precision} on {record.device}{threads}{torch}."


def _options(record: RunRecord) -> str:
    """Name the settings that change the labels."""
    settings = record.settings
    words = {
        "channel": settings.channel,
        "spacing (um)": settings.spacing,
        "typical object diameter (pixels)": settings.diameter,
        "foreground threshold": settings.threshold,
        "smallest object (pixels)": settings.min_size or None,
    }
    facts = [f"{name} {_shown(value)}" for name, value in words.items() if value is not None]
    if settings.clear_border:
        facts.append("objects at the border were dropped")
    if settings.mask:
        facts.append("pixels outside a mask were left out")
    return f"Settings: {'; '.join(facts)}." if facts else ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    if isinstance(value, tuple):
        return " x ".join(_shown(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _result(record: RunRecord) -> str:
    seconds = record.seconds
    took = f"{seconds:.1f} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"
    return f"{record.objects} objects were found in {took}." if record.objects is not None else ""
