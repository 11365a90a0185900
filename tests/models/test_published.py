"""Published segmentation networks: each file of the exact layout becomes a model that computes the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.networks import layouts
from tests.networks.layouts import fabricated
from torch import Tensor

from napari_fcnseg import load_model, save_model, segment
from napari_fcnseg._shared.errors import ModelError, NetworkError
from napari_fcnseg.models.published import CAFFE_MEAN, VOC_CLASSES, import_model, voc_colour

State = dict[str, Tensor]
WIDTH = 1 / 16
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def wide(channels: int) -> int:
    return max(1, round(channels * WIDTH))


def write(folder: Path, entries: Iterator[layouts.Entry], **changes: Tensor) -> tuple[Path, State]:
    state = fabricated(entries) | changes
    torch.save(state, folder / "net.pth")
    return folder / "net.pth", {name.removeprefix("module."): value for name, value in state.items()}


def pixels(*size: int) -> Tensor:
    """Return an RGB image with values from 0 to 255."""
    return torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(1)) * 255


def close(result: Tensor, expected: Tensor) -> bool:
    return result.shape == expected.shape and torch.allclose(
        result, expected, atol=1e-5 * float(expected.abs().max()), rtol=0
    )


# ---------------------------------------------------------------- references, layer by layer from the file


def batch_norm(x: Tensor, state: State, name: str) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, weight, bias)


def residual(x: Tensor, state: State, name: str, stride: int, dilation: int) -> Tensor:
    y = F.relu(batch_norm(F.conv2d(x, state[f"{name}.conv1.weight"]), state, f"{name}.bn1"))
    y = F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=dilation, dilation=dilation)
    y = F.relu(batch_norm(y, state, f"{name}.bn2"))
    y = batch_norm(F.conv2d(y, state[f"{name}.conv3.weight"]), state, f"{name}.bn3")
    if f"{name}.downsample.0.weight" in state:
        x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
        x = batch_norm(x, state, f"{name}.downsample.1")
    return F.relu(x + y)


def resnet50(x: Tensor, state: State, prefix: str, first: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the third and fourth stage at stride 8; `first` are the dilations of their first blocks."""
    for layer, blocks, stride, dilations in (
        (1, 3, 1, (1, 1)), (2, 4, 2, (1, 1)), (3, 6, 1, (first[0], 2)), (4, 3, 1, (first[1], 4)),
    ):  # fmt: skip
        for i in range(blocks):
            name = f"{prefix}layer{layer}.{i}"
            x = residual(x, state, name, stride if i == 0 else 1, dilations[i > 0])
        if layer == 3:
            third = x
    return third, x


def head(x: Tensor, state: State, name: str) -> Tensor:
    x = F.relu(batch_norm(F.conv2d(x, state[f"{name}.0.weight"], padding=1), state, f"{name}.1"))
    return F.conv2d(x, state[f"{name}.4.weight"], state[f"{name}.4.bias"])


