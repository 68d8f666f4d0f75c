"""Bundles of format version 1 that are older than this runtime.  Never change this file."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgedistill_runtime import bundle
from edgedistill_runtime.model import load

FOLDER = Path(__file__).parents[1] / "data" / "bundle_v1"
FILES = {
    "onnx": (
        "0df5919e72de5b9b34f727538138490bb1a43e56f844fe43deba6bb04987b6cb",
        "32695fd56f1641fd37ff9ca7a2786eb8311837e78d12bda8307e08345918e28d",
        "onnxruntime",
    ),
    "tflite": (
        "aa67cde24963a52dd630ba334e58dd019d311906558383bdaa073345d8240e6f",
        "73b92a91ba63c43efc7276bb9f7d52b79591a0d144ac98e9d9e3816d6040f705",
        "ai_edge_litert",
    ),
}
GOLDEN = "42263033338393013632"


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_those_that_were_written_then(name):
    data = (FOLDER / f"{name}.edge").read_bytes()
    assert hashlib.sha256(data).hexdigest() == FILES[name][0]


@pytest.mark.parametrize("name", FILES)
def test_they_are_read_and_verified(name):
    opened = bundle.read(FOLDER / f"{name}.edge")
    assert opened.id == FILES[name][1]
    assert opened.manifest.format_version == 1
    assert opened.manifest.labels == tuple("0123456789")


@pytest.mark.parametrize("name", FILES)
def test_they_answer_as_they_did(name):
    if find_spec(FILES[name][2]) is None:
        pytest.skip(f"{FILES[name][2]} is not installed")
    model = load(FOLDER / f"{name}.edge")
    model.check_golden()
    labels = "".join(model.predict(sample).label for sample in model.golden_samples())
    assert labels == GOLDEN
