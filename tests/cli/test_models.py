"""The list of models, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_fcnseg.cli.entry import main
from napari_fcnseg.cli.models import card_text
from napari_fcnseg.models import list_models, load_model


def test_a_card_says_what_matters(tiny_model: Path) -> None:
    text = card_text(load_model(tiny_model).record)
    assert text.startswith("tiny@1: Tiny\n============\n")
    for fact in ("1 cell", "instances by default", "nothing at all", "CC0"):
        assert fact in text
    assert max(map(len, text.splitlines())) <= 100


def test_json_is_the_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [card["name"] for card in listed] == [record.name for record in list_models()]


def test_the_embedded_model_states_scores_and_weaknesses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "nuclei@1: " in out
    for fact in ("inputs", "scores", "weakness", "licence", "CC0"):
        assert fact in out