def normalised(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def torchvision_reference(image: Tensor, state: State) -> Tensor:
    x = normalised(image, IMAGENET_MEAN, IMAGENET_STD)
    x = F.conv2d(x, state["backbone.conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(batch_norm(x, state, "backbone.bn1")), 3, 2, 1)
    _, x = resnet50(x, state, "backbone.", (1, 2))
    return F.interpolate(
        head(x, state, "classifier"), size=image.shape[2:], mode="bilinear", align_corners=False
    )


def semseg_reference(image: Tensor, state: State) -> Tensor:
    x = normalised(image, IMAGENET_MEAN, IMAGENET_STD)
    for place, stride in ((0, 2), (3, 1), (6, 1)):
        x = F.conv2d(x, state[f"layer0.{place}.weight"], stride=stride, padding=1)
        x = F.relu(batch_norm(x, state, f"layer0.{place + 1}"))
    _, x = resnet50(F.max_pool2d(x, 3, 2, 1), state, "", (2, 4))
    parts = [x]
    for i, bins in enumerate((1, 2, 3, 6)):
        part = F.conv2d(F.adaptive_avg_pool2d(x, bins), state[f"ppm.features.{i}.1.weight"])
        part = F.relu(batch_norm(part, state, f"ppm.features.{i}.2"))
        parts.append(F.interpolate(part, size=x.shape[2:], mode="bilinear", align_corners=True))
    x = head(torch.cat(parts, 1), state, "cls")
    return F.interpolate(x, size=image.shape[2:], mode="bilinear", align_corners=True)


def caffe_reference(image: Tensor, state: State, scales: tuple[float, float] = (1, 1)) -> Tensor:
    """FCN-8s, 16s or 32s with 100 pixels of zeros around the image, which is BGR less the mean."""
    x = image.flip(1) - torch.tensor([104.00699, 116.66877, 122.67892])[:, None, None]
    pooled = {}
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(1, count + 1):
            name, padding = f"conv{stage}_{i}", 100 if (stage, i) == (1, 1) else 1
            x = F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding))
        x = pooled[stage] = F.max_pool2d(x, 2, 2, ceil_mode=True)
    for name in ("fc6", "fc7"):
        x = F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"]))

    def score(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def cut(x: Tensor, offset: int, like: Tensor) -> Tensor:
        return x[:, :, offset : offset + like.shape[2], offset : offset + like.shape[3]]

    x = score("score_fr", x)
    if "upscore.weight" in state:
        return cut(F.conv_transpose2d(x, state["upscore.weight"], stride=32), 19, image)
    x = F.conv_transpose2d(x, state["upscore2.weight"], stride=2)
    x = x + cut(score("score_pool4", pooled[4] * scales[0]), 5, x)
    if "upscore16.weight" in state:
        return cut(F.conv_transpose2d(x, state["upscore16.weight"], stride=16), 27, image)
    x = F.conv_transpose2d(x, state["upscore_pool4.weight"], stride=2)
    x = x + cut(score("score_pool3", pooled[3] * scales[1]), 9, x)
    return cut(F.conv_transpose2d(x, state["upscore8.weight"], stride=8), 31, image)


def bilinear(classes: int, size: int) -> Tensor:
    """Return the kernel that the authors fill in: by their formula, on the diagonal."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    side = 1 - (torch.arange(size) - centre).abs() / factor
    kernel = torch.zeros(classes, classes, size, size)
    kernel[range(classes), range(classes)] = side[:, None] * side
    return kernel


KERNELS = {
    "fcn32s": {"upscore": 64},
    "fcn16s": {"upscore2": 4, "upscore16": 32},
    "fcn8s": {"upscore2": 4, "upscore_pool4": 4, "upscore8": 16},
}


def caffe_file(folder: Path, form: str, classes: int = 3, fixed: bool = True) -> tuple[Path, State]:
    kernels = {f"{name}.weight": bilinear(classes, size) for name, size in KERNELS[form].items()}
    return write(folder, layouts.caffe_fcn(form, classes, wide, head=32), **(kernels if fixed else {}))


# ---------------------------------------------------------------- the same result


@torch.no_grad()
def result(path: Path, image: Tensor, *, at_once: bool = False) -> Tensor:
    """Return the scores of an imported model for an image with values from 0 to 255."""
    model = import_model(path, at_once=at_once)
    assert model.network is not None
    rule = model.record.normalization
    return model.network(normalised(image, rule.offset, rule.scale))  # type: ignore[no-any-return]


@pytest.mark.parametrize("aux", [False, True])
def test_torchvision(aux: bool, tmp_path: Path) -> None:
    path, state = write(tmp_path, layouts.torchvision_fcn_resnet(50, 4, wide, aux=aux))
    image = pixels(40, 56)
    assert close(result(path, image), torchvision_reference(image, state))
    assert import_model(path).record.network["options"] == {
        "backbone": "resnet50", "head": "fcn", "aux": aux, "width": WIDTH,
    }  # fmt: skip


@pytest.mark.parametrize(("aux", "prefix"), [(True, "module."), (False, "")])
def test_semseg(aux: bool, prefix: str, tmp_path: Path) -> None:
    path, state = write(tmp_path, layouts.semseg_pspnet(50, 4, wide, aux=aux, prefix=prefix))
    image = pixels(57, 73)
    assert close(result(path, image), semseg_reference(image, state))
    record = import_model(path).record
    assert record.network["options"] == {
        "backbone": "resnet50",
        "order": "semseg",
        "aux": aux,
        "width": WIDTH,
    }
    assert record.tile_shape == (473, 473)


@pytest.mark.parametrize("form", KERNELS)
@pytest.mark.parametrize("fixed", [True, False])
def test_caffe(form: str, fixed: bool, tmp_path: Path) -> None:
    path, state = caffe_file(tmp_path, form, fixed=fixed)
    image = pixels(32, 64)
    expected = caffe_reference(image, state)
    assert close(result(path, image), expected)
    # The order of the channels matters to the file, and has been kept.
    assert not close(result(path, image.flip(1)), expected)
    options = import_model(path).record.network["options"]
    assert options["upsampling"] == ("fixed" if fixed else "learned")
    assert (options["padding"], options["head_channels"]) == ("pad100", 32)


def test_at_once(tmp_path: Path) -> None:
    path, state = caffe_file(tmp_path, "fcn8s")
    image = pixels(32, 32)
    assert close(result(path, image, at_once=True), caffe_reference(image, state, (0.01, 0.0001)))
    assert not close(result(path, image, at_once=True), caffe_reference(image, state))


# ---------------------------------------------------------------- cards


def test_the_card_says_what_the_file_expected(tmp_path: Path) -> None:
    path, _ = caffe_file(tmp_path, "fcn32s", classes=21)
    record = import_model(path, name="fcn32s heavy").record
    assert record.name == "fcn32s-heavy"
    assert record.inputs == ("red", "green", "blue")
    assert record.normalization.method == "fixed"
    assert (record.normalization.offset, record.normalization.scale) == (CAFFE_MEAN, (1.0, 1.0, 1.0))
    assert CAFFE_MEAN == (122.67892, 116.66877, 104.00699)
    assert record.training["published_input"].startswith(
        "BGR, 0 to 255, minus (104.00699, 116.66877, 122.67892)"
    )
    assert [c.name for c in record.classes] == list(VOC_CLASSES)
    assert record.outputs[0].value == 0
    assert record.classes[14].name == "person"
    assert record.classes[14].colour == "#c08080"
    assert "see its publisher" in record.licence


def test_names_of_classes(tmp_path: Path) -> None:
    path, _ = caffe_file(tmp_path, "fcn32s")
    assert [c.name for c in import_model(path, classes=["cell", "rim"]).record.classes] == ["cell", "rim"]
    assert [c.name for c in import_model(path).record.classes] == ["class 1", "class 2"]
    for wrong in (["cell"], "ab"):
        with pytest.raises(ModelError, match="has 3 maps, so 2 classes besides the background"):
            import_model(path, classes=wrong)


def test_colours_of_voc() -> None:
    published = {1: "#800000", 2: "#008000", 3: "#808000", 4: "#000080", 8: "#400000", 20: "#004080"}
    assert {value: voc_colour(value) for value in published} == published


def test_an_imported_model_is_kept_and_run(tmp_path: Path) -> None:
    path, state = write(tmp_path, layouts.torchvision_fcn_resnet(50, 4, wide))
    save_model(import_model(path), tmp_path / "kept")
    model = load_model(tmp_path / "kept")
    assert model.record.training["imported_from"] == "net.pth"
    image = pixels(48, 64).byte()
    labels = segment(image[0].permute(1, 2, 0).numpy(), model, channel_axis=-1)
    expected = torchvision_reference(image.float(), state).argmax(1)[0].numpy()
    assert labels.shape == (48, 64)
    assert np.mean(labels == expected) > 0.999
    assert len(np.unique(expected)) > 1


# ---------------------------------------------------------------- refusals


def test_deeplab(tmp_path: Path) -> None:
    entries = [*layouts.torchvision_fcn_resnet(50, 4, wide, aux=False)]
    deeplab = [(name.replace("classifier.0.", "classifier.0.convs.0.0."), shape) for name, shape in entries]
    path, _ = write(tmp_path, iter(deeplab))
    with pytest.raises(NetworkError, match=r"DeepLab's head.*backbone can be had, by load_pretrained"):
        import_model(path)


def test_other_layouts(tmp_path: Path) -> None:
    path, _ = write(tmp_path, layouts.resnet(18, wide))
    with pytest.raises(ModelError, match=r"of no known layout.*A backbone alone goes into a network"):
        import_model(path)


def test_a_part_too_much_or_too_little(tmp_path: Path) -> None:
    path, state = caffe_file(tmp_path, "fcn32s")
    torch.save(state | {"extra.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"(?s)not fit fcn32s entry by entry.*not used of the file: extra"):
        import_model(path)
    del state["conv3_2.bias"]
    torch.save(state, path)
    with pytest.raises(ModelError, match=r"left as they were: encoder\.features\.12"):
        import_model(path)
    with pytest.raises(ModelError, match="at_once=True is for an FCN-8s"):
        import_model(path, at_once=True)


@pytest.mark.parametrize("name", ["vgg16", "deeplabv3_resnet50_coco"])
def test_a_backbone_is_refused_before_it_is_downloaded(name: str) -> None:
    with pytest.raises(
        ModelError, match=rf"'{name}' is no whole network.*'fcn_resnet50_coco'.*load_pretrained"
    ):
        import_model(name, base_url="http://127.0.0.1:9")


def test_another_pyramid(tmp_path: Path) -> None:
    path, state = write(tmp_path, layouts.semseg_pspnet(50, 4, wide))
    torch.save({name: value for name, value in state.items() if "ppm.features.3" not in name}, path)
    with pytest.raises(NetworkError, match="3 pooled branches"):
        import_model(path)
