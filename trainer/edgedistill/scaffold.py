"""`init`: look at somebody's data, and write the recipe that `fit` would start from."""

from __future__ import annotations

import json
import math
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgedistill import data, search
from edgedistill.budget import DEFAULT_RETENTION, combine
from edgedistill.data import Columns, Dataset, Decoding, arrays, folders, splits, tables
from edgedistill.data.audio import log_mel
from edgedistill.data.columns import LABEL_NAMES, SAMPLE_ROWS
from edgedistill.data.columns import find as find_columns
from edgedistill.data.images import in_parallel
from edgedistill.data.sensors import TIMES
from edgedistill.data.sets import Steps
from edgedistill.data.tables import Table, clip
from edgedistill.errors import DataError, SettingsError
from edgedistill.profiles import DeviceProfile
from edgedistill.recipe import Recipe
from edgedistill.setting import DEFAULT_FAMILY, TOKENS_PER_WORD, suiting
from edgedistill.students import FAMILIES, tasks_of
from edgedistill_runtime.files import write_atomically
from edgedistill_runtime.manifest import Budget, Sample

WIDTH = 100
SHOWN_CLASSES = 6
IMAGE_SIDE, LARGEST_KEPT = 64, 256
"""What images become that are of several sizes or larger; see `data.Decoding`."""
LEAST_RATE_HZ, RATE_HZ = 1000, 16_000
WINDOW_S, MEL_BANDS = 2.0, 40
PRECISIONS = ("float32", "int8")
MAX_LENGTH, LONGEST_TEXT = 64, 256
QUANTILE = 0.95
"""Of the texts' lengths: so many are not cut off."""
UNEVEN = 4
"""Times that the largest class has the samples of the smallest, from where it is worth a word."""
READING_LABELS = (*LABEL_NAMES, "activity", "gesture", "state", "event", "condition", "fault")
GROUP_NAMES = (
    "group",
    "subject",
    "person",
    "user",
    "participant",
    "patient",
    "speaker",
    "writer",
    "session",
    "recording",
    "device",
)
WINDOWS = (128, 64, 32, 16, 8)
"""Steps of a window of readings: the first that the recordings are long enough for."""
HOW = (
    "Start `edgedistill fit` with it in the folder where it was made: paths count from there.",
    'A line that begins with "# key =" is off; take away the # to use it.',
)
DATA_MAY_BE = """\
give the data: edgedistill init DATA, where DATA is
  photos/        a folder with a folder for each class, with images, .wav files or .csv files;
                 or with train/ and test/ (and validation/) of such folders
  texts.csv      a table of texts with their labels: .csv, .tsv, .jsonl, .parquet
  readings.csv   a table of sensor readings: a row a step, a column a channel, and a label column
  arrays.npz     x and y: uint8 images (n, height, width[, 3]), int16 sound (n, samples), or
                 sensor readings (n, channels, steps)
  digits         the built-in example\
"""


@dataclass(frozen=True)
class Proposal:
    recipe: str
    """As TOML."""
    found: tuple[str, ...]
    """What the data are, a line each."""


@dataclass(frozen=True)
class _Line:
    """One key of the recipe."""

    key: str
    value: object
    comment: str
    on: bool = True


@dataclass(frozen=True)
class _Findings:
    """What stands in the data."""

    kind: str
    what: str
    """Such as "90 recordings"."""
    size: str
    """Such as "0.5 s at 8,000 Hz"."""
    counts: dict[str, int]
    """Samples of each class."""
    lines: tuple[_Line, ...]
    """Keys of the recipe for this kind of data."""
    example: Dataset
    """To price students for: the data, or a stand-in with a sample of their shape."""
    notes: tuple[str, ...] = ()
    several: bool = False
    """Whether a sample may have several labels."""


