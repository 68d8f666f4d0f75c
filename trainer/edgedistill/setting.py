"""What a recipe means: its profile, data, budget, engine and families, looked up and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgedistill import budget, data, search, target
from edgedistill.data import Dataset
from edgedistill.distill import methods
from edgedistill.errors import SettingsError, unknown
from edgedistill.profiles import ENGINES, Choice, DeviceProfile
from edgedistill.recipe import Recipe
from edgedistill.search.smaller import Smaller, smaller
from edgedistill.students import FAMILIES, Family, family, tasks_of
from edgedistill_runtime.manifest import Backend, Budget

DEFAULT_FAMILY = {
    "image-classification": "convnet",
    "audio-classification": "convnet",
    "sensor-classification": "convnet",
    "text-classification": "transformer",
}
PRECISIONS = ("float32", "int8")
PRICED_QUANTILE = 0.95
"""Latency is priced at the length that so many of the texts do not exceed."""
TOKENS_PER_WORD = 1.5


@dataclass(frozen=True)
class Setting:
    recipe: Recipe
    profile: DeviceProfile
    data: Dataset
    budget: Budget
    engine: Choice
    families: tuple[Family, ...]
    """Those that are searched; the task's default, or the one that was asked for, first."""
    vocabulary: int | None = None
    """Tokens that the texts use."""

    @staticmethod
    def of(recipe: Recipe, student: Family | None = None) -> Setting:
        """Look everything up.  Raises SettingsError or DataError."""
        if recipe.target:
            target.check(recipe.target)
        profile = DeviceProfile.load(recipe.profile)
        engine = _engine(profile, recipe.backend)
        found = data.load(
            recipe.data,
            data.Columns(
                recipe.text_column,
                recipe.label_column,
                recipe.group_column,
                recipe.label_separator,
                recipe.unlabelled,
            ),
            _decoding(recipe),
        )
        if recipe.task and recipe.task != found.task:
            known = unknown("task", recipe.task, DEFAULT_FAMILY)
            fits = f"the data {found.name!r} are for {found.task}, not for {recipe.task}"
            raise SettingsError(fits if recipe.task in DEFAULT_FAMILY else known)
        chosen = _in_precision(_families(recipe, student, found), recipe.precision, engine)
        if recipe.unknown and found.multi_label:
            raise SettingsError(
                "unknown is for one label a sample; where there may be several, none is an answer"
            )
        if recipe.top_k > len(found.labels):
            raise SettingsError(
                f"top_k is {recipe.top_k}, and the data have {len(found.labels)} labels"
            )
        size = None
        if found.task == "text-classification":
            found, size = _measured(found, recipe)
        limits = budget.combine(recipe, profile, found.hop_s)
        return Setting(recipe, profile, found, limits, engine, chosen, size)

    @property
    def family(self) -> Family:
        """The task's default, or the one that was asked for."""
        return self.families[0]

    def family_of(self, candidate: search.Candidate) -> Family:
        return next(each for each in self.families if each.name == candidate.family)

    @property
    def backend(self) -> Backend:
        name = "onnx" if self.engine.name in ENGINES["onnx"] else "tflite"
        return Backend(name, threads=self.profile.budget.threads)

    def plan(self) -> search.Plan:
        """Every candidate in the precisions that the recipe allows.

        Without measured rates for the engine float32 goes first: int8 is often slower on small
        networks, so it ships only where the size or memory limit leaves no float32 candidate; and
        int4, with tables in int8, where that leaves no int8 either.
        """
        made = self._plan()
        return made if made.fitting else replace(made, alternatives=tuple(self._alternatives()))

    def _plan(self) -> search.Plan:
        made = self._plan_of(self.families, precisions(self.recipe))
        if made.fitting or self.recipe.precision != "auto" or not self._packable:
            return made
        packed = self._plan_of(self._packable, ("int4",))
        return packed if packed.fitting else made

    @property
    def _packable(self) -> tuple[Family, ...]:
        """Families whose networks int4 is for, where the engine has it."""
        if self.engine.name not in ENGINES["onnx"]:
            return ()
        return tuple(each for each in self.families if each.quantization == "dynamic")

    def _plan_of(self, families: tuple[Family, ...], wanted: tuple[str, ...]) -> search.Plan:
        return search.plan(
            families,
            self.data,
            self.profile,
            self.budget,
            wanted,
            self.recipe.spec,
            self.vocabulary,
            self.engine.name,
        )

    def _alternatives(self) -> Iterator[str]:
        """Options, one at a time, with which something fits: each is priced."""
        other = tuple(p for p in PRECISIONS if p not in precisions(self.recipe))
        if other and self._fits(recipe=_changed(self.recipe, precision=other[0])):
            yield f"--precision {other[0]}"
        if (
            other
            and self._packable
            and self._fits(families=self._packable, recipe=_changed(self.recipe, precision="int4"))
        ):
            yield "--precision int4"
        known = {each.name for each in self.families}
        for each in suiting(self.recipe, self.data.task):
            if each.name not in known and self._fits(
                families=(each,), recipe=_changed(self.recipe, spec={})
            ):
                spec = " without spec" if self.recipe.spec else ""
                yield f"--student {each.name}{spec}"
        for name in ENGINES:
            another = self.profile.engine(name)
            if another and another.name != self.engine.name and self._fits(engine=another):
                yield f"--backend {name} ({another.name} {another.version})"
        sizes = smaller(self.data, self.recipe)
        yield from islice((each.option for each in sizes if self._with(each)._plan_fits()), 1)

    def _with(self, each: Smaller) -> Setting:
        recipe = _changed(self.recipe, **each.keys)
        limits = budget.combine(recipe, self.profile, each.data.hop_s)
        return replace(self, recipe=recipe, data=each.data, budget=limits)

    def _fits(self, **changes: Any) -> bool:
        return replace(self, **changes)._plan_fits()

    def _plan_fits(self) -> bool:
        try:
            return bool(self._plan().fitting)
        except SettingsError:  # a family has nothing of that size
            return False

    def precision_reason(self, candidate: search.Candidate) -> str:
        """Why the bundle ships in its precision."""
        if self.recipe.precision != "auto":
            return "asked for"
        if candidate.precision == "int4":
            return "no float32 or int8 candidate is within the limits"
        if candidate.measured:
            return f"by the latencies measured on {self.recipe.target}"
        if candidate.latency.standing == "predicted":
            return f"by the measured rates of {self.engine.name} on {self.profile.name}"
        if candidate.precision == "float32":
            return (
                f"{self.profile.name} has no measured rates for {self.engine.name}, "
                "and the size and memory limits do not need int8"
            )
        return "no float32 candidate is within the size and memory limits"

    def summary(self) -> str:
        data = self.data
        counts = "/".join(str(len(s)) for s in (data.train, data.validation, data.test))
        return (
            f"{data.name}: {len(data.labels)} classes, {counts} samples; "
            f"{self.profile.board.name}, {self.engine.name} {self.engine.version}"
        )


