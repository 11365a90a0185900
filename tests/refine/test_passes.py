"""Passes in memory keep arrays until they are dropped, and give facts in order."""

from __future__ import annotations

import gc
import weakref

import numpy as np

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.passes import Facts, MemoryPasses


def test_arrays_begin_as_zeros_and_stay_until_they_are_dropped() -> None:
    passes = MemoryPasses()
    one = passes.array("one", (2, 3), "int32")
    assert (one.shape, one.dtype) == ((2, 3), np.int32)
    assert not one.any()
    one[1] = 5
    assert passes.array("one", (2, 3), "int32") is one
    passes.array("other", (1,), "bool")
    passes.drop("one", "never made")
    assert not passes.array("one", (2, 3), "int32").any()


def test_memory_of_what_is_dropped_is_free() -> None:
    passes = MemoryPasses()
    gone = weakref.ref(passes.array("one", (5,), "int8"))
    assert gone() is not None
    passes.drop("one")
    gc.collect()
    assert gone() is None


def corner(box: Box) -> Facts | None:
    """Return where a box begins; nothing of the first."""
    return {"corner": np.array([a for a, _ in box])} if box[0][0] else None


def test_facts_are_in_the_order_of_the_blocks() -> None:
    facts = MemoryPasses().each("corners", [((3, 4),), ((0, 3),), ((4, 9),)], corner)
    assert [fact.get("corner", np.array([-1])).tolist() for fact in facts] == [[3], [-1], [4]]
