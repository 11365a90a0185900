"""``napari-fcnseg models``: what models there are, what they want and what they may be used for."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import TYPE_CHECKING, Any

from napari_fcnseg.cli.console import Commands, new_command

if TYPE_CHECKING:
    from napari_fcnseg.models import ModelRecord

_EXAMPLES = """\
  napari-fcnseg models
  napari-fcnseg models --json
"""
_WIDTH = 100


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add ``models`` to the command line."""
    summary = "list the models, their inputs, scores and licences"
    parser = new_command(commands, common, "models", run_models, summary, _EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_models(args: argparse.Namespace) -> int:
    """Print a card per model."""
    from napari_fcnseg.models import list_models

    records = list_models()
    if args.json:
        print(json.dumps([record.to_dict() for record in records], indent=2))
        return 0
    print("\n\n".join(card_text(record) for record in records) or "no models")
    return 0


def card_text(record: ModelRecord) -> str:
    """Return what a person wants to know before using a model."""
    title = f"{record.id}: {record.title}"
    lines = [title, "=" * len(title), *textwrap.wrap(record.description, _WIDTH), ""]
    lines += [_row(name, text) for name, text in _facts(record).items() if text]
    lines += [_row("weakness", text) for text in record.weaknesses]
    return "\n".join(lines)


def _facts(record: ModelRecord) -> dict[str, str]:
    size = f"{record.diameter:g} pixels across" if record.diameter else ""
    pixel = f"{record.pixel_size:g} um per pixel" if record.pixel_size else ""
    colour = ["colour images too, rendered to one channel"] if record.colour_input else []
    return {
        "inputs": "; ".join([f"{record.ndim}D", *record.inputs, *colour]),
        "classes": ", ".join(f"{c.value} {c.name}" for c in record.classes),
        "gives": f"{record.kind} by default",
        "objects": ", ".join(filter(None, (size, pixel))),
        "trained on": str(record.training.get("data", "")),
        "scores": _flat(record.scores),
        "licence": record.licence,
        "data licence": record.data_licence,
        "SHA-256": record.sha256,
    }


def _row(name: str, text: str) -> str:
    head = f"  {name:13} "
    return textwrap.fill(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def _flat(value: Any) -> str:
    """Return nested scores on one line."""
    if isinstance(value, dict):
        return "; ".join(
            f"{k}: {_flat(v)}" if isinstance(v, dict) else f"{k} {_flat(v)}" for k, v in value.items()
        )
    return f"{value:.3f}" if isinstance(value, float) else str(value)
