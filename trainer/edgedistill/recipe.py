"""What to fit: one frozen struct, as TOML, options or Python.  Defaults stand only here."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgedistill import settings
from edgedistill.errors import SettingsError, unknown
from edgedistill.settings import Settings

Positive = Annotated[float, Meta(gt=0, le=1e9)]  # infinity is no limit
Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Precision = Literal["auto", "float32", "int8"]


class Training(Settings, frozen=True):
    """How the student learns."""

    epochs: Count = 40
    batch_size: Annotated[int, Meta(ge=2)] = 64
    learning_rate: Positive = 5e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 1e-3
    views: Count = 8
    """Seeded augmentations of each sample; the teacher's answers to all of them are cached."""
    temperature: Positive = 4.0
    alpha: Annotated[tuple[Share, ...], Meta(min_length=1)] = (0.0, 0.5, 0.9)
    """Weights of the soft targets to choose from on the validation split; 0 is no teacher."""
    alpha_epochs: Count = 10
    """Length of the trial runs that choose alpha."""


class TeacherTraining(Settings, frozen=True):
    """How a teacher that is trained here learns."""

    epochs: Count = 30
    batch_size: Annotated[int, Meta(ge=2)] = 64
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 1e-2
    views: Count = 16


class Recipe(Settings, frozen=True):
    """Everything `fit` needs to know.  Limits left out come from the profile, or are not set."""

    profile: str
    """Name of a device profile, or the path of one."""
    data: str = "digits"
    """A built-in data set's name, or the path of an `.npz` file with x and y."""
    name: str = ""
    """Name of the bundle; empty derives it from data and profile."""
    version: Annotated[int, Meta(ge=0, le=2**53)] = 1
    student: str = "convnet"
    precision: Precision = "auto"
    latency_ms: Positive | None = None
    percentile: Literal[50, 95, 99] | None = None
    peak_ram_mib: Positive | None = None
    size_mib: Positive | None = None
    cold_start_ms: Positive | None = None
    min_retention: Annotated[float, Meta(gt=0, le=2)] | None = None
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    out: str = ""
    """Folder of the results; empty is build/<data>-<profile>."""
    training: Training = Training()
    teacher_training: TeacherTraining = TeacherTraining()

    @staticmethod
    def load(path: Path | str) -> Recipe:
        """Read a recipe from TOML.  Raises SettingsError, which names the file and the key."""
        return settings.load(Path(path), Recipe)

    @staticmethod
    def build(path: Path | None, options: dict[str, Any]) -> Recipe:
        """A recipe from a TOML file, or the embedded default, with `options` laid over it.

        Without a file and without data the embedded default is used: scikit-learn's digits.
        Raises SettingsError.
        """
        given = {key: value for key, value in options.items() if value is not None}
        unknown_keys = given.keys() - set(Recipe.__struct_fields__)
        if unknown_keys:
            name = sorted(unknown_keys)[0]
            raise SettingsError(unknown("recipe key", name, Recipe.__struct_fields__))
        table: dict[str, Any] = {}
        if path is not None:
            table = settings.read(path)
            settings.convert({"profile": "", **table}, Recipe, str(path))
        elif "data" not in given:
            default = resources.files("edgedistill") / "recipes" / "digits.toml"
            table = settings.parse(default.read_text(encoding="utf-8"), "digits.toml")
        merged = table | msgspec.to_builtins(given)
        if "profile" not in merged:
            raise SettingsError(
                "no device profile given; name one with --profile (rpi4, rpi5, host, …)"
            )
        return settings.convert(merged, Recipe, "options")

    @property
    def data_name(self) -> str:
        return Path(self.data).stem

    @property
    def profile_name(self) -> str:
        return Path(self.profile).stem if self.profile.endswith(".toml") else self.profile

    @property
    def bundle_name(self) -> str:
        return self.name or f"{self.data_name}-{self.profile_name}"

    @property
    def out_folder(self) -> Path:
        return (
            Path(self.out) if self.out else Path("build") / f"{self.data_name}-{self.profile_name}"
        )
