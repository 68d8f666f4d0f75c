"""What a bundle needs on a board, from its manifest."""

from __future__ import annotations

from edgedistill.boards.wheels import ENGINES, Needs
from edgedistill_runtime.manifest import Manifest


def needs_of(manifest: Manifest, to_predict: bool = False) -> Needs:
    """to_predict: also what reading users' own inputs takes, and not only the golden ones."""
    extras = ["text"] if manifest.sample.kind == "text" else []
    if manifest.sample.kind == "image" and to_predict:
        extras.append("image")
    backend = manifest.backend.name if manifest.backend.name in ENGINES else "onnx"
    return Needs(
        backend, manifest.board.engine, manifest.board.engine_version, False, tuple(extras)
    )
