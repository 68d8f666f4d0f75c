"""What a recipe means: its profile, data, budget, engine and family, looked up and checked."""

from __future__ import annotations

from dataclasses import dataclass

from edgedistill import budget, data, search
from edgedistill.data import Dataset
from edgedistill.errors import SettingsError
from edgedistill.profiles import Choice, DeviceProfile
from edgedistill.recipe import Recipe
from edgedistill.students import Family, family
from edgedistill_runtime.manifest import Backend, Budget


@dataclass(frozen=True)
class Setting:
    recipe: Recipe
    profile: DeviceProfile
    data: Dataset
    budget: Budget
    engine: Choice
    family: Family

    @staticmethod
    def of(recipe: Recipe, student: Family | None = None) -> Setting:
        """Look everything up.  Raises SettingsError or DataError."""
        profile = DeviceProfile.load(recipe.profile)
        engine = profile.engine("onnx")
        if engine is None:
            raise SettingsError(_no_engine(profile))
        return Setting(
            recipe,
            profile,
            data.load(recipe.data),
            budget.combine(recipe, profile),
            engine,
            family(student or recipe.student),
        )

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
        return search.plan(self.family, self.data, self.profile, self.budget, precisions)

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


def _no_engine(profile: DeviceProfile) -> str:
    tflite = profile.engine("tflite")
    if tflite:
        return (
            f"{profile.name} has no engine for ONNX bundles ({tflite.os.name} has {tflite.name} "
            f"{tflite.version}), and this version of fit writes ONNX only; choose another profile"
        )
    reasons = "; ".join(f"{system.name}: {system.note}" for system in profile.os)
    return f"{profile.name} has no engine that can run a bundle ({reasons})"
