"""What to fit: one frozen struct, as TOML, options or Python.  Defaults stand only here."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from edgedistill import settings
from edgedistill.errors import SettingsError, unknown
from edgedistill.settings import Settings

Positive = Annotated[float, Meta(gt=0, le=1e9)]  # infinity is no limit
Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
TARGET_SECONDS = 300.0
Precision = Literal["auto", "float32", "float16", "int8", "int4"]


class Training(Settings, frozen=True):
    """How a network learns.  What a recipe leaves out comes from `TRAINING`."""

    epochs: Count = 40
    batch_size: Annotated[int, Meta(ge=2)] = 64
    learning_rate: Positive = 5e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 1e-3
    views: Annotated[tuple[Count, ...], Meta(min_length=1)] = (8,)
    """Seeded augmentations of each sample, the sample itself among them; of several numbers the
    validation split chooses.  The teacher's answers to all of them are cached."""
    temperature: Positive = 4.0
    alpha: Annotated[tuple[Share, ...], Meta(min_length=1)] = (0.0, 0.5, 0.9)
    """Weights of the soft targets to choose from on the validation split; 0 is no teacher."""
    gate: Annotated[tuple[bool, ...], Meta(min_length=1)] = (False, True)
    """Whether the label replaces a teacher that is wrong on a training sample; to choose from."""
    trial_epochs: Count = 10
    """Length of the trial runs that choose alpha, gate and views."""
    patience: Count | None = None
    """Stop after so many epochs without a better validation metric.  The best epoch is kept."""


class TeacherTraining(Settings, frozen=True):
    """How a teacher that is trained here learns: from nothing, or a pretrained encoder's top."""

    epochs: Count = 30
    batch_size: Annotated[int, Meta(ge=2)] = 64
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 1e-2
    views: Count = 16
    layers: Annotated[int, Meta(ge=0)] = 3
    """Last layers of a pretrained encoder that learn with the new head; 0 is the head alone."""


TRAINING = {
    "convnet": Training(),
    "vit": Training(learning_rate=1e-3, weight_decay=1e-2),
    "static": Training(
        epochs=12, learning_rate=3e-3, weight_decay=1e-2, views=(1, 3), temperature=2.0,
        trial_epochs=4,
    ),
    "transformer": Training(
        epochs=8, learning_rate=1e-3, weight_decay=1e-2, views=(1, 2), temperature=2.0,
        trial_epochs=2,
    ),
}  # fmt: skip
"""Defaults by student family (docs/decisions/0008-defaults-by-family.md)."""
TEACHER_TRAINING = {
    "image-classification": TeacherTraining(),
    "audio-classification": TeacherTraining(views=4),
    "sensor-classification": TeacherTraining(),
    "text-classification": TeacherTraining(epochs=6, learning_rate=5e-4, views=1),
    "encoder": TeacherTraining(epochs=2, batch_size=32, learning_rate=1e-4, views=1),
}
"""Defaults by task, and for a pretrained encoder that gets a head."""