def propose(source: str, profile: str = "rpi4", columns: Columns = data.FOUND) -> Proposal:
    """A recipe for these data and this board.  Raises DataError or SettingsError.

    source: as in a recipe.  columns: those of a table that shall not be guessed
    """
    board = DeviceProfile.load(profile)
    if board.engine("onnx") is None:
        raise SettingsError(f"{board.name} has no engine for ONNX bundles; choose another profile")
    _encodable(source)
    found = _look(source, columns)
    head = f"A recipe for {data.HELD[found.kind]}: {found.what} of {_classes(found.counts)}."
    parts: list[Sequence[str | _Line]] = [
        [*textwrap.wrap(head, WIDTH - 2), *HOW],
        [
            _Line("profile", profile, f"{board.board.name}; `edgedistill profiles` lists others"),
            _Line("data", source, found.size),
        ],
        found.lines,
        _training(found),
        _limits(found, board),
    ]
    text = "\n\n".join("\n".join(map(_written, part)) for part in parts if part)
    return Proposal(text + "\n", tuple(_told(source, found, board)))


def write(path: Path, recipe: str, force: bool = False) -> None:
    """Write a recipe; over a file that is there only with `force`, and then atomically."""
    if force:
        write_atomically(path, recipe.encode())
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(recipe)
    except FileExistsError:
        raise SettingsError(
            f"{path}: exists already; choose another file with --out, or replace it with --force"
        ) from None


def _told(source: str, found: _Findings, board: DeviceProfile) -> Iterator[str]:
    yield f"{source}: {found.what}, {found.size}"
    yield _classes(found.counts)
    yield from (note for note in found.notes[:2])
    task = f"{found.kind}-classification"
    yield f"{task} with a {DEFAULT_FAMILY[task]} student for {board.board.name}"


def _training(found: _Findings) -> list[_Line]:
    task = f"{found.kind}-classification"
    families = [name for name, family in FAMILIES.items() if task in tasks_of(family)]
    default = DEFAULT_FAMILY[task]
    others = [json.dumps(name) for name in families if name != default]
    own = "module:function"
    if found.kind != "sensor":
        own = "a transformers folder or id, .onnx, module:function"
    lines = [
        _Line("teacher", "auto", f"trained here; or {own}"),
        _Line(
            "student",
            default,
            f"or {', '.join(others)}" if others else f"the family for {data.HELD[found.kind]}",
        ),
    ]
    most, least = max(found.counts.values()), min(found.counts.values())
    if most >= UNEVEN * least:
        times = f"the largest class has {most / least:.0f} times the samples of the smallest"
        lines.append(_Line("class_weights", "balanced", times, on=False))
        if not found.several:
            lines.append(_Line("metric", "f1_macro", "every class counts the same", on=False))
    if not found.several:
        told = 'say "unknown" rather than be wrong in more than 2 of 100 answers'
        lines.append(_Line("unknown", 0.98, told, on=False))
    return lines


def _limits(found: _Findings, board: DeviceProfile) -> list[_Line]:
    """The profile's, but where no student for these data keeps them."""
    kept = board.budget.min_retention or DEFAULT_RETENTION
    lines = [
        _Line("min_retention", kept, "least share of the teacher's metric that the student keeps")
    ]
    limits = combine(Recipe(profile=board.name), board, found.example.hop_s)
    needed = _needed(found, board, limits)
    percentile = f"at percentile {board.budget.percentile}"
    for key, example, what in (
        ("latency_ms", 20.0, f"of one answer on the board, {percentile}"),
        ("peak_ram_mib", 256.0, "of the whole process"),
        ("size_mib", 1.0, "of the bundle"),
    ):
        default = getattr(limits, key)
        if key in needed:
            told = f"{what}; {board.name}'s default is {default:g}, and the nearest student for "
            told += f"these data is estimated to need {needed[key]:g}"
            lines.append(_Line(key, needed[key], told))
        elif default != getattr(board.budget, key):
            lines.append(_Line(key, default, f"{what}; a quarter of the time to the next window"))
        elif default is not None:
            lines.append(_Line(key, default, f"{what}; {board.name}'s default"))
        else:
            lines.append(_Line(key, example, f"{what}; no limit so far", on=False))
    return lines


def _needed(found: _Findings, board: DeviceProfile, limits: Budget) -> dict[str, float]:
    """Limits of the profile that no student keeps, with what the nearest one needs."""
    task = f"{found.kind}-classification"
    families = suiting(Recipe(profile=board.name), task)
    plan = search.plan(families, found.example, board, limits, PRECISIONS)
    if plan.fitting:
        return {}
    return {name: _above(plan.nearest.costs[name]) for name in plan.nearest.over(limits)}


