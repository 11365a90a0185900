"""Kill a run at random moments, call it again, and compare what it wrote with an unbroken run.

    python benchmarks/kill.py [--kills 20] [--rows 3] [--columns 2] [--seed 0]

A field of nuclei, as many shards of 2048 pixels as asked for, is segmented into objects in an OME-Zarr
store. Each time the process gets SIGKILL at a random moment, every pass of the run among them, and the
same command is run to the end. Printed are the pass that was killed, how many tiles (here as large as a
shard) were computed twice, and whether every file but the times of the record is that of the unbroken
run. The exit status is 1 if one is not, or if more tiles were redone than the queues hold, one in the
network and two waiting to be written.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from napari_fcnseg.cli.synthetic import fluorescence_field
from napari_fcnseg.engine.pipeline import DEPTH
from napari_fcnseg.tiling.shards import SHARD

EDGE = SHARD[2]


class Kill(NamedTuple):
    """What came of one kill."""

    name: str
    redone: int
    same: bool


def make_image(path: Path, rows: int, columns: int) -> None:
    """Write the field, chunk by chunk, each its own."""
    array = zarr.create_array(path, shape=(rows * EDGE, columns * EDGE), chunks=(1024, 1024), dtype="uint16")
    field, _ = fluorescence_field(EDGE // 2, 500)
    for row in range(2 * rows):
        for column in range(2 * columns):
            part = np.rot90(field, (row + column) % 4)
            array[row * 1024 : (row + 1) * 1024, column * 1024 : (column + 1) * 1024] = part


def segment(image: Path, store: Path) -> None:
    """Run once, and print a line for each tile; what the process does that is killed."""
    from napari_fcnseg import segment_to_zarr

    segment_to_zarr(
        zarr.open_array(image, mode="r"), store, kind="instances", device="cpu", tile_shape=(EDGE, EDGE),
        progress=lambda done, _total: print(f"tile {done}", flush=True),
    )  # fmt: skip


def start(image: Path, store: Path) -> subprocess.Popen[str]:
    """Start the run in a process of its own."""
    command = [sys.executable, __file__, "--run", str(image), str(store)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def passes(journal: Path) -> list[str]:
    """Return the pass of each line of a journal, the header left out."""
    try:
        lines = journal.read_bytes().split(b"\n")[1:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line)["pass"] for line in lines]


def journal_of(store: Path) -> Path:
    """Return where the journal of a running run lies."""
    return store.with_name(f"{store.name}.partial") / ".fcnseg" / "journal.jsonl"


def unbroken(image: Path, store: Path) -> tuple[list[str], int]:
    """Run without a kill; return the pass of every line of the journal, and the number of tiles."""
    process, seen = start(image, store), []
    while process.poll() is None:
        seen = passes(journal_of(store)) or seen
        time.sleep(0.005)
    assert process.stdout is not None
    return seen, process.stdout.read().count("tile")


def killed(image: Path, store: Path, line: int, delay: float) -> tuple[str, int]:
    """Kill a run some time after a line of its journal; return the pass it was in, and the tiles computed."""
    process, journal = start(image, store), journal_of(store)
    while len(passes(journal)) < line and process.poll() is None:
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    return (passes(journal) or ["the first"])[-1], output.count("tile")


def contents(store: Path) -> dict[str, Any]:
    """Return every file by its path; of the metadata, all but the times of the record."""
    found: dict[str, Any] = {}
    for path in store.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(store))] = path.read_bytes()
    attributes = json.loads(found["zarr.json"])
    for name in ("started", "seconds"):
        del attributes["attributes"]["napari_fcnseg"]["record"][name]
    return {**found, "zarr.json": attributes}


def one_kill(image: Path, store: Path, line: int, delay: float, whole: dict[str, Any], tiles: int) -> Kill:
    """Kill, resume, compare."""
    shutil.rmtree(store, ignore_errors=True)
    name, before = killed(image, store, line, delay)
    if store.exists():
        return Kill("too late", 0, contents(store) == whole)
    process = start(image, store)
    output, _ = process.communicate()
    return Kill(name, before + output.count("tile") - tiles, store.exists() and contents(store) == whole)


def moments(lines: list[str], kills: int, rng: random.Random) -> list[tuple[int, float]]:
    """Return after which line of the journal to kill, and how long after: in every pass at least once."""
    named = {name: [i for i, line in enumerate(lines) if line == name] for name in dict.fromkeys(lines)}
    chosen = [rng.choice(places) for places in named.values()]
    # Half of the rest while the network runs, which is most of the time of a run.
    chosen += [rng.choice(rng.choice((named["predict"], range(len(lines))))) for _ in range(kills)]
    return [
        (line, rng.uniform(0, 2 if lines[line] == "predict" else 0.02))
        for line in chosen[: max(kills, len(named))]
    ]


def main() -> int:
    """Print one line for each kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--columns", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        segment(*args.run)
        return 0
    rng, folder = random.Random(args.seed), Path(tempfile.mkdtemp())
    image, store = folder / "image.zarr", folder / "labels.zarr"
    make_image(image, args.rows, args.columns)
    lines, tiles = unbroken(image, store)
    whole = contents(store)
    print(f"{tiles} tiles of {EDGE} pixels, {len(lines)} blocks in the journal; passes:")
    print(", ".join(dict.fromkeys(lines)))
    found = []
    for line, delay in moments(lines, args.kills, rng):
        found.append(one_kill(image, store, line, delay, whole, tiles))
        print(f"killed in {found[-1].name:16} redone {found[-1].redone}  same {found[-1].same}", flush=True)
    shutil.rmtree(folder)
    same, most = sum(kill.same for kill in found), max(kill.redone for kill in found)
    print(f"{same} of {len(found)} identical; at most {most} tiles redone (allowed: {DEPTH + 1})")
    return int(same < len(found) or most > DEPTH + 1)


if __name__ == "__main__":
    sys.exit(main())
