"""EdgeDistill: distil a large teacher into a small student that fits a board's budget.

from edgedistill import Recipe, fit

result = fit(Recipe(profile="rpi4", latency_ms=5))
print(result.bundle, result.report["retention"])
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedistill.errors import EdgeDistillError
    from edgedistill.pipeline import fit
    from edgedistill.profiles import DeviceProfile
    from edgedistill.recipe import Recipe

__all__ = ["DeviceProfile", "EdgeDistillError", "Recipe", "fit"]
__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime asks once, when it is imported

_HOMES = {
    "DeviceProfile": "profiles",
    "EdgeDistillError": "errors",
    "Recipe": "recipe",
    "fit": "pipeline",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `edgedistill --help` never waits for torch."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # `fit` is a module too: the function wins from here on
    return value
