"""Devices, precision, and pixels on their way to a device and back."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from napari_fcnseg._shared.errors import DeviceError
from napari_fcnseg.engine import devices

CPU = torch.device("cpu")


def test_devices(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(devices, "available_devices", lambda: ["cuda:0", "cuda:1", "cpu"])
    with caplog.at_level(logging.INFO):
        assert devices.choose_device(None) == torch.device("cuda:0")
    assert "computing on cuda:0" in caplog.text
    assert devices.choose_device("cuda") == torch.device("cuda:0")
    assert devices.choose_device("cuda:1") == torch.device("cuda:1")
    assert devices.choose_device("cpu") == torch.device("cpu")
    for wrong in ("cuda:2", "mps", "gpu", "tpu"):
        with pytest.raises(DeviceError, match=f"device='{wrong}'.*cuda:0, cuda:1, cpu.*doctor"):
            devices.choose_device(wrong)


def test_available_devices_end_with_the_cpu() -> None:
    assert devices.available_devices()[-1] == "cpu"


def set_instructions(monkeypatch: pytest.MonkeyPatch, **there: bool) -> None:
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(
            torch.cpu, f"_is_{name}_supported", lambda name=name: there.get(name, False), raising=False
        )


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_tile"])
def test_automatic_precision_is_bfloat16_where_there_are_instructions(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_instructions(monkeypatch, **{name: True})
    with caplog.at_level(logging.INFO):
        assert devices.choose_precision("auto", CPU) == "bfloat16"
    assert "computing in bfloat16, which this CPU has instructions for" in caplog.text


def test_automatic_precision_is_float32_elsewhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_instructions(monkeypatch)
    with caplog.at_level(logging.INFO):
        assert devices.choose_precision("auto", CPU) == "float32"
        assert devices.choose_precision("auto", torch.device("mps")) == "float32"
    assert "as this CPU has no bfloat16 instructions" in caplog.text
    assert "as this mps device has" in caplog.text


def test_a_torch_that_does_not_say_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert devices.choose_precision("auto", CPU) == "float32"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_asked_for_is_taken(precision: str) -> None:
    assert devices.choose_precision(precision, CPU) == precision


def test_a_lack_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert devices.is_out_of_memory(caught.value)
    assert devices.is_out_of_memory(MemoryError())
    assert devices.is_out_of_memory(RuntimeError("CUDA out of memory. Tried"))
    assert not devices.is_out_of_memory(RuntimeError("shapes do not match"))


@settings(max_examples=60, deadline=None)
@given(
    npst.arrays(
        st.sampled_from(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?"]), (2, 1, 3, 4)
    ),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
)
def test_pixels_of_any_type_arrive_as_a_copy(pixels: Any, dtype: torch.dtype, writable: bool) -> None:
    before = pixels.copy()
    pixels.setflags(write=writable)
    values = devices.to_device(pixels[..., ::-1], CPU, dtype)
    assert values.dtype == dtype
    with np.errstate(over="ignore", invalid="ignore"):
        expected = before[..., ::-1].astype(str(dtype).removeprefix("torch."))
    np.testing.assert_array_equal(values.numpy(), expected)
    values += 1
    np.testing.assert_array_equal(pixels, before)


def test_what_is_fetched_is_what_was_made() -> None:
    values = torch.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(devices.fetched(values)(), values.numpy())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no card here")
def test_a_card_gives_what_the_cpu_gives() -> None:
    pixels = np.arange(24, dtype=np.uint16).reshape(1, 2, 3, 4)
    values = devices.to_device(pixels, torch.device("cuda:0"), torch.float32)
    waits = [devices.fetched(values * i) for i in range(4)]
    for i, wait in enumerate(waits):
        np.testing.assert_array_equal(wait(), pixels.astype(np.float32) * i)
