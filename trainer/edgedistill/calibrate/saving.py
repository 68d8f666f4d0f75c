"""Write a profile with rates so that a reader sees the old profile or the new one."""

from __future__ import annotations

import datetime
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgedistill import profiles
from edgedistill.cost import rates as rating
from edgedistill.cost.rates import Rates
from edgedistill.errors import SettingsError
from edgedistill.profiles import DeviceProfile
from edgedistill_runtime.files import write_atomically

MARK = "# Below: rates, written by `edgedistill calibrate`."
"""What stands under this line is written anew by each calibration."""
PRECISIONS = ("float32", "int8")


def check_name(name: str) -> None:
    """Raises SettingsError for a name that no profile of the user's can have."""
    if not re.fullmatch(r"[a-z0-9._-]{1,64}", name):
        raise SettingsError(
            f"{name!r} is no name for a profile; use a-z, 0-9, '.', '_' and '-', at most 64"
        )
    if name in profiles.built_in_names():
        raise SettingsError(
            f"{name!r} is a built-in profile; save the calibration under another name, such as "
            f"'my-{name}'"
        )


def check(name: str, base: DeviceProfile) -> None:
    """Raises SettingsError where `save` would refuse: before anything is measured.

    A profile that is there already is written anew only where it is a copy of `base`, or `base`
    itself: what a user wrote into it is not lost.
    """
    check_name(name)
    if base.engine("onnx") is None:
        raise SettingsError(
            f"{base.name} has no engine for ONNX; calibrate a board that has, or add it to the "
            f"profile: {base.why_no_engine()}"
        )
    target = profiles.user_folder() / f"{name}.toml"
    if not target.exists() or target.samefile(base.path):
        return
    if _text(target, "0") != _text(Path(base.path), "0"):
        raise SettingsError(
            f"{target} is not a copy of {base.name}; give --profile {name} to calibrate what stands"
            " there, or save under another name"
        )


def save(name: str, base: DeviceProfile, rates: Rates) -> Path:
    """The profile `name` in the user's folder: `base` with these rates, and their engine's version.

    Rates for other engines and threads, of the base and of the profile that is replaced, stay.
    Raises SettingsError; what stood there before is then untouched.
    """
    check(name, base)
    folder = profiles.user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.toml"
    data = rates.to_json()
    new = [
        profiles.Rates(
            engine=rates.engine,
            versions=_versions(rates.engine_version),
            threads=rates.threads,
            precision=precision,
            date=datetime.date.fromisoformat(rates.date),
            file="",
            sha256=rating.digest(data),
        )
        for precision in PRECISIONS
    ]
    old = [DeviceProfile.load(target)] if target.exists() else []
    rows = {row.key(): (row, content) for each in (base, *old) for row, content in _usable(each)}
    rows |= {row.key(): (row, data) for row in new}
    files = {_file(name, row): content for row, content in rows.values()}
    tables = "\n".join(_table(name, row) for row, _ in rows.values())
    text = f"{_text(Path(base.path), rates.engine_version)}\n\n{MARK}\n\n{tables}"
    _check_whole(name, text, rates)
    for file, content in files.items():
        write_atomically(folder / file, content)
    write_atomically(target, text.encode())
    for row in (row for profile in old for row in profile.rates):
        if row.file == _file(name, row) and row.file not in files:
            (folder / row.file).unlink(missing_ok=True)
    return target


def _usable(profile: DeviceProfile) -> Iterator[tuple[profiles.Rates, bytes]]:
    """Rows whose file is there and as it was written, and what it holds."""
    for row in profile.rates:
        path = Path(profile.path).parent / row.file
        content = path.read_bytes() if path.is_file() else b""
        if rating.digest(content) == row.sha256:
            yield row, content


def _check_whole(name: str, text: str, rates: Rates) -> None:
    """The profile that is to be written must load, and its rates must be found."""
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder:
        path = Path(folder) / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        made = DeviceProfile.load(path)
    choice = made.engine("onnx")
    wanted = (rates.engine, rates.engine_version, rates.threads, PRECISIONS[0])
    if choice is None or choice.version != rates.engine_version or not made.rates_for(*wanted):
        raise SettingsError(
            f"{name}: the profile does not name {rates.engine} {rates.engine_version}, which was "
            "measured, as its engine; write it so, and calibrate again"
        )


def _text(path: Path, version: str) -> str:
    """A profile without its rates, the version of its first onnxruntime replaced."""
    text = path.read_text(encoding="utf-8").partition(MARK)[0]
    text = re.sub(r"^\[\[rates\]\].*?(?=^\[|\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    engine = r"""(name\s*=\s*["']onnxruntime["']\s*,\s*version\s*=\s*["'])[^"']*"""
    return re.sub(engine, rf"\g<1>{version}", text, count=1).rstrip()


def _file(name: str, row: profiles.Rates) -> str:
    """Where a row's rates stand: each profile has files of its own."""
    return f"{name}-{row.engine}-{row.threads}-{row.sha256[:8]}.json"


def _versions(version: str) -> str:
    """From this version on, to the next minor one."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return f">={version},<{major}.{minor + 1}"


def _table(name: str, row: profiles.Rates) -> str:
    values = msgspec.to_builtins(row) | {"file": _file(name, row)}
    lines = [
        f"{key} = {value if key in ('threads', 'date') else _quoted(value)}"
        for key, value in values.items()
    ]
    return "\n".join(["[[rates]]", *lines, ""])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
