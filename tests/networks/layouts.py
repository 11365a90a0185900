"""Names and shapes of published checkpoint files, written down from the files, not from our networks.

Each function yields ``name, shape`` in the order of the file. ``wide`` turns
the published channel count into a smaller one for tests that compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

Entry = tuple[str, tuple[int, ...]]
Wide = Callable[[int], int]


def full(channels: int) -> int:
    """Return the published channel count."""
    return channels


def fabricated(entries: Iterable[Entry], seed: int = 0) -> dict[str, torch.Tensor]:
    """Fill a layout with numbers that keep a network's maps in a sane range."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in entries:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            fan_in = max(1, torch.Size(shape[1:]).numel())
            state[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5 * 0.5
    return state


def conv(name: str, out: int, into: int, kernel: int, bias: bool = True) -> Iterator[Entry]:
    yield f"{name}.weight", (out, into, kernel, kernel)
    if bias:
        yield f"{name}.bias", (out,)


def linear(name: str, out: int, into: int) -> Iterator[Entry]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def norm(name: str, channels: int) -> Iterator[Entry]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
    yield f"{name}.num_batches_tracked", ()


# ---------------------------------------------------------------- torchvision's classifiers

ALEXNET = ((0, 64, 11), (3, 192, 5), (6, 384, 3), (8, 256, 3), (10, 256, 3))
VGG16 = (
    (0, 64), (2, 64), (5, 128), (7, 128), (10, 256), (12, 256), (14, 256),
    (17, 512), (19, 512), (21, 512), (24, 512), (26, 512), (28, 512),
)  # fmt: skip
VGG16_BN = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)


def alexnet(wide: Wide = full) -> Iterator[Entry]:
    into = 3
    for place, out, kernel in ALEXNET:
        yield from conv(f"features.{place}", wide(out), into, kernel)
        into = wide(out)
    yield from linear("classifier.1", wide(4096), into * 36)
    yield from linear("classifier.4", wide(4096), wide(4096))
    yield from linear("classifier.6", 1000, wide(4096))


def vgg16(wide: Wide = full, *, batch_norm: bool = False) -> Iterator[Entry]:
    into = 3
    for (place, out), place_bn in zip(VGG16, VGG16_BN, strict=True):
        first = place_bn if batch_norm else place
        yield from conv(f"features.{first}", wide(out), into, 3)
        if batch_norm:
            yield from norm(f"features.{first + 1}", wide(out))
        into = wide(out)
    yield from linear("classifier.0", wide(4096), into * 49)
    yield from linear("classifier.3", wide(4096), wide(4096))
    yield from linear("classifier.6", 1000, wide(4096))


BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def _block(name: str, into: int, width: int, out: int, bottleneck: bool, down: bool) -> Iterator[Entry]:
    kernels = (1, 3, 1) if bottleneck else (3, 3)
    widths = (width, width, out) if bottleneck else (out, out)
    before = into
    for i, (kernel, after) in enumerate(zip(kernels, widths, strict=True), start=1):
        yield from conv(f"{name}.conv{i}", after, before, kernel, bias=False)
        yield from norm(f"{name}.bn{i}", after)
        before = after
    if down:
        yield from conv(f"{name}.downsample.0", out, into, 1, bias=False)
        yield from norm(f"{name}.downsample.1", out)


def resnet_layers(depth: int, wide: Wide, into: int) -> Iterator[Entry]:
    bottleneck = depth >= 50
    for layer, blocks in enumerate(BLOCKS[depth], start=1):
        width = wide(64 * 2 ** (layer - 1))
        out = 4 * width if bottleneck else width
        for i in range(blocks):
            down = i == 0 and (bottleneck or layer > 1)
            yield from _block(f"layer{layer}.{i}", into, width, out, bottleneck, down)
            into = out


def resnet_trunk(depth: int, wide: Wide = full) -> Iterator[Entry]:
    yield from conv("conv1", wide(64), 3, 7, bias=False)
    yield from norm("bn1", wide(64))
    yield from resnet_layers(depth, wide, wide(64))


def resnet(depth: int, wide: Wide = full) -> Iterator[Entry]:
    yield from resnet_trunk(depth, wide)
    yield from linear("fc", 1000, wide(512) * (4 if depth >= 50 else 1))


# Expansion, channels, repeats.
MOBILENET_V2 = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))


def mobilenet_v2(wide: Wide = full) -> Iterator[Entry]:
    yield from conv("features.0.0", wide(32), 3, 3, bias=False)
    yield from norm("features.0.1", wide(32))
    into, place = wide(32), 1
    for expansion, out, repeats in MOBILENET_V2:
        for _ in range(repeats):
            yield from _inverted(f"features.{place}.conv", into, into * expansion, wide(out), expansion > 1)
            into, place = wide(out), place + 1
    yield from conv("features.18.0", wide(1280), into, 1, bias=False)
    yield from norm("features.18.1", wide(1280))
    yield from linear("classifier.1", 1000, wide(1280))


