"""Where scores are computed, and how precisely."""

from __future__ import annotations

import logging

import torch

from napari_fcnseg._shared.errors import DeviceError

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def available_devices() -> list[str]:
    """Return the devices of this machine, best first."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def choose_device(device: str | None) -> torch.device:
    """Return the device that was asked for, or the best there is.

    Parameters
    ----------
    device : str or None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None takes CUDA, then MPS, then the CPU.

    Raises
    ------
    DeviceError
        If it is not there.
    """
    here = available_devices()
    if device is None:
        logger.info("computing on %s", here[0])
        return torch.device(here[0])
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in here:
        raise DeviceError(
            f"device={device!r} is not on this machine; there are {', '.join(here)}. "
            "Run 'napari-fcnseg doctor' to see why a card is not found."
        )
    return torch.device(wanted)


def choose_precision(precision: str, device: torch.device) -> str:
    """Return ``"float32"`` or ``"bfloat16"``; ``"auto"`` takes the latter on CUDA cards that have it."""
    if precision != "auto":
        return precision
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bfloat16" if fast else "float32"