def precisions(recipe: Recipe) -> tuple[str, ...]:
    """Those that may ship, the preferred one first."""
    return PRECISIONS if recipe.precision == "auto" else (recipe.precision,)


def suiting(recipe: Recipe, task: str) -> tuple[Family, ...]:
    """The built-in families for the task that can do what the recipe wants, its default first."""
    default = FAMILIES[DEFAULT_FAMILY[task]]
    stages = methods.stages(recipe, recipe.training_of(default.name, task), task)
    # layers are compared with the teacher's, and an assistant is of the student's family
    one = recipe.distill == "assistant" or any(stage.features for stage in stages)
    others = () if one else FAMILIES.values()
    return tuple(
        each
        for each in dict.fromkeys((default, *others))
        if task in tasks_of(each) and _takes(each, recipe, task)
    )


def _families(recipe: Recipe, student: Family | None, found: Dataset) -> tuple[Family, ...]:
    """The one that was asked for, else every built-in one that suits.  Raises SettingsError."""
    task = found.task
    if not student and not recipe.student and (suit := suiting(recipe, task)):
        return suit
    chosen = family(student or recipe.student or DEFAULT_FAMILY[task])
    tasks = tasks_of(chosen)
    if task not in tasks:
        raise SettingsError(
            f"the student family {chosen.name!r} is for {', '.join(tasks)}, and the data "
            f"{found.name!r} are for {task}; choose another with --student"
        )
    if not _takes(chosen, recipe, task):
        raise SettingsError(
            f"max_length is {recipe.max_length}; the student family {chosen.name!r} takes at "
            f"most {getattr(chosen, 'max_tokens', 0)} tokens"
        )
    methods.stages(recipe, recipe.training_of(chosen.name, task), task)  # known?
    return (chosen,)


