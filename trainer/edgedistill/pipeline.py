"""`fit`: the whole pipeline, from a recipe to a bundle that keeps its budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgedistill.errors import OverBudget
from edgedistill.progress import Progress, Silent
from edgedistill.recipe import Recipe
from edgedistill.report import FitResult
from edgedistill.search import Candidate, Plan
from edgedistill.setting import Setting
from edgedistill.students import Family
from edgedistill.workspace import open_workspace

MAX_TRIES = 3
"""Candidates that are trained before fit gives up."""


def plan(recipe: Recipe, student: Family | None = None) -> Plan:
    """Price every candidate on the board, without training and without torch."""
    return Setting.of(recipe, student).plan()


def measured_plan(
    recipe: Recipe,
    student: Family | None = None,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """The plan with its finalists measured on the recipe's target; nothing is trained.

    Figures are kept in the recipe's folder, and `fit` finds them there.  fresh: as in `fit`.
    Raises BoardError if the target is lost or refuses; SettingsError.
    """
    setting = Setting.of(recipe, student)
    progress = progress or Silent()
    from edgedistill.delivery import Delivery
    from edgedistill.distill.processes import Processes

    with open_workspace(recipe, fresh) as work:
        processes = Processes(recipe.device, recipe.mixed_precision, "", work.folder)
        return Delivery(setting, work, processes, progress).measured(setting.plan())


def fit(
    recipe: Recipe | None = None,
    *,
    student: Family | str | None = None,
    teacher: Any = None,
    losses: Mapping[str, Callable[..., Any]] | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> FitResult:
    """Distil a student that fits the board, and pack it.

    recipe, options: what to fit; options are fields of `Recipe` and win.
    student: a family by name, or an object of your own (docs/adding-a-student.md).
    teacher: as in a recipe, or a torch module of your own (docs/adding-a-teacher.md).
    losses: functions by the names that [[stages]] give them (docs/adding-a-loss.md).
    fresh: forget the finished stages of an earlier run in the same folder.
    Returns paths and report; `result.exit_code` is 1 if the packed file misses a limit, 3 if a
    target's runs do not decide it.
    Raises OverBudget if no student fits, SettingsError, DataError or TeacherError if it cannot run,
    BoardError if the target is lost or refuses.
    """
    if isinstance(student, str):
        options["student"], student = student, None
    if isinstance(teacher, str):
        options["teacher"], teacher = teacher, None
    if recipe is None or options:
        given = {} if recipe is None else {f: getattr(recipe, f) for f in recipe.__struct_fields__}
        recipe = Recipe.build(None, given | options)
    progress = progress or Silent()
    setting = Setting.of(recipe, student)
    progress.stage("plan", setting.summary())
    for note in setting.data.notes:
        progress.note(note)
    found = setting.plan()
    if not recipe.target:
        found.require()
    from edgedistill.distill.processes import Processes  # torch from here on

    logs = recipe.out_folder / "work" / "logs"
    processes = Processes(recipe.device, recipe.mixed_precision, recipe.log, logs)
    with open_workspace(recipe, fresh, processes.main) as work:
        from edgedistill.delivery import Delivery

        delivery = Delivery(setting, work, processes, progress, losses)
        candidates: Sequence[Candidate] = delivery.measured(found, teacher).require()
        candidates = delivery.tried(candidates, teacher)
        tried: list[str] = []
        while candidates and len(tried) < MAX_TRIES:
            candidate = delivery.exportable(candidates)
            guide = delivery.teacher(teacher)
            trained = delivery.student(candidate, guide)
            shipped = delivery.convert(candidate, trained, guide, candidates)
            if shipped is not None:
                final, converted = shipped
                control = delivery.control(final, guide, trained, converted)
                return delivery.finish(final, guide, trained, converted, control)
            tried.append(f"{candidate.spec} in {candidate.precision}, which {delivery.refused}")
            candidates = candidates[candidates.index(candidate) + 1 :]
        raise OverBudget(f"no candidate passed the accuracy gate; tried {'; '.join(tried)}")


__all__ = ["FitResult", "fit", "measured_plan", "plan"]
