"""Whether the objects of an image can be joined along z."""

from __future__ import annotations

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.models.record import ModelRecord


def refuse_unlinkable(settings: SegmentSettings, record: ModelRecord, layout: Layout) -> None:
    """Refuse `link_z` where there are no objects in slices that follow each other.

    Parameters
    ----------
    settings : SegmentSettings
        With the kind resolved.
    record : ModelRecord
        Of the model.
    layout : Layout
        The roles of the image's axes.

    Raises
    ------
    InputError
        For classes, a model that looks along z itself, an image without z, or
        one where another axis lies between z and the plane.
    """
    if settings.link_z is None:
        return
    problem, cure = _problem(settings, record, "".join(layout.axes[axis] for axis in layout.leading))
    if problem:
        raise InputError(f"link_z={settings.link_z:g} joins the objects of slices, but {problem}; {cure}.")


def _problem(settings: SegmentSettings, record: ModelRecord, leading: str) -> tuple[str, str]:
    """Return why slices cannot be joined, and the cure; empty where they can."""
    if settings.kind == "classes":
        return "kind='classes' makes none", "leave it out, or give kind='instances'"
    if record.ndim > 2:
        return f"{record.id} sees the volume as a whole", "leave it out"
    if "z" not in leading:
        return f"the image has no axis z (leading axes: {leading or 'none'})", "name it: axes='zyx'"
    if not leading.endswith("z"):
        return f"its leading axes are in the order {leading!r}", "transpose the image so that z comes last"
    return "", ""
