"""Rates from published rows: physical, monotone, as good outside their families as they say."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from edgedistill.cost.kernels import Kernel, conv, linear
from edgedistill.cost.published import energy_mj, price, unpriced
from edgedistill.errors import SettingsError
from edgedistill.profiles import DeviceProfile

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = ("float32", "int8")
LITERT = "ai-edge-litert"


@pytest.fixture
def fitting(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("published_rates")


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("published_networks")


@pytest.fixture(scope="module")
def rpi4() -> DeviceProfile:
    return DeviceProfile.load("rpi4")


def ms(kernels: tuple[Kernel, ...], board: DeviceProfile, precision: str = "float32") -> float:
    found = price(kernels, board, precision, 4, LITERT)
    assert found
    return found.p50_ms


def small(width: int = 16, size: int = 32, kernel: int = 3) -> tuple[Kernel, ...]:
    """A stem, two separable blocks and a classifier."""
    return (
        conv("CONV_2D", (3, size, size), width, 3, 2, False),
        conv("DEPTHWISE_CONV_2D", (width, size // 2, size // 2), width, kernel, 1, True),
        conv("CONV_2D", (width, size // 2, size // 2), 2 * width, 1, 1, False),
        conv("DEPTHWISE_CONV_2D", (2 * width, size // 2, size // 2), 2 * width, kernel, 2, True),
        conv("CONV_2D", (2 * width, size // 4, size // 4), 4 * width, 1, 1, False),
        Kernel("MEAN", (1, 4 * width, size // 4, size // 4), (1, 4 * width)),
        linear("FULLY_CONNECTED", (1, 4 * width), 10),
    )


def test_refitting_gives_the_shipped_coefficients(fitting: ModuleType) -> None:
    shipped = json.loads(fitting.SHIPPED.read_text(encoding="utf-8"))
    made = fitting.coefficients(fitting.rows())
    assert [row["version"] for row in made["rates"]] == ["2.4.1", "2.4.1", "2.7.1", "2.7.1"]
    for again, row in zip(made["rates"], shipped["rates"], strict=True):
        for part in ("cost", "energy"):
            left, right = again[part], row[part]
            if part == "energy":
                assert left["bound"] == pytest.approx(right["bound"], rel=1e-4)
                left, right = left["cost"], right["cost"]
            assert left == pytest.approx(right, rel=1e-4, abs=1e-9)
        assert again["bound"] == pytest.approx(row["bound"], rel=1e-4)


@pytest.mark.parametrize("known", ["mobilenet-v1", "mobilenet-v2"])
def test_a_family_is_predicted_from_the_other_one(fitting: ModuleType, known: str) -> None:
    for (version, precision), rows in fitting.series(fitting.rows()).items():
        missed = np.abs(fitting.across(rows, known))
        assert missed.mean() < 0.08, (version, precision)
        energy = np.abs(fitting.energy_across(rows, known, by_power=False))
        assert energy.mean() < 0.08, (version, precision)


def test_families_that_were_never_fitted_are_priced_within_fifteen_percent(
    fitting: ModuleType,
) -> None:
    found = fitting.held_out()
    assert found["rows"] >= 18
    assert found["mean_error"] < 0.15
    assert found["covered_by_bound"] == 1
    assert found["bound_over_measured"] < 1.5
    kept = json.loads(fitting.RESULT.read_text(encoding="utf-8"))
    assert kept["held_out"]["mean_error"] == pytest.approx(found["mean_error"], abs=1e-3)


def test_the_networks_have_the_published_work(networks: ModuleType) -> None:
    # multiply-accumulates and parameters as their papers give them, in millions
    published_work = {
        "mobilenet-v1-1.0-224": (569, 4.2),
        "mobilenet-v2-1.0-224": (300, 3.5),
        "mobilenet-v2-1.4-224": (582, 6.1),
        "mobilenet-v3-large": (219, 5.4),
        "mobilenet-v3-small": (56, 2.5),
        "efficientnet-lite0": (407, 4.7),
        "efficientnet-lite4": (2640, 13.0),
        "resnet50": (4100, 25.6),
    }
    for name, (macs, parameters) in published_work.items():
        kernels = networks.named(name)
        assert sum(k.macs for k in kernels) / 1e6 == pytest.approx(macs, rel=0.06), name
        held = sum(k.weights + k.biases for k in kernels) / 1e6
        assert held == pytest.approx(parameters, rel=0.03), name


@pytest.mark.parametrize("precision", PRECISIONS)
def test_more_never_costs_less(rpi4: DeviceProfile, precision: str) -> None:
    before = ms(small(), rpi4, precision)
    for width in (17, 24, 32, 64, 128, 256, 512):
        wider = ms(small(width), rpi4, precision)
        assert wider >= before
        before = wider
    for size in (32, 48, 64, 128, 224, 448):
        larger = ms(small(size=size), rpi4, precision)
        assert larger >= ms(small(), rpi4, precision)
    assert ms(small(kernel=5), rpi4, precision) > ms(small(), rpi4, precision)
    for place, kernel in enumerate(small()):
        longer = (*small()[:place], kernel, *small()[place:])
        assert ms(longer, rpi4, precision) > ms(small(), rpi4, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_larger_depthwise_filter_costs_less_than_its_multiply_accumulates(
    rpi4: DeviceProfile, precision: str
) -> None:
    def block(kernel: int) -> tuple[Kernel, ...]:
        return (conv("DEPTHWISE_CONV_2D", (240, 14, 14), 240, kernel, 1, True),)

    ratio = ms(block(5), rpi4, precision) / ms(block(3), rpi4, precision)
    assert 1.1 < ratio < 25 / 9


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_dense_3x3_costs_more_than_a_1x1_of_the_same_work(
    rpi4: DeviceProfile, precision: str
) -> None:
    spread = conv("CONV_2D", (64, 56, 56), 64, 3, 1, False)
    plain = conv("CONV_2D", (576, 56, 56), 64, 1, 1, False)
    # the 1×1 reads nine times the data; without that traffic only the copy into columns is left
    same_data = replace(plain, input=spread.input, op="MATMUL")
    assert spread.macs == plain.macs
    assert ms((spread,), rpi4, precision) > ms((same_data,), rpi4, precision)


def test_an_operator_without_a_rate_is_named_priced_and_widens_the_bound(
    rpi4: DeviceProfile,
) -> None:
    known = Kernel("ADD", (1, 64, 56, 56), (1, 64, 56, 56))
    strange = replace(known, op="TFLite_Something")
    assert unpriced((known, strange, strange)) == ("TFLite_Something",)
    assert unpriced(small()) == ()
    plain = price((*small(), known), rpi4, "float32", 4, LITERT)
    odd = price((*small(), strange), rpi4, "float32", 4, LITERT)
    assert plain
    assert odd
    assert odd.p50_ms == pytest.approx(plain.p50_ms)
    assert odd.p50_ms > ms(small(), rpi4)
    assert odd.bound_ms > 1.5 * plain.bound_ms


def test_an_unseen_kind_widens_the_bound(rpi4: DeviceProfile) -> None:
    seen = price(small(kernel=3), rpi4, "int8", 4, LITERT)
    unseen = price(small(kernel=5), rpi4, "int8", 4, LITERT)
    assert seen
    assert unseen
    assert unseen.bound_ms / unseen.p50_ms > seen.bound_ms / seen.p50_ms


def test_the_estimate_says_where_it_comes_from(rpi4: DeviceProfile) -> None:
    found = price(small(), rpi4, "int8", 4, LITERT)
    assert found
    assert found.standing == "estimated"
    assert "TFLite 2.7.1 (ruy) int8 on rpi4" in found.basis
    assert "MLPerf" in found.basis
    assert found.bound_ms > found.p50_ms


def test_names_of_onnx_operators_are_priced_alike(rpi4: DeviceProfile) -> None:
    renamed = {"CONV_2D": "FusedConv", "DEPTHWISE_CONV_2D": "Conv", "MEAN": "ReduceMean"}
    onnx = tuple(replace(k, op=renamed.get(k.op, "Gemm")) for k in small())
    assert unpriced(onnx) == ()
    assert ms(onnx, rpi4) == pytest.approx(ms(small(), rpi4))


def test_fewer_threads_are_slower_and_less_certain(rpi4: DeviceProfile) -> None:
    four, one = (price(small(), rpi4, "float32", n, LITERT) for n in (4, 1))
    assert four
    assert one
    assert one.p50_ms > 2 * four.p50_ms
    assert one.bound_ms / one.p50_ms > four.bound_ms / four.p50_ms
    assert energy_mj(small(), rpi4, "float32", 1, LITERT) is None


def test_a_board_of_the_class_is_scaled_with_a_wider_interval(rpi4: DeviceProfile) -> None:
    own = price(small(), rpi4, "float32", 4, LITERT)
    slower = price(small(), DeviceProfile.load("rpi3b-plus"), "float32", 4, LITERT)
    same_chip = price(small(), DeviceProfile.load("rpi-cm4"), "float32", 4, LITERT)
    assert own
    assert slower
    assert same_chip
    assert slower.p50_ms > own.p50_ms
    assert slower.bound_ms / slower.p50_ms > own.bound_ms / own.p50_ms
    assert "scaled to rpi3b-plus" in slower.basis
    width = own.bound_ms / own.p50_ms
    assert same_chip.bound_ms / same_chip.p50_ms == pytest.approx(width, rel=0.01)


@pytest.mark.parametrize(
    ("board", "engine"),
    [
        ("rpi4", "onnxruntime"),
        ("rpi4", "tflite-runtime"),  # only in the 32-bit system
        ("rpi5", LITERT),  # has the dot product
        ("beaglebone-black", "tflite-runtime"),
        ("n100", LITERT),
    ],
)
def test_where_nothing_was_published_there_is_no_price(board: str, engine: str) -> None:
    profile = DeviceProfile.load(board)
    assert price(small(), profile, "float32", 4, engine) is None
    assert energy_mj(small(), profile, "float32", 4, engine) is None


def test_energy_is_published_for_the_measured_board_alone(
    rpi4: DeviceProfile, networks: ModuleType
) -> None:
    kernels = networks.named("mobilenet-v1-1.0-224")
    found = energy_mj(kernels, rpi4, "float32", 4, LITERT)
    assert found
    assert found.mean_mj == pytest.approx(440.9, rel=0.1)  # the row with TFLite 2.7.1
    assert found.bound_mj > found.mean_mj
    assert "mains" in found.basis
    assert energy_mj(kernels, DeviceProfile.load("rpi3b-plus"), "float32", 4, LITERT) is None


def test_a_version_that_nobody_published_is_refused(rpi4: DeviceProfile) -> None:
    with pytest.raises(SettingsError, match=r"no published version named '2\.4'"):
        price(small(), rpi4, "float32", 4, LITERT, version="2.4")


def test_a_slower_clock_slows_what_depends_on_it(rpi4: DeviceProfile) -> None:
    clusters = tuple(msgspec.structs.replace(c, mhz=1500) for c in rpi4.cluster)
    slow = msgspec.structs.replace(rpi4, cluster=clusters)
    ratio = ms(small(64, 224), slow) / ms(small(64, 224), rpi4)
    assert 1 < ratio < 1.8 / 1.5
