"""EdgeDistill's device runtime: load a bundle, run it, prove its budget.

from edgedistill_runtime import load

model = load("model.edge")
print(model.predict(image).label)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedistill_runtime.errors import EdgeDistillError
    from edgedistill_runtime.model import Model, Prediction, load

__all__ = ["EdgeDistillError", "Model", "Prediction", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use, so that `edgedistill-run --help` needs neither numpy nor an engine."""
    from importlib import import_module

    home = {"EdgeDistillError": "errors", "Model": "model", "Prediction": "model", "load": "model"}
    if name not in home:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home[name]}"), name)
