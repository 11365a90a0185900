"""The list of networks, for people and for programs."""

from __future__ import annotations

import json

import pytest

from napari_fcnseg.cli.entry import main
from napari_fcnseg.networks import build_network, list_networks


def test_every_network_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["networks", "--channels", "1", "--classes", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list_networks()
    (unet,) = (line for line in lines if line.startswith("unet "))
    assert unet.split()[1:4] == ["1,942,306", "16", "96"]
    (pspnet,) = (line for line in lines if line.startswith("pspnet "))
    assert "approximate: " in pspnet


def test_json_states_options_that_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["networks", "--json"]) == 0
    facts = {fact["name"]: fact for fact in json.loads(capsys.readouterr().out)}
    assert list(facts) == list_networks()
    assert facts["fcn32s"]["parameters"] == 134_346_581
    options = facts["unet"]["options"]
    network = build_network("unet", in_channels=3, classes=21, **options)
    assert sum(p.numel() for p in network.parameters()) == facts["unet"]["parameters"]


def test_impossible_sizes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["networks", "--classes", "0"]) == 1
    assert "classes=0" in capsys.readouterr().err
