"""The check-up: what it prints on this machine, and the cures it knows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from napari_fcnseg.cli import doctor
from napari_fcnseg.cli.doctor import Finding, unused_card
from napari_fcnseg.cli.entry import main
from napari_fcnseg.engine import planning, recording


def test_sections_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    out = capsys.readouterr().out
    for title in ("versions:", "devices:", "processor and memory:", "image codecs:", "models:"):
        assert title in out
    assert "torch 2" in out
    assert "cpu, " in out
    assert "TIFF written and read back" in out
    assert code == (1 if "WRONG" in out else 0)


def test_packages_and_memory_are_those_of_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planning, "free_memory", lambda: 2**30)
    main(["doctor"])
    out = capsys.readouterr().out
    assert "1.0 GiB taken as free: close other programs" in out
    for name in (*recording.PACKAGES[1:], "tqdm"):
        assert f"ok     {name} " in out
    assert {"imagecodecs", "safetensors"} <= set(recording.PACKAGES)


def test_embedded_models_are_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "nuclei@1, SHA-256" in out
    assert "all is well" in out


def test_a_card_beside_a_torch_for_cpus() -> None:
    (finding,) = unused_card(["NVIDIA H200"], "2.13.0+cpu", None, available=False)
    assert finding.verdict == "note"
    assert "NVIDIA H200 is not used" in finding.text
    assert "install a CUDA build of torch" in finding.text
    assert "/" not in finding.text, "addresses change; the page has a name"


def test_a_card_whose_driver_is_too_old() -> None:
    (finding,) = unused_card(["NVIDIA H200"], "2.13.0", "13.0", available=False)
    assert "update the NVIDIA driver" in finding.text


@pytest.mark.parametrize(("cards", "available"), [([], False), (["NVIDIA H200"], True)])
def test_nothing_to_say_about_cards(cards: list[str], available: bool) -> None:
    assert list(unused_card(cards, "2.13.0", "13.0", available)) == []


def test_a_check_that_breaks_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("so far")
        raise OSError("no such library")

    monkeypatch.setattr(doctor, "_codecs", broken)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "ok     so far" in out
    assert "WRONG  OSError: no such library" in out
