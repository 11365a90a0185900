"""What the network is asked for: worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from napari_fcnseg.training.losses import BACKGROUND, BOUNDARY, INSIDE, object_classes, object_loss

B, I, R = BACKGROUND, INSIDE, BOUNDARY  # noqa: E741  (a map drawn with letters)
WEIGHTS = torch.ones(3)


def test_classes_worked_by_hand() -> None:
    labels = torch.tensor([
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 2, 2, 2],
        [1, 1, 1, 0, 2, 2, 2],
        [0, 0, 0, 3, 2, 2, 2],
        [0, 0, 0, 3, 2, 2, 2],
    ])  # fmt: skip
    expected = torch.tensor([
        [I, I, R, B, B, B, B],
        [I, I, R, B, R, R, R],
        [R, R, R, B, R, I, I],
        [B, B, B, R, R, I, I],
        [B, B, B, R, R, I, I],
    ])  # fmt: skip
    found = object_classes(labels[None].float())
    assert found.dtype == torch.int64
    assert torch.equal(found[0], expected)


def test_touching_objects_are_parted_on_both_sides() -> None:
    labels = torch.tensor([[1.0, 1, 1, 2, 2, 2]] * 4)[None]
    assert object_classes(labels)[0, 0].tolist() == [I, I, R, R, I, I]


def test_a_diagonal_neighbour_is_a_border_too() -> None:
    labels = torch.ones((1, 5, 5))
    labels[0, 0, 0] = 0
    assert object_classes(labels)[0, 1, 1] == BOUNDARY
    assert object_classes(labels)[0, 2, 2] == INSIDE


def test_numbers_do_not_matter() -> None:
    labels = torch.randint(0, 3, (2, 12, 12), generator=torch.Generator().manual_seed(0)).float()
    renamed = torch.tensor([0.0, 2.0**24 - 1, 1.0])[labels.long()]
    assert torch.equal(object_classes(renamed), object_classes(labels))


def loss_of(scores: torch.Tensor, labels: torch.Tensor, distance: torch.Tensor, **options: float) -> float:
    weight = options.get("distance_weight", 1.0)
    return float(object_loss(scores, labels, distance, class_weights=WEIGHTS, distance_weight=weight))


def test_ignorance_costs_the_logarithm_of_the_choices() -> None:
    scores = torch.zeros((1, 4, 6, 6))
    labels, distance = torch.zeros((1, 6, 6)), torch.full((1, 6, 6), 0.5)
    assert loss_of(scores, labels, distance) == pytest.approx(math.log(3) + math.log(2))
    assert loss_of(scores, labels, distance, distance_weight=0.0) == pytest.approx(math.log(3))
    assert loss_of(scores, labels, distance, distance_weight=3.0) == pytest.approx(
        math.log(3) + 3 * math.log(2)
    )


def test_the_truth_costs_nothing_and_each_error_something() -> None:
    labels = torch.zeros((1, 8, 8))
    labels[0, 2:7, 2:7] = 4
    truth = torch.nn.functional.one_hot(object_classes(labels), 3).permute(0, 3, 1, 2) * 40.0 - 20
    distance = (labels > 0).float()
    right = torch.cat([truth, distance[:, None] * 40 - 20], 1)
    assert loss_of(right, labels, distance) < 1e-6
    for channel in range(4):
        wrong = right.clone()
        wrong[0, channel] *= -1
        assert loss_of(wrong, labels, distance) > 0.5


def test_class_weights_move_the_balance() -> None:
    labels = torch.zeros((1, 8, 8))
    labels[0, :4] = 1
    scores = torch.zeros((1, 4, 8, 8))
    scores[:, BACKGROUND] = 2.0  # right below, wrong above
    weights = torch.tensor([10.0, 1.0, 1.0])
    even = object_loss(scores, labels, labels, class_weights=WEIGHTS, distance_weight=0)
    leaning = object_loss(scores, labels, labels, class_weights=weights, distance_weight=0)
    assert leaning < even


def test_distances_beyond_one_count_as_one() -> None:
    """Bicubic interpolation overshoots."""
    scores, labels = torch.randn((1, 4, 5, 5)), torch.zeros((1, 5, 5))
    over = torch.full((1, 5, 5), 1.2)
    assert loss_of(scores, labels, over) == loss_of(scores, labels, torch.ones((1, 5, 5)))
