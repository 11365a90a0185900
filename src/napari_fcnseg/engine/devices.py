"""Where scores are computed, and how precisely."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import DeviceError

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc")


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


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16 by instructions of its own, not by way of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device) >= (8, 0))
    if device.type != "cpu":
        return False
    tests = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(test is not None and test() for test in tests)


def choose_precision(precision: str, device: torch.device) -> str:
    """Return the precision to compute in.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
        ``"auto"`` takes bfloat16 where the device has instructions for it.
    device : torch.device
        Where scores are computed.

    Returns
    -------
    {"float32", "bfloat16"}
    """
    if precision != "auto":
        return precision
    if has_bfloat16(device):
        logger.info("computing in bfloat16, which this %s has instructions for", _kind(device))
        return "bfloat16"
    logger.info("computing in float32, as this %s has no bfloat16 instructions", _kind(device))
    return "float32"


def _kind(device: torch.device) -> str:
    return {"cpu": "CPU", "cuda": "card"}.get(device.type, f"{device.type} device")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory did not suffice, on a card or in the main memory."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in NO_MEMORY)


def to_device(pixels: NDArray[Any], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return pixels in another type on a device, in memory of their own.

    They travel in their own type, which is the smaller one, and beside what the card computes.
    """
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize > 2:
        # torch does little with these; every other type is turned on the device.
        pixels = pixels.astype(np.float64)
    values = torch.from_numpy(np.require(pixels, requirements=("C", "W")))
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True).to(dtype, copy=True)
    # MPS has no float64.
    return values.to(dtype, copy=True) if dtype == torch.float64 else values.to(device).to(dtype, copy=True)


def fetched(values: torch.Tensor) -> Callable[[], NDArray[Any]]:
    """Begin to copy values to the main memory; return what waits for them."""
    if values.device.type != "cuda":
        return values.cpu().numpy
    # The copy goes to pinned memory, in line behind what makes the values; the caller goes on meanwhile.
    there = values.to("cpu", non_blocking=True)
    done = torch.cuda.current_stream(values.device).record_event()

    def wait() -> NDArray[Any]:
        done.synchronize()
        return there.numpy()

    return wait
