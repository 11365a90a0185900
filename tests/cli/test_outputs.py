"""Where outputs go, and what is refused before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_fcnseg._shared.errors import ImageFileError, InputError, OutputExistsError
from napari_fcnseg.cli.outputs import plan_jobs, prepare


def test_one_input_one_file(tmp_path: Path) -> None:
    out = tmp_path / "new" / "cells_labels.ome.tif"
    (job,) = plan_jobs(["cells.tif"], str(out), overlay=True)
    assert [p.name for p in job.outputs] == [
        "cells_labels.ome.tif", "cells_labels.fcnseg.json", "cells_overlay.png",
    ]  # fmt: skip
    prepare([job], overwrite=False)
    assert out.parent.is_dir()


def test_a_slash_means_a_folder(tmp_path: Path) -> None:
    (job,) = plan_jobs(["a/cells.ome.zarr/"], f"{tmp_path}/results/", overlay=False)
    assert job.labels == tmp_path / "results" / "cells_labels.tif"
    assert job.overlay is None


def test_a_folder_that_exists_is_one(tmp_path: Path) -> None:
    (job,) = plan_jobs(["cells.png"], str(tmp_path), overlay=False)
    assert job.labels == tmp_path / "cells_labels.tif"


def test_several_inputs_go_to_a_folder(tmp_path: Path) -> None:
    jobs = plan_jobs(["a.tif", "b.png"], str(tmp_path / "results"), overlay=False)
    assert [job.labels.name for job in jobs] == ["a_labels.tif", "b_labels.tif"]
    assert {job.labels.parent for job in jobs} == {tmp_path / "results"}


def test_several_inputs_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 images cannot be written to the one file .* -o labels/"):
        plan_jobs(["a.tif", "b.tif"], str(tmp_path / "labels.tif"), overlay=False)


def test_two_inputs_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x/a\.tif and y/a\.png would both be written"):
        plan_jobs(["x/a.tif", "y/a.png"], str(tmp_path), overlay=False)


def test_an_input_is_never_an_output(tmp_path: Path) -> None:
    source = tmp_path / "cells.tif"
    with pytest.raises(InputError, match="is an input"):
        plan_jobs([str(source)], str(source), overlay=False)


@pytest.mark.parametrize("name", ["labels", "labels.npy", ".tif"])
def test_unknown_ending(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"Use one of these endings: \.ome\.tif"):
        plan_jobs(["a.tif"], str(tmp_path / name), overlay=False)


@pytest.mark.parametrize("existing", ["a_labels.tif", "a_labels.fcnseg.json", "a_overlay.png"])
def test_any_existing_output_is_refused(existing: str, tmp_path: Path) -> None:
    jobs = plan_jobs(["a.tif", "b.tif"], str(tmp_path), overlay=True)
    (tmp_path / existing).write_text("mine")
    with pytest.raises(OutputExistsError, match=rf"{existing} exists already.*--overwrite"):
        prepare(jobs, overwrite=False)
    prepare(jobs, overwrite=True)
    assert (tmp_path / existing).read_text() == "mine"
