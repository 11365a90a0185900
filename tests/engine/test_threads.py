"""Two threads at once: torch's tracing changes modules for the whole process while it runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tests.engine.small import cells, grouped, network, seeded, texture

from napari_fcnseg import as_model, segment


def test_threads_segment_at_once() -> None:
    images = [texture(40, 45, seed=seed) for seed in range(4)]
    models = [cells(), seeded(), grouped()]
    jobs = [(image, model) for model in models for image in images]
    expected = [segment(image, model, kind="classes") for image, model in jobs]
    assert all(len(np.unique(labels)) == 2 for labels in expected)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            got = list(
                pool.map(lambda job: segment(job[0], job[1], kind="classes", tile_shape=(16, 16)), jobs)
            )
            # The windows of the model that is blended are what tile_shape says.
            for labels, (image, model), whole in zip(got, jobs, expected, strict=True):
                alone = segment(image, model, kind="classes", tile_shape=(16, 16))
                np.testing.assert_array_equal(labels, alone)
                if model is not grouped():
                    np.testing.assert_array_equal(labels, whole)


def test_models_are_made_while_others_run() -> None:
    """Each new model and precision is traced, while other threads are in the middle of a network."""
    image = texture(40, 45)
    fresh = [network(seed=seed, depth=1) for seed in range(6)]
    expected = [segment(image, as_model(made, classes=["cell"])) for made in fresh]
    blended = segment(image, grouped())

    def work(i: int) -> bool:
        if i % 2:
            return bool((segment(image, grouped()) == blended).all())
        labels = segment(image, as_model(fresh[i // 2], classes=["cell"]))
        return bool((labels == expected[i // 2]).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(12)))