def _above(value: float) -> float:
    """Two digits, not below the value."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


# --- looking at data


def _look(source: str, columns: Columns) -> _Findings:
    path = Path(source)
    if path.suffix == ".npz":
        held = arrays.load(path)
        sound = held.kind == "audio"
        decoding = Decoding(rate_hz=_rate(held.rate_hz or RATE_HZ)) if sound else data.DEFAULT
        return _loaded(source, data.load(source, columns, decoding))
    if source in data.BUILT_IN or not path.exists():
        return _loaded(source, data.load(source, columns))
    if not path.is_dir():
        guessed = columns
        if path.suffix.lower() == ".csv" and not columns.text:
            guessed = _columns_of_readings(tables.read_table(path), columns)
        load = data.load if guessed == columns else _load
        return _loaded(source, load(source, guessed), guessed)
    kind = "" if _has_tables(path) else folders.kind_of(path)
    if kind in ("image", "audio") and columns == data.FOUND:
        return _of_files(path, kind)
    load = _load if kind == "sensor" else data.load
    return _loaded(source, load(source, columns), columns)


def _has_tables(folder: Path) -> bool:
    return any(path.suffix in tables.READERS for path in folder.glob("train.*"))


def _of_files(folder: Path, kind: str) -> _Findings:
    """Of a folder of images or sounds: their heads alone are read."""
    tree = folders.find(folder, kind)
    train, parts = tree.splits["train"], tree.splits.values()
    trained = np.bincount(np.array(train.labels), minlength=len(tree.labels))
    least = 1 if len(parts) == 3 else splits.MIN_PER_CLASS
    splits.check_classes(str(folder), trained, tree.labels, len(train), least)
    files = [path for part in parts for path in part.paths]
    places = Counter(label for part in parts for label in part.labels)
    counts = {name: places[i] for i, name in enumerate(tree.labels)}
    if kind == "image":
        (size, lines, sample, features), noun = _images(files), "image"
    else:
        (size, lines, sample, features), noun = _sounds(str(folder), files, len(train)), "recording"
    one = data.Split(np.zeros((1, *sample.shape), sample.dtype), np.zeros(1, np.int64))
    example = Dataset(folder.name, sample, tree.labels, one, one, one, features=features)
    what = splits.count_of(len(files), noun)
    return _Findings(kind, what, size, counts, lines, example, tree.notes)


def _images(files: Sequence[Path]) -> tuple[str, tuple[_Line, ...], Sample, Steps]:
    sizes = Counter(in_parallel(_image_size, files))
    (width, height), _ = sizes.most_common(1)[0]
    many = f"your {splits.count_of(len(files), 'image')}"
    if len(sizes) == 1:
        size, said = f"{width}×{height} pixels", f"{many} are {width}×{height}"
    else:
        ordered = sorted(sizes, key=math.prod)
        least, most = ("×".join(map(str, each)) for each in (ordered[0], ordered[-1]))
        size, said = f"{least} to {most} pixels", f"{many} are {least} to {most}"
    keep = len(sizes) == 1 and max(width, height) <= LARGEST_KEPT
    more = "left off, they stay so" if keep else "larger keeps more detail and costs more"
    lines = (
        _Line("image_size", IMAGE_SIDE, f"{said}; {more}", on=not keep),
        _Line("image_fit", "crop", 'the middle; or "pad" with black, or "stretch"', on=not keep),
        _Line("image_colours", "auto", 'grey where every image is; or "grey", or "rgb"'),
    )
    sides = (height, width) if keep else (IMAGE_SIDE, IMAGE_SIDE)
    return size, lines, Sample("image", "uint8", (*sides, 3)), ()


def _image_size(path: Path) -> tuple[int, int]:
    """(width, height), from the head of the file."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("image files need Pillow; install it with: pip install pillow") from error
    from edgedistill_runtime.images import FORMATS

    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            return width, height
    except Exception as error:  # Pillow raises anything on damaged files
        raise DataError(f"{path}: not a readable image ({tables.reason(error)})") from error


