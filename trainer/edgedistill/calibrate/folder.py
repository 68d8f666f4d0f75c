"""The folder that goes to a board: packs, preprocessing to time, and an index of both."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgedistill.cache import user_cache
from edgedistill.calibrate import pieces
from edgedistill.calibrate.packs import TRANSFORMERS, Pack, packs
from edgedistill.cost import features, graph
from edgedistill.cost.kernels import Kernel, total_macs
from edgedistill.progress import Progress
from edgedistill_runtime.calibrate import FORMAT, INDEX

VERSION = 3
"""To be raised when packs or kernels become others."""
COUNT = 720
UNUSED_DAYS = 30
KERNELS = "kernels.json"
CALL = "call.edge"
MEMORY_PACKS = 4
"""Of each kind of network in each precision, from small to large."""
JITTER_MACS = 1e7
SECONDS_A_PACK, SECONDS_A_GIGAMAC = 0.35, 4.0
"""What measuring one takes on a middling board, to weigh against what it teaches."""


@dataclass(frozen=True)
class Known:
    """What the host knows of a pack."""

    precision: str
    kernels: tuple[Kernel, ...]
    inputs: tuple[int, ...]


def prepare(progress: Progress, count: int = COUNT) -> Path:
    """The folder, made once and kept in the user's cache."""
    import onnxruntime

    name = f"packs-{VERSION}-{count}-{onnxruntime.__version__}"
    folder = user_cache() / "calibrate" / name
    if folder.exists():
        os.utime(folder)  # used: not yet to be evicted
        return folder
    _evict(folder.parent)
    making = folder.with_name(f".{name}.{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    made: dict[str, Known] = {}
    rows: dict[str, Pack] = {}
    try:
        for number, pack in enumerate(packs(count)):
            progress.advance(number, count)
            kernels, inputs = graph.kernels_and_inputs(pack.model, pack.length)
            (making / f"{pack.name}.onnx").write_bytes(pack.model)
            made[pack.name], rows[pack.name] = Known(pack.precision, kernels, inputs), pack
        (making / KERNELS).write_bytes(msgspec.json.encode(made))
        (making / pieces.TOKENIZER).write_bytes(pieces.tokenizer())
        pieces.write_call(making / CALL)
        (making / INDEX).write_bytes(json.dumps(_index(made, rows)).encode())
        if not folder.exists():
            making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _evict(cache: Path) -> None:
    """Remove packs of other versions that nobody has used for so long: they are large."""
    oldest = time.time() - UNUSED_DAYS * 86_400
    for path in cache.glob("packs-*"):
        if path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True)


def known(folder: Path) -> dict[str, Known]:
    """The kernels of each pack in it."""
    return msgspec.json.decode((folder / KERNELS).read_bytes(), type=dict[str, Known])


def _index(made: dict[str, Known], rows: dict[str, Pack]) -> dict[str, object]:
    weighed, timed = _for_memory(made, rows), _for_jitter(made)
    order = most_useful_first(
        list(made.values()), [f"{p.style} {p.precision}" for p in rows.values()]
    )
    names = list(made)
    return {
        "format": FORMAT,
        "packs": [
            {
                "name": name,
                "file": f"{name}.onnx",
                "sha256": hashlib.sha256(rows[name].model).hexdigest(),
                "length": rows[name].length,
                "jitter": name in timed,
                "memory": name in weighed,
            }
            for name in (names[place] for place in order)
        ],
        "steps": pieces.steps(),
        "call": CALL,
    }


def most_useful_first(found: Sequence[Known], kinds: Sequence[str]) -> list[int]:
    """An order in which every beginning covers classes and sizes as widely as it can.

    Sizes fall into cells; the next network is the one with most kernels in cells that few before
    it had, for the time that it takes.  The first of each kind go before all others.  A slow board,
    where time runs out, so measures fewer and better ones.
    """
    cells = [_cells(each.kernels) for each in found]
    cost = [SECONDS_A_PACK + SECONDS_A_GIGAMAC * total_macs(e.kernels) / 1e9 for e in found]
    seen: dict[tuple[object, ...], int] = {}

    def gain(place: int) -> float:
        return sum(0.5 ** seen.get(cell, 0) for cell in cells[place]) / cost[place]

    heap = [(-gain(place), place) for place in range(len(found))]
    heapq.heapify(heap)
    order: list[int] = []
    while heap:
        _, place = heapq.heappop(heap)
        now = gain(place)  # gains only fall, so the first that is still the best is the best
        if heap and now < -heap[0][0]:
            heapq.heappush(heap, (-now, place))
            continue
        order.append(place)
        for cell in cells[place]:
            seen[cell] = seen.get(cell, 0) + 1
    first = {kinds[place]: place for place in reversed(order)}
    return sorted(order, key=lambda place: first[kinds[place]] != place)


def _cells(kernels: Sequence[Kernel]) -> set[tuple[object, ...]]:
    around = round(math.log2(features.working_set(kernels)) / 2)
    made = set()
    for kernel in kernels:
        sizes = features.sizes(kernel)
        logs = [round(math.log2(max(1, sizes[i])) / 2) for i in _CELL_SIZES]
        made.add((features.kernel_class(kernel), around, *logs))
    return made


_CELL_SIZES = (features.ROWS, features.COLUMNS, features.DEPTH)


def _for_memory(made: dict[str, Known], rows: dict[str, Pack]) -> set[str]:
    chosen = set()
    for text in (False, True):
        for precision in ("float32", "int8"):
            like = [
                name
                for name, each in made.items()
                if each.precision == precision and (rows[name].style in TRANSFORMERS) == text
            ]
            like.sort(key=lambda name: len(rows[name].model))
            last = len(like) - 1
            chosen |= {like[last * i // (MEMORY_PACKS - 1)] for i in range(MEMORY_PACKS) if like}
    return chosen


def _for_jitter(made: dict[str, Known]) -> set[str]:
    """One network of each precision that takes about a millisecond."""

    def far(name: str) -> float:
        return abs(math.log(max(1, total_macs(made[name].kernels)) / JITTER_MACS))

    return {
        min((name for name, each in made.items() if each.precision == precision), key=far)
        for precision in ("float32", "int8")
    }
