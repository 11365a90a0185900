"""Loading of published layouts, fabricated or real, for the tests of backbones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

WEIGHTS = Path(__file__).resolve().parents[4] / "shared" / "weights"


def parameters(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters())


def loads_strictly(network: nn.Module, layout: Iterable[tuple[str, tuple[int, ...]]]) -> None:
    """Load tensors of these names and shapes; nothing may be missing, left over or of another shape."""
    state = {}
    for place, (name, shape) in enumerate(layout):
        dtype = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        # Without storage, so that 138 million numbers cost nothing; the fill tells them apart.
        state[name] = torch.tensor(place, dtype=dtype).expand(shape)
    network.load_state_dict(state, strict=True, assign=True)
    held = network.state_dict()
    assert list(held) == list(state)
    assert all(int(value.flatten()[0]) == place for place, value in enumerate(held.values()))


def real_weights(name: str) -> Path:
    """Return the path of a real file of weights, or skip the test where it is not."""
    path = WEIGHTS / name
    if not path.exists():
        pytest.skip("the real weights are not part of the repository: no ../shared/weights beside it")
    return path


def imagenet_features(name: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(real_weights(f"{name}_features_imagenet_fp16.safetensors"))