def _sounds(
    place: str, files: Sequence[Path], trained: int
) -> tuple[str, tuple[_Line, ...], Sample, Steps]:
    """trained: the first files are of the training split"""
    heads = in_parallel(_sound, files)
    seconds = [samples / rate_hz for samples, rate_hz in heads]
    rates = Counter(rate_hz for _, rate_hz in heads)
    common, longest = rates.most_common(1)[0][0], max(seconds[:trained])
    window_s = math.floor(min(longest, WINDOW_S) * 1000 + 1e-6) / 1000
    several = " and others" if len(rates) > 1 else ""
    length = f"{min(seconds):.3g} to " if min(seconds) < max(seconds) else ""
    size = f"{length}{max(seconds):.3g} s at {common:,} Hz{several}"
    said = f"your recordings have {common:,} Hz{several}"
    rate_hz = _rate(common)
    lines = (
        _Line("sample_rate_hz", rate_hz, f"{said}; the board records at this rate"),
        _Line("window_s", window_s, f"classified at once; your longest has {longest:.3g} s"),
        _Line("hop_s", window_s / 2, "from one window of a longer sound to the next", on=False),
        _Line("mel_bands", MEL_BANDS, "of the spectrogram that the network sees; more cost more"),
    )
    window = round(window_s * rate_hz)
    features = (log_mel(place, window, rate_hz, MEL_BANDS),)
    return size, lines, Sample("audio", "int16", (window,), float(rate_hz)), features


def _rate(found_hz: float) -> int:
    """Samples a second that the model hears, where recordings have so many."""
    return min(max(round(found_hz), LEAST_RATE_HZ), RATE_HZ)


def _sound(path: Path) -> tuple[int, int]:
    """Samples, and how many there are in a second."""
    from edgedistill_runtime import wav
    from edgedistill_runtime.errors import InputError

    try:
        sound, rate_hz = wav.read(path)
    except InputError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return len(sound), rate_hz


def _load(source: str, columns: Columns) -> Dataset:
    """The data, in windows of as many steps as recordings of sensors have."""
    try:
        return data.load(source, columns)
    except DataError as error:
        for window in WINDOWS[1:]:  # not all recordings are as long as the default
            try:
                return data.load(source, columns, Decoding(window=window))
            except DataError:
                continue
        raise error


def _loaded(source: str, found: Dataset, columns: Columns = data.FOUND) -> _Findings:
    """Of data that have been read as a whole."""
    y = np.concatenate([part.y for part in (found.train, found.validation, found.test)])
    totals = y.sum(0) if y.ndim == 2 else np.bincount(y, minlength=len(found.labels))
    counts = dict(zip(found.labels, map(int, totals), strict=True))
    look = {"image": _arrays_of_images, "audio": _arrays_of_sound, "sensor": _readings}
    noun = {"image": "image", "text": "text"}.get(found.sample.kind, "window")
    if found.sample.kind == "text":
        size, lines = _texts(source, found, columns)
    else:
        size, lines = look[found.sample.kind](source, found, columns)
    what = splits.count_of(len(y), noun)
    kind, several = found.sample.kind, found.multi_label
    return _Findings(kind, what, size, counts, lines, found, found.notes, several)


def _arrays_of_images(
    source: str, found: Dataset, columns: Columns
) -> tuple[str, tuple[_Line, ...]]:
    height, width, channels = found.sample.shape
    colour = "grey" if channels == 1 else "in colour"
    said = f"your images are {width}×{height}, and stay so; another size costs more or less"
    line = _Line("image_size", IMAGE_SIDE, said, on=False)
    return f"{width}×{height} pixels, {colour}", (line,)


def _arrays_of_sound(
    source: str, found: Dataset, columns: Columns
) -> tuple[str, tuple[_Line, ...]]:
    (samples,), rate_hz = found.sample.shape, int(found.sample.rate_hz or RATE_HZ)
    more = "of the spectrogram that the network sees; more cost more"
    bands = _Line("mel_bands", MEL_BANDS, more)
    rate = _Line("sample_rate_hz", rate_hz, "the board records at this rate")
    return f"{samples / rate_hz:.3g} s at {rate_hz:,} Hz", (rate, bands)


