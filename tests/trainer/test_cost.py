"""What a student is said to cost before it exists: never nothing, never less for more."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import asdict

import msgspec
import numpy as np
import pytest
from tests.networks import exported, spread

import edgedistill_runtime.manifest as contract
from edgedistill import pack
from edgedistill.cost import memory
from edgedistill.cost.graph import kernels_of
from edgedistill.cost.kernels import Kernel, conv, total_macs, total_parameters
from edgedistill.cost.latency import JITTER, SPREAD, estimate
from edgedistill.profiles import DeviceProfile, names
from edgedistill.provenance import versions
from edgedistill.students import FAMILIES
from edgedistill_runtime import bundle
from edgedistill_runtime.manifest import Backend

DIGITS, CLASSES = (1, 8, 8), 10
CONVNET = FAMILIES["convnet"]
SPECS = spread(CONVNET.specs(DIGITS), 12)
PRECISIONS = ("float32", "int8")


def kernels(spec, precision="float32"):
    return CONVNET.kernels(spec, DIGITS, CLASSES, precision)


def without_anchor(profile):
    return msgspec.structs.replace(profile, published=())


# Kernels


def test_a_convolutions_work_is_counted_by_its_definition():
    kernel = conv("FusedConv", (3, 7, 9), channels=5, kernel=3, stride=2, depthwise=False)
    assert kernel.output == (1, 5, 4, 5)
    assert kernel.weights == 5 * 3 * 3 * 3
    assert kernel.biases == 5
    assert kernel.macs == kernel.weights * 4 * 5
    depthwise = conv("FusedConv", (3, 7, 9), channels=3, kernel=5, stride=1, depthwise=True)
    assert depthwise.weights == 3 * 5 * 5
    assert depthwise.macs == depthwise.weights * 7 * 9


def test_totals_are_sums_over_kernels():
    two = (
        Kernel("Gemm", (1, 4), (1, 2), weights=8, biases=2, macs=8),
        Kernel("Relu", (1, 2), (1, 2)),
    )
    assert (total_macs(two), total_parameters(two)) == (8, 10)


def test_the_kernels_of_a_committed_file_are_what_its_graph_says():
    """Conv, Relu, ReduceMean and Gemm from 8×8 to 10 logits: see tests/data/make_tiny.py."""
    from tests.conftest import ROOT

    found = kernels_of((ROOT / "tests" / "data" / "tiny.onnx").read_bytes())
    assert [k.op for k in found] == ["FusedConv", "ReduceMean", "Gemm"]
    convolution, mean, linear = found
    channels = convolution.output[1]
    assert convolution.input == (1, 1, 8, 8)
    assert convolution.macs == convolution.weights * 64
    assert (mean.output, mean.macs) == ((1, channels), 0)
    assert (linear.output, linear.macs, linear.biases) == ((1, 10), 10 * channels, 10)


# Latency


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", names())
def test_every_board_gives_every_student_a_positive_estimate_and_a_wider_bound(name, precision):
    profile = DeviceProfile.load(name)
    for spec in SPECS:
        figure = estimate(kernels(spec, precision), profile, precision, threads=1)
        assert 0 < figure.p50_ms < figure.bound_ms < float("inf")
        assert figure.standing == "estimated"
        assert figure.basis


def test_an_estimate_names_what_it_rests_on():
    profile = DeviceProfile.load("rpi4")
    figure = estimate(kernels(SPECS[0]), profile, "float32", threads=1)
    row = next(r for r in profile.published if r.precision == "float32" and "v1" in r.model)
    assert row.engine in figure.basis
    assert row.source in figure.basis
    assert "rpi4" in figure.basis


def test_work_costs_time_and_so_does_every_kernel():
    profile = DeviceProfile.load("rpi4")
    one = (conv("FusedConv", (8, 8, 8), 8, 3, 1, False),)
    cost = estimate(one, profile, "float32", 1).p50_ms
    assert estimate(one * 2, profile, "float32", 1).p50_ms > cost
    idle = (*one, Kernel("Relu", (1, 8, 8, 8), (1, 8, 8, 8)))
    assert estimate(idle, profile, "float32", 1).p50_ms > cost
    assert estimate((), profile, "float32", 1).p50_ms > 0  # the call itself


def test_more_threads_and_a_faster_clock_never_make_it_slower():
    profile = DeviceProfile.load("rpi4")
    work = kernels(SPECS[0])
    times = [estimate(work, profile, "float32", threads).p50_ms for threads in (1, 2, 4)]
    assert times == sorted(times, reverse=True)
    faster = msgspec.structs.replace(
        profile, cluster=tuple(msgspec.structs.replace(c, mhz=2 * c.mhz) for c in profile.cluster)
    )
    for board, other in ((profile, faster), (without_anchor(profile), without_anchor(faster))):
        slow, fast = (estimate(work, each, "float32", 1).p50_ms for each in (board, other))
        assert fast < slow


def widening(profile, precision="float32"):
    figure = estimate(kernels(SPECS[0]), profile, precision, threads=1)
    return figure.bound_ms / figure.p50_ms


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_interval_widens_the_farther_the_board_with_the_figure_is(precision):
    own = DeviceProfile.load("rpi4")
    of_its_class = without_anchor(own)
    board = msgspec.structs.replace(own.board, arch="armv7l", flags=())
    of_another = msgspec.structs.replace(of_its_class, board=board)
    widths = [widening(each, precision) for each in (own, of_its_class, of_another)]
    assert widths == pytest.approx([SPREAD["own"], SPREAD["class"], SPREAD["other"]])
    assert widths == sorted(widths)


def test_a_board_without_a_figure_takes_that_of_a_board_of_its_class():
    for name in ("rpi-cm4", "imx8mp", "beagleplay"):
        profile = DeviceProfile.load(name)
        basis = estimate(kernels(SPECS[0]), profile, "float32", threads=1).basis
        owner = next(n for n in names() if f" on {n} (" in basis)
        assert owner != name
        assert DeviceProfile.load(owner).isa == profile.isa


def test_a_higher_percentile_never_has_less_jitter():
    assert JITTER[50] == 1 <= JITTER[95] <= JITTER[99]


# Memory and size


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", ["width", "growth", "depth"])
def test_a_larger_student_never_needs_less_memory_or_a_smaller_file(size, precision):
    rows = defaultdict(list)
    for spec in CONVNET.specs(DIGITS):
        others = asdict(spec)
        value = others.pop(size)
        rows[tuple(others.items())].append((value, spec))
    for row in rows.values():
        made = [kernels(spec, precision) for _, spec in sorted(row, key=lambda pair: pair[0])]
        ram = [memory.peak_ram_mib(each, precision) for each in made]
        files = [memory.bundle_mib(each, precision, 64, CLASSES) for each in made]
        assert all(0 < a <= b for costs in (ram, files) for a, b in itertools.pairwise(costs))


def test_int8_stores_large_layers_in_a_quarter():
    large = (Kernel("Gemm", (1, 1000), (1, 1000), weights=10**6, biases=1000, macs=10**6),)
    float32, int8 = (memory.bundle_mib(large, p, 64, CLASSES) for p in PRECISIONS)
    assert 3.5 < float32 / int8 < 4.5


def test_memory_is_at_least_that_of_an_engine_that_does_nothing():
    assert min(memory.peak_ram_mib(kernels(spec), "float32") for spec in SPECS) > 40


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spec", SPECS[:6], ids=lambda s: "-".join(map(str, asdict(s).values())))
def test_a_bundles_estimated_size_is_within_15_percent_of_the_packed_one(tmp_path, spec, precision):
    model = exported("convnet", spec, DIGITS, CLASSES, precision)
    path = tmp_path / "model.edge"
    profile = DeviceProfile.load("rpi4")
    choice = profile.engine("onnx")
    assert choice is not None
    pack.pack(path, contents(model, precision), profile, choice)
    assert len(bundle.read(path).files) == 3
    told = memory.bundle_mib(kernels(spec, precision), precision, 64, CLASSES) * 2**20
    assert told == pytest.approx(path.stat().st_size, rel=0.15)


def contents(model: bytes, precision: str) -> pack.Contents:
    """All that a bundle of the digits holds, with a provenance as long as a real one."""
    return pack.Contents(
        name="digits-rpi4",
        version=1,
        task="image-classification",
        model=model,
        precision=precision,
        backend=Backend("onnx"),
        sample=contract.Sample("image", "uint8", (8, 8, 1)),
        labels=tuple("0123456789"),
        preprocess=(
            {"op": "normalize", "scale": 1 / 255, "mean": [0.3058], "std": [0.3762]},
            {"op": "channels_first"},
        ),
        postprocess=({"op": "softmax"},),
        files={},
        golden_inputs=np.zeros((pack.GOLDEN_SAMPLES, 8, 8, 1), np.uint8),
        golden_outputs=np.zeros((pack.GOLDEN_SAMPLES, CLASSES), np.float32),
        golden_atol=1e-3,
        budget=contract.Budget(latency_ms=5.0, peak_ram_mib=128.0, size_mib=0.1),
        predicted=contract.Predicted("estimated", contract.Latency(0.1, 0.26), 80.0),
        accuracy=contract.Accuracy("accuracy", 0.98, 0.99, 450),
        provenance={
            "versions": versions(),
            "seed": 0,
            **{name: "0" * 64 for name in ("recipe", "data", "teacher")},
        },
    )
