"""``napari-fcnseg networks``: what networks there are to train or to load weights into."""

from __future__ import annotations

import argparse
import inspect
import json
from typing import Any

from napari_fcnseg.cli.console import Commands, new_command

_EXAMPLES = """\
  napari-fcnseg networks
  napari-fcnseg networks --channels 1 --classes 2 --json
"""


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add ``networks`` to the command line."""
    summary = "list the networks, their sizes and how far they look"
    parser = new_command(commands, common, "networks", run_networks, summary, _EXAMPLES)
    parser.add_argument(
        "--channels", type=int, default=3, metavar="N", help="channels of the image (default 3)"
    )
    parser.add_argument(
        "--classes", type=int, default=21, metavar="N", help="maps of the output (default 21)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, options included")


def run_networks(args: argparse.Namespace) -> int:
    """Print a line for each network, as it is built by default."""
    from napari_fcnseg.networks import list_networks

    facts = [_facts(name, args.channels, args.classes) for name in list_networks()]
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(f"{'network':18}{'parameters':>13}{'stride':>8}{'halo':>6}  tiles")
    for fact in facts:
        tiles = "equal the whole image" if fact["exact_tiling"] else f"approximate: {fact['reason']}"
        sizes = f"{fact['stride'] or '-':>8}{fact['halo'] or '-':>6}"
        print(f"{fact['name']:18}{fact['parameters']:13,}{sizes}  {tiles}")
    print(f"for {args.channels} channels and {args.classes} classes; options: networks --json")
    return 0


def _facts(name: str, channels: int, classes: int) -> dict[str, Any]:
    import torch

    from napari_fcnseg.networks import NETWORKS, build_network, derive_field

    with torch.device("meta"):  # no memory for the weights: only their shapes count
        network = build_network(name, in_channels=channels, classes=classes)
    field = derive_field(network, 2)
    options = list(inspect.signature(NETWORKS[name]).parameters.values())[3:]
    return {
        "name": name,
        "parameters": sum(weights.numel() for weights in network.parameters()),
        "stride": field.stride[0] if field.exact else None,
        "halo": max(field.halo[0]) if field.exact else None,
        "exact_tiling": field.exact,
        "reason": field.reason,
        "options": {option.name: option.default for option in options},
    }
