"""Networks of every family as TFLite files, under both engines."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from tests.networks import SEED

from edgedistill import engines
from edgedistill.environments import TFLITE_RUNTIME
from edgedistill.errors import ExportError
from edgedistill.export import tflite
from edgedistill.students import FAMILIES
from edgedistill.students.convnet import ConvNetSpec
from edgedistill.students.modules import as_if_trained
from edgedistill.students.static import StaticSpec
from edgedistill.students.transformer import TransformerSpec
from edgedistill.students.vit import ViTSpec
from edgedistill_runtime.backends.tflite import open_session
from edgedistill_runtime.manifest import Backend

BACKEND = Backend("tflite", threads=1)
VOCABULARY, LONGEST, CLASSES = 500, 20, 5
CASES = {
    "separable": ("convnet", ConvNetSpec("separable", 8, 1.5, 2, 1, 5), (3, 16, 16)),
    "dense": ("convnet", ConvNetSpec("dense", 8, 2.0, 2, 2, 3), (1, 8, 8)),
    "one-dimensional": ("convnet", ConvNetSpec("separable", 8, 1.5, 2, 1, 5), (6, 1, 32)),
    "vit": ("vit", ViTSpec(patch=4, dim=32, depth=2, heads=2, ffn=64), (3, 16, 16)),
    "static": ("static", StaticSpec(VOCABULARY, 16, 32), (LONGEST,)),
    "transformer": ("transformer", TransformerSpec(VOCABULARY, 32, 2, 64, 2, 128), (LONGEST,)),
}
TEXTS = ("static", "transformer")
each = pytest.mark.parametrize("case", CASES)


@cache
def network(case: str) -> torch.nn.Module:
    family, spec, shape = CASES[case]
    torch.manual_seed(SEED)
    return as_if_trained(FAMILIES[family].build(spec, shape, CLASSES)).eval()


@cache
def float32(case: str) -> bytes:
    return tflite.export(network(case), CASES[case][2], case in TEXTS)


@cache
def int8(case: str, tensorwise: bool) -> bytes:
    static = inputs(case, 64) if CASES[case][0] == "convnet" else None
    name = open_session(float32(case), BACKEND).inputs[0].name
    return tflite.int8(float32(case), static, name, tensorwise)


@cache
def inputs(case: str, count: int = 40) -> tuple[np.ndarray, ...]:
    """Texts of every length in turn."""
    generator, shape = np.random.default_rng(SEED), CASES[case][2]
    if case not in TEXTS:
        return tuple(generator.standard_normal((count, 1, *shape), np.float32))
    lengths = [1 + i % LONGEST for i in range(count)]
    return tuple(generator.integers(0, VOCABULARY, (1, n)).astype(np.int32) for n in lengths)


def of_torch(case: str) -> np.ndarray:
    """Each sample alone and unfilled."""
    module, text = network(case), case in TEXTS
    samples = [torch.from_numpy(x.astype(np.int64) if text else x) for x in inputs(case)]
    with torch.inference_mode():
        return np.concatenate([module(x).numpy() for x in samples])


def of_litert(case: str, model: bytes) -> np.ndarray:
    session = open_session(model, BACKEND)
    assert session.engine == "ai-edge-litert"
    name = session.inputs[0].name
    return np.concatenate([session.run({name: x})[0] for x in inputs(case)])


def off(answers: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square of the difference over that of the reference."""
    return float(np.sqrt(np.square(answers - reference).mean() / np.square(reference).mean()))


@each
def test_the_float_file_is_the_network_under_both_engines(case) -> None:
    reference = of_torch(case)
    assert off(of_litert(case, float32(case)), reference) < 1e-5
    assert off(engines.tflite_runtime(float32(case), inputs(case)), reference) < 1e-5


@each
def test_int8_is_near_the_network_and_smaller(case) -> None:
    made = int8(case, tensorwise=False)
    assert off(of_litert(case, made), of_torch(case)) < 0.1
    assert precision_bytes(made) < 0.5 * precision_bytes(float32(case))


def precision_bytes(model: bytes) -> int:
    """Of the constants."""
    import tflite as schema

    read = schema.Model.GetRootAs(model, 0)
    return sum(read.Buffers(i).DataLength() for i in range(read.BuffersLength()))


@pytest.mark.parametrize("case", ["separable", "dense", "static", "transformer", "vit"])
def test_int8_for_tflite_runtime_is_right_there(case) -> None:
    made = int8(case, tensorwise=True)
    assert off(engines.tflite_runtime(made, inputs(case)), of_torch(case)) < 0.15


@pytest.mark.parametrize("case", ["static", "transformer", "vit"])
def test_a_scheme_that_tflite_runtime_gets_wrong_is_refused(case) -> None:
    with pytest.raises(ExportError, match=r"ended with an error on .* one scale"):
        engines.tflite_runtime(int8(case, tensorwise=False), inputs(case))


def test_the_same_network_gives_the_same_bytes_with_nothing_of_this_machine() -> None:
    made = float32("dense")
    assert made == tflite.export(network("dense"), CASES["dense"][2])
    assert not [place for place in (b"/tmp", b"/home", b"/root", b"site-packages") if place in made]


def test_a_layer_that_cannot_be_translated_is_named() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(x[:, :, None] * x[:, None, :])

    odd = torch.nn.Sequential()
    odd.add_module("plain", torch.nn.Linear(4, 4))
    odd.add_module("strange", Odd())
    with pytest.raises(ExportError, match=r"to TFLite: .*eigh.* \(in the layer 'strange'\)$"):
        tflite.export(odd, (4,))


def test_a_file_that_kills_the_engine_is_one_sentence(monkeypatch, tmp_path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -ABRT $$\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv(TFLITE_RUNTIME.variable, str(program))
    with pytest.raises(ExportError, match="ended with signal 6 on this model"):
        engines.tflite_runtime(float32("dense"), inputs("dense"))