def _partial(kind: type[Settings]) -> Any:
    """The same settings with every key optional: what a recipe holds."""
    return msgspec.defstruct(
        f"Given{kind.__name__}",
        [(field.name, field.type | None, None) for field in msgspec.structs.fields(kind)],
        bases=(Settings,),
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


if TYPE_CHECKING:

    class GivenTraining(Settings, frozen=True): ...

    class GivenTeacherTraining(Settings, frozen=True):
        layers: int | None = None

else:
    GivenTraining, GivenTeacherTraining = _partial(Training), _partial(TeacherTraining)


class Stage(Settings, frozen=True):
    """One stage of a distillation that a recipe spells out."""

    name: Annotated[str, Meta(pattern="^[a-z0-9-]{1,32}$")]
    features: dict[str, Positive] = msgspec.field(default_factory=dict)
    """Weights of losses on intermediate outputs, by name: embeddings, hint, attention, relation."""
    layers: dict[str, str] = msgspec.field(default_factory=dict)
    """Module paths of the student to those of the teacher, for hints; empty is the uniform rule."""
    soft: str = "soft_targets"
    """The loss that alpha weighs: soft_targets, decoupled, correlation, or another package's."""
    alpha: tuple[Share, ...] | None = None
    """As in [training].  A stage with features and without alpha has no loss on the logits."""
    epochs: Count | None = None
    learning_rate: Positive | None = None


class Recipe(Settings, frozen=True):
    """Everything `fit` needs to know.  Limits left out come from the profile, or are not set."""

    profile: str
    """Name of a device profile, or the path of one."""
    data: str = "digits"
    """A built-in data set's name, an `.npz` file, a table or a folder (docs/data.md)."""
    task: str = ""
    """Follows from the data; if it is given, it must be what the data are for."""
    text_column: str = ""
    label_column: str = ""
    group_column: str = ""
    """Samples of one group never stand in two splits."""
    label_separator: str = ""
    """What stands between several labels of one text; given, the task is multi-label."""
    unlabelled: str = ""
    """A file of more texts, for soft targets alone."""
    image_size: int | tuple[int, int] | None = None  # limits here make msgspec 0.22 crash
    """Side, or [height, width], that images are brought to; empty follows from the files."""
    image_fit: Literal["crop", "pad", "stretch"] = "crop"
    """What happens to images of another shape: the middle, black around it, or distortion."""
    image_colours: Literal["auto", "grey", "rgb"] = "auto"
    """Auto is grey where every image is."""
    sample_rate_hz: Annotated[int, Meta(ge=1000, le=192_000)] = 16_000
    """Of sound, on the board; recordings of other rates are resampled here, for training."""
    window_s: Positive | None = None
    """Length of the sound that is classified at once; empty is the longest clip, up to 2 s."""
    hop_s: Positive | None = None
    """From one window of a longer recording, or of a stream, to the next; empty is the window."""
    mel_bands: Annotated[int, Meta(ge=8, le=128)] = 40
    """Bands of the log-mel spectrogram that a network for sound sees."""
    window: Annotated[int, Meta(ge=4, le=65_536)] | None = None
    """Steps of a recording of sensors that are classified at once; empty is 128."""
    hop: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    """Steps from one window to the next; empty is half a window."""
    max_length: Annotated[int, Meta(ge=4, le=512)] = 64
    """Most tokens of a text; the rest is cut off, on the board as in training."""
    metric: Literal["", "accuracy", "f1_macro"] = ""
    """Empty is accuracy, or macro-F1 where a sample may have several labels."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the classes in the hard-label loss; balanced is n / (classes · n of the class)."""
    teacher: str = "auto"
    """`auto` (trained here), a folder or hub id of transformers, module:function, or a .onnx."""
    trust_remote_code: bool = False
    """Let a hub teacher run code of its own."""
    distill: str = "soft"
    """A named method (see `edgedistill.methods`), unless [[stages]] spell one out."""
    stages: tuple[Stage, ...] = ()
    assistant: dict[str, int | float | str] = msgspec.field(default_factory=dict)
    """Fields that pick the assistant's spec in the method of that name."""
    control: Annotated[int, Meta(ge=0, le=100)] = 0
    """Seeds, at least 3, that student and control without a teacher are trained with; 0: none."""
    calibrate: bool = True
    """Divide the logits by a temperature, chosen on the validation split, so that a score of 0.8 is
    right in about 80 of 100 cases (Guo et al. 2017)."""
    unknown: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of right answers wanted among those that are given: below a score chosen on the
    validation split the answer is "unknown".  0 answers always."""
    top_k: Count = 1
    """Labels in an answer's `top`, best first."""
    name: str = ""
    """Name of the bundle; empty derives it from data and profile."""
    version: Annotated[int, Meta(ge=0, le=2**53)] = 1
    student: str = ""
    """Student family; empty is every built-in one that suits the task."""
    spec: dict[str, int | float | str] = msgspec.field(default_factory=dict)
    """Fields that the student's spec must have, such as {layers = 2}."""
    precision: Precision = "auto"
    backend: Literal["auto", "onnx", "tflite"] = "auto"
    """Form of the model: by default ONNX, and TFLite for a board on which only that runs."""
    trials: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Candidates that are distilled briefly to find the best of them; 0 ranks by capacity alone."""
    storage: str = ""
    """Where workers share trials: an Optuna URL (sqlite:///trials.db) or a journal's file."""
    target: str = ""
    """Where finalists and the bundle are measured: ssh://user@host[:port], or local; empty trusts
    the predictions."""
    target_seconds: Positive = TARGET_SECONDS
    """After so long on the target no further finalist is measured."""
    wheels: str = ""
    """Folder of wheels to take the target's from; empty is the package index."""
    latency_ms: Positive | None = None
    percentile: Literal[50, 95, 99] | None = None
    peak_ram_mib: Positive | None = None
    size_mib: Positive | None = None
    cold_start_ms: Positive | None = None
    energy_mj: Positive | None = None
    min_retention: Annotated[float, Meta(gt=0, le=2)] | None = None
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    cache_mib: Annotated[int, Meta(ge=0)] = 2048
    """Most that the cache of a teacher's intermediate outputs takes; over it, the teacher runs in
    every step of such a stage."""
    log: Literal["", "tensorboard"] = ""
    """Where the curves of training go; TensorBoard's stand under OUT/work/logs."""
    out: str = ""
    """Folder of the results; empty is build/<data>-<profile>."""
    training: GivenTraining = GivenTraining()
    teacher_training: GivenTeacherTraining = GivenTeacherTraining()

    def __post_init__(self) -> None:
        size = self.image_size
        for side in (size,) if isinstance(size, int) else size or ():
            if not 4 <= side <= 1024:
                raise ValueError(f"image_size is {side}; a side has 4 to 1024 pixels")
        if self.control in (1, 2):
            raise ValueError("control needs at least 3 seeds for an interval; 0 leaves it out")
        if self.trials == 1:
            raise ValueError("trials needs at least 2 candidates to compare; 0 leaves them out")
        if self.storage and not self.trials:
            raise ValueError("storage is where trials are shared; give trials too")
        if self.target_seconds != TARGET_SECONDS and not self.target:
            raise ValueError("target_seconds is how long a target measures; give target too")
        if self.wheels and not self.target.startswith("ssh://"):
            raise ValueError("wheels is for a board; give it as target too, ssh://…")

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

    def training_of(self, family: str, task: str) -> Training:
        """The student's training: what is given here over the family's defaults."""
        other = "static" if task == "text-classification" else "convnet"
        return _complete(self.training, TRAINING.get(family, TRAINING[other]))

    def teacher_training_of(self, kind: str) -> TeacherTraining:
        """The teacher's training: what is given here over the defaults of `TEACHER_TRAINING`."""
        return _complete(self.teacher_training, TEACHER_TRAINING[kind])

    @property
    def unplaced(self) -> Recipe:
        """Without what says where results stand and figures are measured, and not what is made."""
        return msgspec.structs.replace(
            self, out="", storage="", target="", target_seconds=TARGET_SECONDS, wheels=""
        )

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
    def wheels_folder(self) -> Path | None:
        return Path(self.wheels) if self.wheels else None

    @property
    def out_folder(self) -> Path:
        return (
            Path(self.out) if self.out else Path("build") / f"{self.data_name}-{self.profile_name}"
        )


T = TypeVar("T", bound=Settings)


def _complete(given: Settings, defaults: T) -> T:
    """`defaults` with everything that is given laid over it."""
    chosen = {name: getattr(given, name) for name in given.__struct_fields__}
    return msgspec.structs.replace(
        defaults, **{name: value for name, value in chosen.items() if value is not None}
    )
