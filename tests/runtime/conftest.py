"""Fixtures of the runtime's tests: a small bundle to every test's liking."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.runtime_support import SEED, Parts, Result, run_cli, tiny_manifest
from tests.runtime.zip_bytes import zip_bytes

from edgedistill_runtime import bundle
from edgedistill_runtime import manifest as contract


@pytest.fixture(scope="session")
def tiny() -> tuple[contract.Manifest, dict[str, bytes]]:
    """Manifest and files of the small bundle."""
    return tiny_manifest("tiny")


@pytest.fixture(scope="session")
def parts(tiny: tuple[contract.Manifest, dict[str, bytes]]) -> Parts:
    """The small bundle taken apart, to be put together differently."""
    manifest, files = tiny
    return Parts(json.loads(manifest.to_json()), files)


@pytest.fixture(scope="session")
def text_parts() -> Parts:
    """The small bundle of texts taken apart."""
    from tests.runtime.text_support import text_manifest

    manifest, files = text_manifest()
    return Parts(json.loads(manifest.to_json()), files)


@pytest.fixture
def edge(tiny: tuple[contract.Manifest, dict[str, bytes]], tmp_path: Path) -> Path:
    """The path of a good bundle."""
    path = tmp_path / "model.edge"
    bundle.write(path, *tiny)
    return path


@pytest.fixture(params=["tiny", "tiny_int8"])
def either_edge(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The path of a good bundle, in float32 and in int8."""
    path = tmp_path / "model.edge"
    bundle.write(path, *tiny_manifest(request.param))
    return path


@pytest.fixture
def pack(parts: Parts, tmp_path: Path) -> Callable[..., Path]:
    """Write a bundle with changes: `manifest` by dotted path, `files` by name, or `raw` bytes.

    Sizes and digests follow the files, so that only what a test changes is wrong.
    """

    def write(
        manifest: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        raw: bytes | None = None,
    ) -> Path:
        path = tmp_path / "changed.edge"
        path.write_bytes(
            zip_bytes(parts.changed(manifest, files).entries()) if raw is None else raw
        )
        return path

    return write


@pytest.fixture
def images() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Five samples that no bundle has seen.  (5, 8, 8, 1)"""
    return np.random.default_rng(SEED + 1).integers(0, 256, (5, 8, 8, 1), np.uint8)


@pytest.fixture
def run() -> Callable[..., Result]:
    return run_cli
