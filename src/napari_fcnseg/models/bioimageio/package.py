"""The files of a package of the BioImage Model Zoo: a folder or a zip, read in place, nothing fetched."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from napari_fcnseg._shared.errors import MissingPackageError, ModelFileError
from napari_fcnseg._shared.optional import need

DESCRIPTIONS = ("bioimageio.yaml", "rdf.yaml")
EXTRA = "bioimageio"


def find_description(path: Path) -> Path | None:
    """Return the yaml or zip of a package, or None if the path is no package.

    Parameters
    ----------
    path : Path
        A yaml file, a zip, or a folder with ``bioimageio.yaml`` in it.
    """
    if path.suffix.lower() in (".yaml", ".yml", ".zip"):
        return path
    found = [path / name for name in DESCRIPTIONS if (path / name).is_file()]
    return found[0] if found else None


@dataclass(frozen=True)
class Package:
    """Where the files of a package are.

    Attributes
    ----------
    path : Path
        Its yaml, or its zip. A zip is never unpacked.
    """

    path: Path

    @property
    def zipped(self) -> bool:
        """Whether it is a zip."""
        return self.path.suffix.lower() == ".zip"

    def description(self) -> Any:
        """Return what bioimageio.spec reads from the yaml, a model of format 0.5.

        Raises
        ------
        ModelFileError
            If the yaml is missing, or not that of a valid model.
        """
        spec = need("bioimageio.spec", EXTRA, "a package of the BioImage Model Zoo")
        text = self._member(self._description_name()) if self.zipped else _read(self.path)
        # Nothing that it names is looked at, let alone fetched, before we ask for it.
        context = spec.ValidationContext(perform_io_checks=False, root=self.path.parent)
        try:
            content = need("ruyaml", EXTRA, "a package of the BioImage Model Zoo").YAML(typ="safe").load(text)
            with warnings.catch_warnings():
                # Of what it made of an older format; what matters of that is checked when the model runs.
                warnings.filterwarnings("ignore", module=r"bioimageio\.")
                stated = spec.build_description(content, context=context)
                found = spec.build_description(content, context=context, format_version="latest")
        except MissingPackageError:
            raise
        except Exception as error:  # whatever the yaml makes of its readers
            raise ModelFileError(f"{self.path} describes no valid model: {error}") from error
        if not isinstance(found, spec.ModelDescr):
            reason = found.get_reason() if isinstance(found, spec.InvalidDescr) else f"it is a {found.type}"
            raise ModelFileError(f"{self.path} describes no valid model: {reason}")
        for kind, part in found.weights:
            # What it makes of an older format has lost the hashes.
            if part is not None and part.sha256 is None:
                # Not by the validator, which would look for the file, or fetch it.
                object.__setattr__(part, "sha256", getattr(stated.weights, kind).sha256)
        return found

    def read(self, part: Any) -> bytes:
        """Return the content of a file that the yaml names, after a look at its hash.

        Parameters
        ----------
        part : object
            With ``source`` and ``sha256``.

        Raises
        ------
        ModelFileError
            If it lies elsewhere, is missing, or is not the one that the yaml means.
        """
        name = self.name_of(part)
        content = self._member(name) if self.zipped else _read(self._inside(name))
        found = hashlib.sha256(content).hexdigest()
        if part.sha256 is not None and found != str(part.sha256):
            raise ModelFileError(
                f"{name} of {self.path} is not the file that its yaml means (SHA-256 {found[:12]}..., stated "
                f"{str(part.sha256)[:12]}...); it is damaged or was exchanged. Get the package again."
            )
        return content

    def has(self, part: Any) -> bool:
        """Tell whether the yaml means a file of the package, not an address."""
        return "://" not in str(part.source)

    def holds(self, part: Any) -> bool:
        """Tell whether the package has a file that the yaml names."""
        if not self.has(part):
            return False
        name = self.name_of(part)
        if not self.zipped:
            return self._inside(name).is_file()
        with self._opened() as archive:
            return name in archive.namelist()

    def name_of(self, part: Any) -> str:
        """Return the name of a file inside the package.

        Raises
        ------
        ModelFileError
            If it is an address, or leads out of the package.
        """
        source = str(part.source)
        if not self.has(part):
            raise ModelFileError(
                f"{self.path} does not hold {part.source}, but its address, and nothing is fetched; download "
                "the complete package (zip) from bioimage.io."
            )
        name = PurePosixPath(source.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in source:
            raise ModelFileError(f"{self.path} names the file {source!r}, which is not inside the package.")
        return str(name)

    def file(self, part: Any) -> Path:
        """Return the path of a file of an unpacked package."""
        return self._inside(self.name_of(part))

    def _inside(self, name: str) -> Path:
        root = self.path.parent.resolve()
        found = (root / name).resolve()
        if not found.is_relative_to(root):
            raise ModelFileError(f"{name} of {self.path} is a link that leads out of the package.")
        return found

    def _description_name(self) -> str:
        with self._opened() as archive:
            names = archive.namelist()
        for name in DESCRIPTIONS:
            if name in names:
                return name
        raise ModelFileError(f"{self.path} is no package: there is no {DESCRIPTIONS[0]} at its top.")

    def _member(self, name: str) -> bytes:
        with self._opened() as archive:
            try:
                return archive.read(name)
            except (KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                raise ModelFileError(f"{name} of {self.path} cannot be read: {error}") from error

    def _opened(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise ModelFileError(f"{self.path} cannot be read as a zip: {error}.") from error

    def state(self) -> tuple[tuple[str, int, int], ...]:
        """Return what changes when someone exchanges a file of the package; nothing if there is none."""
        if not self.path.is_file():
            return ()
        files = [self.path] if self.zipped else sorted(p for p in self.path.parent.iterdir() if p.is_file())
        stats = [(file.name, file.stat()) for file in files if file.exists()]
        return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