def _in_precision(chosen: tuple[Family, ...], precision: str, engine: Choice) -> tuple[Family, ...]:
    """The families that there are in a precision.  Raises SettingsError."""
    if precision in ("float16", "int4") and engine.name not in ENGINES["onnx"]:
        raise SettingsError(
            f"precision {precision} is for onnxruntime, and the engine is {engine.name}; choose "
            "float32 or int8"
        )
    if precision != "int4":
        return chosen
    suit = tuple(each for each in chosen if each.quantization == "dynamic")
    if not suit:
        raise SettingsError(
            f"precision int4 is for networks of matrix products, which {chosen[0].name!r} is not; "
            "choose int8 or float16, or another family with --student"
        )
    return suit


def _takes(each: Family, recipe: Recipe, task: str) -> bool:
    """Whether texts may be as long as the recipe has them."""
    most = getattr(each, "max_tokens", recipe.max_length)
    return task != "text-classification" or recipe.max_length <= most


def _changed(recipe: Recipe, **keys: Any) -> Recipe:
    return msgspec.structs.replace(recipe, **keys)


def _decoding(recipe: Recipe) -> data.Decoding:
    size = recipe.image_size
    return data.Decoding(
        image_size=(size, size) if isinstance(size, int) else size,
        image_fit=recipe.image_fit,
        image_colours=recipe.image_colours,
        rate_hz=recipe.sample_rate_hz,
        window_s=recipe.window_s,
        hop_s=recipe.hop_s,
        mel_bands=recipe.mel_bands,
        window=recipe.window,
        hop=recipe.hop,
    )


def _measured(found: Dataset, recipe: Recipe) -> tuple[Dataset, int]:
    """The texts with the length that is priced, and the number of tokens that they use.

    By the teacher's tokenizer, if it is at hand; else by words.
    """
    from edgedistill.students import vocabulary

    texts = list(found.train.x)
    file = Path(recipe.teacher) / "tokenizer.json"
    tokenizer = file.read_bytes() if file.is_file() else None
    words = np.array([len(text.split()) for text in texts])
    tokens = int(np.quantile(words, PRICED_QUANTILE) * TOKENS_PER_WORD) + 2
    found = replace(found, tokens=max(2, min(tokens, recipe.max_length)))
    return found, vocabulary.available(tokenizer, texts)


def _engine(profile: DeviceProfile, backend: str) -> Choice:
    """The board's engine for the wanted form, ONNX before TFLite.  Raises SettingsError."""
    for name in ENGINES if backend == "auto" else (backend,):
        if found := profile.engine(name):
            return found
    other = next((found for name in ENGINES if (found := profile.engine(name))), None)
    if other:
        raise SettingsError(
            f"{profile.name} has no engine for {backend} ({other.os.name} has {other.name} "
            f"{other.version}); leave --backend out"
        )
    reasons = "; ".join(f"{system.name}: {system.note}" for system in profile.os)
    raise SettingsError(f"{profile.name} has no engine that can run a bundle ({reasons})")
