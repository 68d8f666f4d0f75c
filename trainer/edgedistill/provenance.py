"""What shaped a result: versions of everything that computes."""

from __future__ import annotations

import platform
from functools import cache


@cache
def versions() -> dict[str, str]:
    """Versions of what shaped the bundle."""
    from importlib.metadata import version

    names = ("edgedistill", "edgedistill-runtime", "numpy", "onnx", "onnxruntime", "onnxscript")
    found = {name: version(name) for name in (*names, "onnxslim", "scikit-learn", "torch")}
    return {"python": platform.python_version(), **found}
