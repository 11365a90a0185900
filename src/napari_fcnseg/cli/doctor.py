"""``napari-fcnseg doctor``: is everything in place, and what helps if not."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from napari_fcnseg._shared.errors import FcnsegError
from napari_fcnseg.cli.console import Commands, new_command, package_version

_CODECS = ("LZW", "ZLIB", "ZSTD", "PACKBITS", "LERC", "JPEG8", "JPEG2K", "WEBP", "PNG")
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "asimd")
_LOW_MEMORY = 2 * 2**30
_EXAMPLES = """\
  napari-fcnseg doctor

Lines begin with "ok", "note" (works, but could be better) or "WRONG" (exit code 1).
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    text: str
    verdict: str = "ok"


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add ``doctor`` to the command line."""
    summary = "check versions, devices, memory, codecs and models"
    new_command(commands, common, "doctor", run_doctor, summary, _EXAMPLES)


def run_doctor(_args: argparse.Namespace) -> int:
    """Print the report; return 1 when something is wrong."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "versions": _versions,
        "devices": _devices,
        "processor and memory": _machine,
        "image codecs": _codecs,
        "models": _models,
    }
    wrong = 0
    for title, check in checks.items():
        print(f"{title}:")
        for finding in _guarded(check):
            wrong += finding.verdict == "WRONG"
            print(f"  {finding.verdict:5}  {finding.text}", flush=True)
    print(f"{wrong} things are wrong" if wrong > 1 else "1 thing is wrong" if wrong else "all is well")
    return 1 if wrong else 0


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds; one that breaks is a finding itself."""
    try:
        yield from check()
    except Exception as exc:
        yield Finding(f"{type(exc).__name__}: {exc}", "WRONG")


def _versions() -> Iterator[Finding]:
    yield Finding(
        f"napari-fcnseg {package_version()}, Python {platform.python_version()}, {platform.platform()}"
    )
    # The line above is there even if nothing else can be imported.
    from napari_fcnseg.engine.recording import PACKAGES

    for name in (*PACKAGES[1:], "tqdm"):
        try:
            yield Finding(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            yield Finding(f"{name} is missing: pip install {name}", "WRONG")


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding(f"cpu, {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(f"cuda:{index}, {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("mps, Apple GPU")
    yield from unused_card(_nvidia_cards(), torch.__version__, torch.version.cuda, torch.cuda.is_available())


def unused_card(cards: list[str], torch_version: str, cuda: str | None, available: bool) -> Iterator[Finding]:
    """Say how to make use of an NVIDIA card that torch does not see.

    Parameters
    ----------
    cards : list of str
        Names of the cards in the machine.
    torch_version : str
        Of the installed torch.
    cuda : str or None
        The CUDA version it was built for; None for a CPU-only build.
    available : bool
        Whether torch can use a card.
    """
    if not cards or available:
        return
    if cuda is None:
        yield Finding(
            f"{cards[0]} is not used, as torch {torch_version} is a build for CPUs only. Cure: install "
            "a CUDA build of torch: see the 'Get started' page of PyTorch.",
            "note",
        )
    else:
        yield Finding(
            f"{cards[0]} is not used: torch {torch_version} wants a driver for CUDA {cuda}. Cure: update the "
            "NVIDIA driver (see nvidia-smi), and look whether CUDA_VISIBLE_DEVICES hides the card.",
            "note",
        )


def _nvidia_cards() -> list[str]:
    """Return the NVIDIA cards that the driver tools know, without torch."""
    program = shutil.which("nvidia-smi")
    if program:
        listing = _output([program, "-L"])
        cards = [line.split(" (UUID")[0].split(": ", 1)[-1] for line in listing.splitlines() if "GPU" in line]
        if cards:
            return cards
    folder = Path("/proc/driver/nvidia/gpus")
    return [f"NVIDIA card {card.name}" for card in sorted(folder.iterdir())] if folder.is_dir() else []


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _machine() -> Iterator[Finding]:
    import torch

    flags = _cpu_flags()
    features = [name for name in _FEATURES if name in flags]
    yield Finding(f"{platform.machine()}, {os.cpu_count()} cores, {' '.join(features) or 'features unknown'}")
    yield Finding(f"torch uses {torch.backends.cpu.get_cpu_capability()}")
    yield _memory()


def _cpu_flags() -> set[str]:
    source = Path("/proc/cpuinfo")
    if source.is_file():
        return set(source.read_text(encoding="utf-8", errors="replace").lower().split())
    if sys.platform == "darwin":
        names = ["machdep.cpu.features", "machdep.cpu.leaf7_features"]
        return set(_output(["sysctl", "-n", *names]).lower().split())
    return set()


def _memory() -> Finding:
    from napari_fcnseg.engine.planning import free_memory

    free, total = free_memory(), _total_memory()
    # "Taken as", since a run takes a guess where the system does not tell.
    text = f"{total / 2**30:.1f} GiB of memory, " if total else "memory: "
    text += f"{free / 2**30:.1f} GiB taken as free"
    if free < _LOW_MEMORY:
        return Finding(f"{text}: close other programs for large images", "note")
    return Finding(text)


def _total_memory() -> int:
    """Return the bytes of memory in the machine; 0 where the system does not tell."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _codecs() -> Iterator[Finding]:
    import imagecodecs

    for name in _CODECS:
        codec = getattr(imagecodecs, name, None)
        if codec is None or not codec.available:
            cure = "pip install --upgrade imagecodecs"
            yield Finding(f"{name} is missing, so some TIFF and slide files cannot be read: {cure}", "WRONG")
    yield _tried_tiff()


def _tried_tiff() -> Finding:
    """Write and read a compressed TIFF, as a codec can be there and still not load."""
    import io

    import numpy as np
    import tifffile

    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    for compression in ("lzw", "zlib", "zstd"):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, compression=compression)
        buffer.seek(0)
        if not np.array_equal(tifffile.imread(buffer), pixels):
            return Finding(f"a TIFF with {compression} came back with other pixels", "WRONG")
    return Finding(f"{', '.join(_CODECS)}; TIFF written and read back")


def _models() -> Iterator[Finding]:
    from napari_fcnseg.models import list_models, verify_model

    records = list_models()
    if not records:
        yield Finding("no model is there: install napari-fcnseg again", "WRONG")
    for record in records:
        try:
            verify_model(record.id)
        except (FcnsegError, OSError) as exc:
            yield Finding(f"{record.id}: {exc}", "WRONG")
        else:
            yield Finding(f"{record.id}, SHA-256 {record.sha256[:12]}... verified")
