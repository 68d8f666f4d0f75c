"""Folders of files: one folder a class, or folders `train`, `validation` and `test` of those."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from edgedistill.data.tables import READERS, SPLITS, clip
from edgedistill.errors import DataError
from edgedistill_runtime.images import SUFFIXES as IMAGE_SUFFIXES

SUFFIXES = {"image": IMAGE_SUFFIXES, "audio": frozenset({".wav"}), "sensor": frozenset({".csv"})}
"""What files of each kind of data are named like, in lower case."""
FILES = {"image": "image", "audio": ".wav file", "sensor": ".csv file"}
MAX_LABEL = 256
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Files:
    """Files of one split, class after class, sorted by name within each."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    """Index of each file's class."""

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Tree:
    """The files of a folder, by split and class."""

    labels: tuple[str, ...]
    """Names of the class folders in NFC, sorted."""
    splits: dict[str, Files]
    """ "train" always; "validation" and "test" where they are given."""
    notes: tuple[str, ...]


def kind_of(folder: Path) -> str:
    """ "image", "audio" or "sensor": what stands in the folders of `folder`; empty: none of them.

    A `.csv` beside images or sounds is taken for a list of them.  Raises DataError for images
    beside sounds.
    """
    counts = {kind: 0 for kind in SUFFIXES}
    for place in _folders(folder):
        for path in _walk(place):
            for kind, suffixes in SUFFIXES.items():
                counts[kind] += not _hidden(path.name) and path.suffix.lower() in suffixes
    if counts["image"] and counts["audio"]:
        raise DataError(
            f"{folder}: both images ({counts['image']:,}) and .wav files ({counts['audio']:,}); "
            "keep one kind in a folder"
        )
    return next((kind for kind, count in counts.items() if count), "")


def refuse_without_classes(folder: Path) -> None:
    """Raise DataError for files or folders that are not as `find` wants them, if there are any."""
    for kind in ("image", "audio"):
        count = sum(path.suffix.lower() in SUFFIXES[kind] for path in _sorted(folder))
        if count:
            raise DataError(
                f"{folder}: {count:,} {FILES[kind]}{'s' * (count != 1)} and no folders of classes; "
                "put the files of each class into a folder with the class's name"
            )
    if _folders(folder):
        raise DataError(
            f"{folder}: no images, .wav or .csv files in its folders, and no table "
            f"train{', train'.join(READERS)}"
        )


def find(folder: Path, kind: str) -> Tree:
    """All files of a kind in the class folders, and in folders below those.  Raises DataError.

    Hidden files and files of other kinds are passed over and counted in the notes.
    """
    passed: Counter[str] = Counter()
    given = _splits(folder) or {"train": folder}
    classes = {split: _classes(place, kind, passed) for split, place in given.items()}
    labels = tuple(sorted(classes["train"]))
    if not labels:
        raise DataError(f"{given['train']}: no folders; the files of each class stand in one")
    if given["train"] != folder:
        _pass_over(folder, kind, passed, {place.name for place in given.values()})
    for split, found in classes.items():
        strange = sorted(found.keys() - set(labels))
        if strange:
            raise DataError(
                f"{given[split]}: the class {clip(strange[0])!r} has no folder in "
                f"{given['train'].name}"
            )
        if not found:
            raise DataError(f"{given[split]}: no folders; the files of each class stand in one")
    splits = {
        split: Files(
            tuple(path for label in labels for path in found.get(label, ())),
            tuple(i for i, label in enumerate(labels) for _ in found.get(label, ())),
        )
        for split, found in classes.items()
    }
    return Tree(labels, splits, tuple(_notes(passed)))


def _splits(folder: Path) -> dict[str, Path]:
    """The folders of the splits; empty where the folders are classes, one named train or not."""
    places = _folders(folder)
    found: dict[str, Path] = {}
    for split, names in SPLITS.items():
        present = [place for place in places if place.name.lower() in names]
        if len(present) > 1:
            if "train" in found:
                raise DataError(
                    f"{folder}: both {present[0].name} and {present[1].name}; keep one of the two"
                )
            return {}
        if present:
            found[split] = present[0]
    if "train" not in found or not _folders(found["train"]):
        return {}
    return found if len(found) > 1 or len(places) == 1 else {}


def _classes(folder: Path, kind: str, passed: Counter[str]) -> dict[str, list[Path]]:
    """Files by class name.  Counts in `passed` what is none, by what it is."""
    found: dict[str, list[Path]] = {}
    for place in _folders(folder):
        name = _name(place)
        if name in found:
            raise DataError(f"{folder}: two folders are named {clip(name)!r}; merge them")
        found[name] = []
        for path in _walk(place):
            if _hidden(path.name):
                passed["hidden"] += 1
            elif path.suffix.lower() in SUFFIXES[kind]:
                found[name].append(path)
            else:
                passed[path.suffix.lower() or "no suffix"] += 1
        if not found[name]:
            raise DataError(
                f"{place}: no {FILES[kind]} in this class's folder; add some, or remove the folder"
            )
    _pass_over(folder, kind, passed, {place.name for place in _folders(folder)})
    return found


def _pass_over(folder: Path, kind: str, passed: Counter[str], known: Set[str]) -> None:
    """Count what stands beside the folders."""
    for path in _sorted(folder):
        if path.name in known:
            continue
        if _hidden(path.name):
            passed["hidden"] += 1
        elif path.is_dir():
            passed[f"the folder {clip(path.name)!r}"] += 1
        elif path.suffix.lower() in SUFFIXES[kind]:
            passed[f"{FILES[kind]} outside of the classes' folders"] += 1
        else:
            passed[path.suffix.lower() or "no suffix"] += 1


def _notes(passed: Counter[str]) -> Iterator[str]:
    total = sum(passed.values())
    if total:
        each = ", ".join(
            f"{clip(what)}: {count:,}" for what, count in sorted(passed.items(), key=_most_first)
        )
        yield f"{total:,} other file{'s' * (total != 1)} passed over ({each})"


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _name(place: Path) -> str:
    """A class's name, as the folder is called.  Raises DataError if no label can be."""
    name = unicodedata.normalize("NFC", place.name)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{clip(str(place))}: the folder's name is not UTF-8; rename it") from None
    if _UNPRINTABLE.search(name):
        raise DataError(f"{str(place)!r}: a control character in the class's name; rename it")
    if len(name) > MAX_LABEL:
        raise DataError(
            f"{place.parent}: a class's name of {len(name)} characters; at most {MAX_LABEL}"
        )
    return name


def _folders(folder: Path) -> list[Path]:
    return [path for path in _sorted(folder) if path.is_dir() and not _hidden(path.name)]


def _walk(folder: Path) -> Iterator[Path]:
    """All files in the folder and in those below it that are not hidden, sorted."""
    for path in _sorted(folder):
        if path.is_dir():
            if not _hidden(path.name) and not path.is_symlink():  # a link may lead back up
                yield from _walk(path)
        else:
            yield path


def _sorted(folder: Path) -> list[Path]:
    try:
        return sorted(map(folder.joinpath, os.listdir(folder)))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