def _inverted(name: str, into: int, hidden: int, out: int, expands: bool) -> Iterator[Entry]:
    at = 0
    if expands:
        yield from conv(f"{name}.0.0", hidden, into, 1, bias=False)
        yield from norm(f"{name}.0.1", hidden)
        at = 1
    yield from conv(f"{name}.{at}.0", hidden, 1, 3, bias=False)
    yield from norm(f"{name}.{at}.1", hidden)
    yield from conv(f"{name}.{at + 1}", out, hidden, 1, bias=False)
    yield from norm(f"{name}.{at + 2}", out)


# 1x1; 3x3 reduced, 3x3; 5x5 reduced, 5x5; pooled.
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


def googlenet(wide: Wide = full, *, aux: bool = True) -> Iterator[Entry]:
    def basic(name: str, out: int, into: int, kernel: int) -> Iterator[Entry]:
        yield from conv(f"{name}.conv", out, into, kernel, bias=False)
        yield from norm(f"{name}.bn", out)

    yield from basic("conv1", wide(64), 3, 7)
    yield from basic("conv2", wide(64), wide(64), 1)
    yield from basic("conv3", wide(192), wide(64), 3)
    into = wide(192)
    for name, branches in INCEPTION.items():
        ones, reduce3, threes, reduce5, fives, pool = map(wide, branches)
        block = f"inception{name}"
        yield from basic(f"{block}.branch1", ones, into, 1)
        yield from basic(f"{block}.branch2.0", reduce3, into, 1)
        yield from basic(f"{block}.branch2.1", threes, reduce3, 3)
        yield from basic(f"{block}.branch3.0", reduce5, into, 1)
        yield from basic(f"{block}.branch3.1", fives, reduce5, 3)
        yield from basic(f"{block}.branch4.1", pool, into, 1)
        into = ones + threes + fives + pool
    if aux:
        for name, places in (("aux1", (192, 208, 48, 64)), ("aux2", (112, 288, 64, 64))):
            yield from basic(f"{name}.conv", wide(128), sum(map(wide, places)), 1)
            yield from linear(f"{name}.fc1", wide(1024), 16 * wide(128))
            yield from linear(f"{name}.fc2", 1000, wide(1024))
    yield from linear("fc", 1000, into)


# ---------------------------------------------------------------- published segmentation networks


def _head(name: str, into: int, between: int, classes: int) -> Iterator[Entry]:
    yield from conv(f"{name}.0", between, into, 3, bias=False)
    yield from norm(f"{name}.1", between)
    yield from conv(f"{name}.4", classes, between, 1)


def torchvision_fcn_resnet(
    depth: int, classes: int = 21, wide: Wide = full, *, aux: bool = True
) -> Iterator[Entry]:
    yield from ((f"backbone.{name}", shape) for name, shape in resnet_trunk(depth, wide))
    yield from _head("classifier", 4 * wide(512), wide(512), classes)
    if aux:
        yield from _head("aux_classifier", 4 * wide(256), wide(256), classes)


def caffe_fcn(form: str, classes: int = 21, wide: Wide = full, head: int = 4096) -> Iterator[Entry]:
    """FCN-32s, 16s or 8s on VGG16 under Caffe's layer names; upscore kernels are (C, C, k, k)."""
    into = 3
    for stage, (count, out) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1):
        for i in range(1, count + 1):
            yield from conv(f"conv{stage}_{i}", wide(out), into, 3)
            into = wide(out)
    yield from conv("fc6", head, into, 7)
    yield from conv("fc7", head, head, 1)
    yield from conv("score_fr", classes, head, 1)
    if form == "fcn8s":
        yield from conv("score_pool3", classes, wide(256), 1)
    if form in ("fcn16s", "fcn8s"):
        yield from conv("score_pool4", classes, wide(512), 1)
    kernels = {
        "fcn32s": {"upscore": 64},
        "fcn16s": {"upscore2": 4, "upscore16": 32},
        "fcn8s": {"upscore2": 4, "upscore8": 16, "upscore_pool4": 4},
    }
    for name, kernel in kernels[form].items():
        yield f"{name}.weight", (classes, classes, kernel, kernel)


def semseg_pspnet(
    depth: int, classes: int = 21, wide: Wide = full, *, aux: bool = True, prefix: str = "module."
) -> Iterator[Entry]:
    stem = wide(64)
    entries: list[Entry] = []
    for place, out, into in ((0, stem, 3), (3, stem, stem), (6, 2 * stem, stem)):
        entries += conv(f"layer0.{place}", out, into, 3, bias=False)
        entries += norm(f"layer0.{place + 1}", out)
    entries += resnet_layers(depth, wide, 2 * stem)
    trunk = 4 * wide(512)
    for i in range(4):
        entries += conv(f"ppm.features.{i}.1", trunk // 4, trunk, 1, bias=False)
        entries += norm(f"ppm.features.{i}.2", trunk // 4)
    entries += _head("cls", 2 * trunk, wide(512), classes)
    if aux:
        entries += _head("aux", trunk // 2, wide(256), classes)
    yield from ((prefix + name, shape) for name, shape in entries)
