"""What a recipe means: its profile, data, budget, engine and family, looked up and checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgedistill import budget, data, search
from edgedistill.data import Dataset
from edgedistill.distill import methods
from edgedistill.errors import SettingsError, unknown
from edgedistill.profiles import Choice, DeviceProfile
from edgedistill.recipe import Recipe
from edgedistill.students import Family, family, tasks_of
from edgedistill_runtime.manifest import Backend, Budget

DEFAULT_FAMILY = {
    "image-classification": "convnet",
    "audio-classification": "convnet",
    "sensor-classification": "convnet",
    "text-classification": "transformer",
}
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
    family: Family
    vocabulary: int | None = None
    """Tokens that the texts use."""

    @staticmethod
    def of(recipe: Recipe, student: Family | None = None) -> Setting:
        """Look everything up.  Raises SettingsError or DataError."""
        profile = DeviceProfile.load(recipe.profile)
        engine = profile.engine("onnx")
        if engine is None:
            raise SettingsError(_no_engine(profile))
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
        chosen = family(student or recipe.student or DEFAULT_FAMILY[found.task])
        tasks = tasks_of(chosen)
        if found.task not in tasks:
            raise SettingsError(
                f"the student family {chosen.name!r} is for {', '.join(tasks)}, and the data "
                f"{found.name!r} are for {found.task}; choose another with --student"
            )
        if recipe.unknown and found.multi_label:
            raise SettingsError(
                "unknown is for one label a sample; where there may be several, none is an answer"
            )
        if recipe.top_k > len(found.labels):
            raise SettingsError(
                f"top_k is {recipe.top_k}, and the data have {len(found.labels)} labels"
            )
        most = getattr(chosen, "max_tokens", recipe.max_length)
        if found.task == "text-classification" and recipe.max_length > most:
            raise SettingsError(
                f"max_length is {recipe.max_length}; the student family {chosen.name!r} takes at "
                f"most {most} tokens"
            )
        methods.stages(recipe, recipe.training_of(chosen.name, found.task), found.task)  # known?
        size = None
        if found.task == "text-classification":
            found, size = _measured(found, recipe)
        limits = budget.combine(recipe, profile, found.hop_s)
        return Setting(recipe, profile, found, limits, engine, chosen, size)

    @property
    def backend(self) -> Backend:
        return Backend("onnx", threads=self.profile.budget.threads)

    def plan(self) -> search.Plan:
        """Every candidate in the precisions that the recipe allows.

        Without measured rates for the engine float32 goes first: int8 is often slower on small
        networks, so it ships only where the size or memory limit leaves no float32 candidate.
        """
        wanted = self.recipe.precision
        precisions = ("float32", "int8") if wanted == "auto" else (wanted,)
        return search.plan(
            self.family,
            self.data,
            self.profile,
            self.budget,
            precisions,
            self.recipe.spec,
            self.vocabulary,
        )

    def precision_reason(self, precision: str) -> str:
        """Why the bundle ships in this precision."""
        if self.recipe.precision != "auto":
            return "asked for"
        if precision == "float32":
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


def _no_engine(profile: DeviceProfile) -> str:
    tflite = profile.engine("tflite")
    if tflite:
        return (
            f"{profile.name} has no engine for ONNX bundles ({tflite.os.name} has {tflite.name} "
            f"{tflite.version}), and this version of fit writes ONNX only; choose another profile"
        )
    reasons = "; ".join(f"{system.name}: {system.note}" for system in profile.os)
    return f"{profile.name} has no engine that can run a bundle ({reasons})"