def _readings(source: str, found: Dataset, columns: Columns) -> tuple[str, tuple[_Line, ...]]:
    channels, steps = found.sample.shape
    size = f"{splits.count_of(channels, 'channel')} of {steps:,} steps"
    if source.lower().endswith(".npz"):
        return size, ()
    lines = list(_named(columns))
    if columns.label and not columns.group:
        lines.append(_Line("group_column", "subject", _GROUPS, on=False))
    hop = found.sample.hop or max(1, steps // 2)
    lines += [
        _Line("window", steps, "steps that are classified at once; more of them cost more"),
        _Line("hop", hop, "steps from one window of a recording to the next"),
    ]
    return size, tuple(lines)


def _texts(source: str, found: Dataset, columns: Columns) -> tuple[str, tuple[_Line, ...]]:
    parts = [found.train, found.validation, found.test]
    words = np.array([len(text.split()) for part in parts for text in part.x])
    usual, longest = int(np.quantile(words, QUANTILE)), int(words.max())
    length = MAX_LENGTH
    while length < min(LONGEST_TEXT, usual * TOKENS_PER_WORD + 2):
        length += 32
    size = f"{usual:,} words or fewer in {QUANTILE:.0%} of them, at most {longest:,}"
    said = f"tokens, about {length / TOKENS_PER_WORD:.0f} words; {QUANTILE:.0%} of yours have at"
    table = _table(Path(source))
    names = columns
    if table is not None:
        text, label = find_columns(table, columns)
        names = replace(columns, text=text, label=label)
    lines = [*_named(names), _Line("max_length", length, f"{said} most {usual:,}")]
    groups = [n for n in (table.names if table else ()) if n.lower() in GROUP_NAMES]
    if groups and not columns.group:
        lines.append(_Line("group_column", groups[0], _GROUPS, on=False))
    return size, tuple(lines)


_GROUPS = "whose rows never stand in two splits: a person, a session"


def _named(columns: Columns) -> Iterator[_Line]:
    for key, name, what in (
        ("text_column", columns.text, "where the texts are"),
        ("label_column", columns.label, "where the labels are"),
        ("group_column", columns.group, _GROUPS),
    ):
        if name:
            yield _Line(key, name, what)


def _table(path: Path) -> Table | None:
    """The table of training texts; None for data of another form."""
    if path.is_dir():
        return tables.read_folder(path)["train"] if _has_tables(path) else None
    return tables.read_table(path) if path.suffix.lower() in tables.READERS else None


def _columns_of_readings(table: Table, given: Columns) -> Columns:
    """Label and group of a table whose other columns hold numbers; else what is given."""
    names = [name for name in table.names if name.lower() not in TIMES]
    words = [name for name in names if not _holds_numbers(table, name)]
    group = given.group or next((n for n in names if n.lower() in GROUP_NAMES), "")
    rest = [name for name in names if name != group]
    label = given.label or next((n for n in rest if n.lower() in READING_LABELS), "")
    named = [name for name in words if name != group]
    if not label and len(named) == 1 and _repeats(table, named[0]):
        label = named[0]
    channels = [name for name in rest if name != label]
    if label and channels and not set(channels) & set(words):
        return Columns(label=label, group=group)
    return given


def _holds_numbers(table: Table, name: str) -> bool:
    try:
        for cell in table.read(name)[:SAMPLE_ROWS]:
            float(cell or 0)
    except ValueError:
        return False
    return True


def _repeats(table: Table, name: str) -> bool:
    """Whether a column holds few enough values for classes."""
    return len(set(table.read(name))) * splits.MIN_PER_CLASS <= table.count


# --- writing


def _written(line: str | _Line) -> str:
    """A key with its comment behind it, or above it where both are too long."""
    if isinstance(line, str):
        return f"# {line}"
    text = ("" if line.on else "# ") + f"{line.key} = {_toml(line.value)}"
    whole = f"{text:26}  # {line.comment}"
    if len(whole) <= WIDTH:
        return whole
    above = textwrap.wrap(line.comment, WIDTH - 2)
    return "\n".join([*(f"# {each}" for each in above), text])


def _toml(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    # JSON's strings are TOML's, but for one control character
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _classes(counts: dict[str, int]) -> str:
    shown = [f"{clip(name)} ({count:,})" for name, count in list(counts.items())[:SHOWN_CLASSES]]
    more = len(counts) - len(shown)
    return f"{len(counts):,} classes: {', '.join(shown)}" + (f" and {more:,} more" if more else "")


def _encodable(source: str) -> None:
    try:
        source.encode()
    except UnicodeEncodeError:
        raise DataError(f"{clip(source)}: the path is not UTF-8; rename it") from None


def next_command(path: Path) -> str:
    return f"edgedistill fit {shlex.quote(str(path))}"
