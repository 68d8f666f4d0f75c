"""Rates: a known law of a board is found again, with an honest bound; what is unknown costs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter

import numpy as np
import pytest
from tests.calibration_support import (
    ABOUT,
    CALL_US,
    INPUT_US,
    NODE_US,
    floor_us,
    law_us,
    measured,
)
from tests.networks import spread

from edgedistill.cost import features, fitting, latency, preprocessing, rates
from edgedistill.cost.fitting import Measured, Overheads, kernel_times_us, overheads
from edgedistill.cost.kernels import Kernel, conv, linear
from edgedistill.errors import SettingsError
from edgedistill.profiles import DeviceProfile, names
from edgedistill.students import FAMILIES

CONVNET, TRANSFORMER = FAMILIES["convnet"], FAMILIES["transformer"]
IMAGE = (3, 32, 32)


@pytest.fixture(scope="module")
def board() -> list[Measured]:
    """What a calibration would measure: our own networks, in turns of each precision."""
    rng = np.random.default_rng(0)
    found = []
    for family, shape, count in ((CONVNET, IMAGE, 60), (TRANSFORMER, (64,), 20)):
        for number, spec in enumerate(spread(family.specs(shape), count)):
            for precision in ("float32", "int8"):
                kernels = family.kernels(spec, shape, 10, precision)
                found.append(measured(f"{family.name} {number}", precision, kernels, rng))
    return [found[i] for i in rng.permutation(len(found))]


@pytest.fixture(scope="module")
def fitted(board) -> rates.Rates:
    """Fitted without the first forty networks."""
    return fitting.fit(board[40:], ABOUT, jitter={"50": 1.0, "95": 1.5, "99": 2.0})


def floor(kernels, found) -> float:
    return rates.price([kernels], found)[0].floor_us


# The fit


def test_the_profilers_share_and_the_calls_are_found(board):
    found = overheads(board)
    assert found.call_us == pytest.approx(CALL_US, rel=0.02)
    assert found.node_us == pytest.approx(NODE_US, rel=0.02)
    assert found.input_us == pytest.approx(INPUT_US, rel=0.02)


def test_kernel_times_add_up_to_the_floor(board):
    found = overheads(board)
    for network in board[:20]:
        times = kernel_times_us(network, found)
        assert times.sum() == pytest.approx(network.floor_us - found.call_us, rel=1e-6)
        assert times == pytest.approx([law_us(k) for k in network.kernels], rel=0.1)


def test_a_kernels_time_is_never_nothing():
    kernels = (Kernel("Relu", (1, 4), (1, 4)),) * 2
    times = kernel_times_us(
        Measured("a", "float32", kernels, (1, 1), 1.0, (0.0, 0.0)), Overheads(5.0, 2.0, 1.0)
    )
    assert (times > 0).all()


def test_networks_that_were_left_out_are_priced_by_the_law(board, fitted):
    out = board[:40]
    priced = rates.price([m.kernels for m in out], fitted)
    ratios = np.array([p.floor_us / floor_us(m.kernels) for p, m in zip(priced, out, strict=True)])
    assert np.abs(ratios - 1).mean() < 0.03
    assert (np.abs(ratios - 1) < 0.1).mean() > 0.9


def test_the_bound_covers_networks_that_were_left_out(board, fitted):
    out = board[:40]
    priced = rates.price([m.kernels for m in out], fitted)
    inside = [
        p.low_us <= m.floor_us <= p.bound_us
        for p, m in zip(priced, out, strict=True)
        if not p.unseen
    ]
    assert len(inside) > 30
    assert np.mean(inside) >= 0.9
    assert 1 < fitted.bound < 1.15


def test_its_quality_is_that_of_networks_left_out(board, fitted):
    counts = Counter(m.precision for m in board[40:])
    assert {p: q["networks"] for p, q in fitted.quality.items()} == counts
    for q in fitted.quality.values():
        assert 0 < q["median_error"] <= q["mean_error"] * 1.5 < 0.06
        assert q["within_10"] <= q["within_20"] <= 1


def test_noise_that_no_law_explains_widens_the_bound(board, fitted, monkeypatch):
    rng = np.random.default_rng(1)
    monkeypatch.setattr(fitting, "ROUNDS", 60)
    noisy = []
    for m in board[40:]:
        by = float(np.exp(rng.normal(0, 0.3)))
        nodes = tuple(us * by for us in m.nodes_us)
        noisy.append(dataclasses.replace(m, floor_us=m.floor_us * by, nodes_us=nodes))
    worse = fitting.fit(noisy, ABOUT, jitter={"50": 1.0})
    assert worse.bound > 1.3 > fitted.bound
    assert worse.quality["int8"]["mean_error"] > 3 * fitted.quality["int8"]["mean_error"]


def test_the_same_measurements_give_the_same_file(board, monkeypatch):
    monkeypatch.setattr(fitting, "ROUNDS", 60)
    some = board[:60]
    first, second = (fitting.fit(some, ABOUT, jitter={"50": 1.0}).to_json() for _ in range(2))
    assert first == second


def test_too_few_networks_are_refused_with_what_to_do(board):
    with pytest.raises(SettingsError, match=r"19 networks were measured twice.*--max-seconds"):
        fitting.fit(board[:19], ABOUT, jitter={"50": 1.0})


def test_rates_keep_what_the_board_said_of_itself(fitted):
    assert (fitted.engine, fitted.engine_version, fitted.threads) == ("onnxruntime", "1.32.0", 1)
    assert fitted.about == {"cpu": "made up"}


# Prices


def test_a_network_costs_its_call_and_its_kernels(board, fitted):
    (priced,) = rates.price([board[0].kernels], fitted)
    assert priced.floor_us == pytest.approx(fitted.call_us + sum(priced.kernels_us))
    assert len(priced.kernels_us) == len(board[0].kernels)
    assert min(priced.kernels_us) > 0
    assert 0 < priced.low_us < priced.floor_us < priced.bound_us


def test_networks_cost_the_same_together_and_alone(board, fitted):
    several = [m.kernels for m in board[:12]]
    together = rates.price(several, fitted)
    for kernels, each in zip(several, together, strict=True):
        (alone,) = rates.price([kernels], fitted)
        assert alone.kernels_us == pytest.approx(each.kernels_us, rel=1e-12)
        assert (alone.floor_us, alone.bound_us) == pytest.approx((each.floor_us, each.bound_us))
        assert alone.unseen == each.unseen
    assert rates.price([], fitted) == []


def test_a_network_of_no_kernels_costs_a_call(fitted):
    (priced,) = rates.price([()], fitted)
    assert priced.floor_us == fitted.call_us


def test_another_kernel_never_lowers_the_price(board, fitted):
    rng = np.random.default_rng(2)
    pool = [k for m in board[:40] for k in m.kernels]
    pool += [Kernel("Erf", (1, 64, 9, 9), (1, 64, 9, 9)), linear("Gemm", (1, 5000), 5000)]
    for m in board[:20]:
        kernels = m.kernels
        last = rates.price([kernels], fitted)[0]
        for place in rng.integers(0, len(pool), 6):
            at = int(rng.integers(0, len(kernels) + 1))
            kernels = (*kernels[:at], pool[place], *kernels[at:])
            now = rates.price([kernels], fitted)[0]
            assert now.floor_us > last.floor_us
            assert now.bound_us > last.bound_us
            last = now


def test_more_in_the_cache_never_makes_a_kernel_faster(board, fitted):
    sets = np.array([2.0**n for n in range(8, 28)])
    for m in board[:20]:
        for kernel in m.kernels:
            known = fitted.classes[features.kernel_class(kernel)]
            x = np.array([features.sizes(kernel)] * len(sets))
            times = rates.class_times_us(x, sets, known, fitted.boosters)
            assert (np.diff(times) >= 0).all()


def test_a_working_set_grows_with_every_kernel(board):
    for m in board[:20]:
        sets = [features.working_set(m.kernels[:n]) for n in range(1, len(m.kernels) + 1)]
        assert sets == sorted(sets)


@pytest.mark.parametrize(
    "kernel",
    [
        Kernel("Erf", (1, 96, 14, 14), (1, 96, 14, 14)),
        Kernel("ConvTranspose", (1, 8, 9, 9), (1, 8, 18, 18), weights=576, macs=46656),
        Kernel("EyeLike", (), ()),
        Kernel("NonZero", (0,), (0,)),
    ],
)
def test_a_class_never_measured_costs_and_is_named_and_doubted(board, fitted, kernel):
    kernels = (*board[0].kernels, kernel)
    known, priced = (rates.price([k], fitted)[0] for k in (board[0].kernels, kernels))
    assert features.kernel_class(kernel) not in fitted.classes
    assert priced.unseen == (*known.unseen, features.kernel_class(kernel))
    own = priced.kernels_us[-1]
    assert own > 0
    seen = priced.floor_us - own
    # the measured part is as wide as before; the unseen kernel is off by so much to either side
    assert priced.bound_us == pytest.approx((seen + own * rates.UNSEEN_FACTOR) * fitted.bound)
    assert priced.low_us == pytest.approx((seen + own / rates.UNSEEN_FACTOR) / fitted.bound)


@pytest.mark.parametrize("kernel", [conv("FusedConv", (3, 2048, 2048), 64, 3, 1, False)])
def test_a_size_far_outside_of_what_was_measured_is_doubted(board, fitted, kernel):
    (priced,) = rates.price([(kernel,)], fitted)
    assert priced.unseen == ("float32 dense convolution",)
    assert priced.bound_us > 2 * fitted.bound * priced.floor_us
    assert priced.low_us < priced.floor_us / fitted.bound / 2


def test_doubt_grows_with_the_distance(fitted):
    sides = (32, 64, 256, 1024, 4096)
    widths = []
    for side in sides:
        (p,) = rates.price([(conv("FusedConv", (3, side, side), 16, 3, 1, False),)], fitted)
        widths.append(p.bound_us / p.low_us)
    assert widths == sorted(widths)
    assert widths[0] == pytest.approx(fitted.bound**2)
    assert widths[-1] > 10 * widths[0]


# The uncalibrated estimate, which has no measured kinks: more never costs less


@pytest.mark.parametrize("profile", [name for name in names() if name != "host"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_wider_convolution_never_lowers_the_estimate(profile, precision):
    device = DeviceProfile.load(profile)
    op = "FusedConv" if precision == "float32" else "QLinearConv"
    last = 0.0
    for width in (8, 16, 32, 64, 128, 256):
        network = (
            conv(op, (3, 32, 32), width, 3, 2, False),
            conv(op, (width, 16, 16), width, 3, 1, True),
            conv(op, (width, 16, 16), 2 * width, 1, 1, False),
        )
        now = latency.estimate(network, device, precision, 1)
        assert now.p50_ms > last
        last = now.p50_ms


# The file


@pytest.fixture
def written(fitted, tmp_path):
    """Write rates, changed: path and digest."""

    def write(**changes):
        table = json.loads(fitted.to_json())
        for key, value in changes.items():
            if value is None:
                del table[key]
            else:
                table[key] = value
        path = tmp_path / "rates.json"
        data = json.dumps(table).encode()
        path.write_bytes(data)
        return path, hashlib.sha256(data).hexdigest()

    return write


def test_rates_survive_the_file(fitted, tmp_path, board):
    data = fitted.to_json()
    (tmp_path / "rates.json").write_bytes(data)
    again = rates.load(tmp_path / "rates.json", rates.digest(data))
    assert again == fitted
    assert again.to_json() == data
    several = [m.kernels for m in board[:10]]
    assert rates.price(several, again) == rates.price(several, fitted)


def test_rates_that_are_not_the_named_ones_are_refused(written):
    path, sha256 = written()
    path.write_bytes(path.read_bytes().replace(b"1.32.0", b"1.32.1"))
    with pytest.raises(SettingsError, match="not the rates that the profile names"):
        rates.load(path, sha256)
    path.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        rates.load(path, sha256)


def one_class(**changes):
    row = {
        "coefficients": [1, 1, 1, 1, 1],
        "least": [0] * 14,
        "most": [9] * 14,
        "kernels": 3,
    }
    return {"classes": {"Relu": row | changes}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 2}, "rates of format 2"),
        ({"colour": "blue"}, "unknown field `colour`"),
        ({"threads": 0}, "threads"),
        ({"engine": None}, "engine"),
        ({"call_us": -1}, "call_us"),
        ({"predict_us": "3"}, "predict_us"),
        ({"bound": 0.5}, "bound"),
        ({"jitter": {"95": 2.0}}, "lacks the jitter of p50"),
        ({"jitter": {"50": 0.5}}, "jitter"),
        ({"cold_start_ms": [1, 2]}, "cold_start_ms has 2 numbers"),
        ({"cold_start_ms": [1, 2, -3]}, "cold_start_ms"),
        ({"steps": {"resize": [1, 2]}}, "steps"),
        ({"classes": {}}, "classes"),
        (one_class(coefficients=[1, 1, 1, 1]), "coefficients"),
        (one_class(coefficients=[1, 1, 1, 1, -1]), "coefficients"),
        (one_class(least=[0] * 13), "least"),
        (one_class(most=[9] * 15), "most"),
        (one_class(kernels=0), "kernels"),
        (one_class(kernel=3), "unknown field `kernel`"),
        (one_class(trees="others of old"), "lacks the trees 'others of old'"),
        ({"trees": {"others": "an oak"}}, "trees"),
    ],
)
def test_rates_with_a_bad_field_are_refused_in_one_sentence(written, capfd, changes, sentence):
    with pytest.raises(SettingsError) as refused:
        rates.load(*written(**changes))
    assert sentence in str(refused.value)
    assert str(refused.value).count("\n") == 0
    assert capfd.readouterr().out == ""  # stdout is for results


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"format": NaN}'])
def test_a_file_that_holds_no_rates_is_refused(tmp_path, data):
    path = tmp_path / "rates.json"
    path.write_bytes(data)
    with pytest.raises(SettingsError, match="no rates"):
        rates.load(path, rates.digest(data))


# Preprocessing

IMAGES = [(8, 8, 3), (48, 48, 3), (160, 160, 3)]
NORMALIZE = {"op": "normalize", "scale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}
MEL = {"op": "log_mel", "frame": 512, "step": 160, "bands": 40}


def resize(side):
    return {"op": "resize", "height": side, "width": side}


def test_the_law_of_a_step_is_found():
    rows = [(NORMALIZE, shape, 0, 3 + 2e-3 * math.prod(shape)) for shape in IMAGES]
    rows += [
        (resize(side), (h, w, 3), 0, 20 + 1e-3 * h * w * 3 + 4e-2 * side * side * 3)
        for h, w in ((48, 64), (240, 320), (480, 640))
        for side in (32, 96, 224)
    ]
    rows += [({"op": "tokenize"}, (), count, 8 + 0.5 * count) for count in (10, 40, 160)]
    found = preprocessing.fit(rows)
    assert found["normalize"][:2] == pytest.approx((3, 2e-3), rel=0.01)
    assert found["resize"] == pytest.approx((20, 1e-3, 4e-2), rel=0.01)
    assert found["tokenize"][:2] == pytest.approx((8, 0.5), rel=0.01)
    # of a whole chain, each step on what the one before it made
    steps = [resize(100), NORMALIZE]
    wanted = 20 + 1e-3 * 300 * 400 * 3 + 4e-2 * 30_000 + 3 + 2e-3 * 30_000
    assert preprocessing.time_us(steps, (300, 400, 3), 0, found) == pytest.approx(wanted, rel=0.01)
    assert preprocessing.time_us([{"op": "tokenize"}], (), 100, found) == pytest.approx(
        58, rel=0.01
    )


def test_a_spectrogram_costs_by_its_frames():
    def us(samples):
        frames = 1 + (samples - 512) // 160
        return 50 + 2e-5 * frames * 256 * 514 + 0.1 * frames * 40

    found = preprocessing.fit((MEL, (n,), 0, us(n)) for n in (4000, 16_000, 32_000))
    assert preprocessing.time_us([MEL], (24_000,), 0, found) == pytest.approx(us(24_000), rel=0.02)


def test_steps_never_cost_less_than_nothing_nor_less_for_more():
    rng = np.random.default_rng(3)
    found = preprocessing.fit((NORMALIZE, s, 0, float(rng.uniform(1, 9))) for s in IMAGES)
    assert min(found["normalize"]) >= 0
    times = [preprocessing.time_us([NORMALIZE], s, 0, found) for s in IMAGES]
    assert 0 < times[0] <= times[1] <= times[2]


def test_an_image_of_any_size_is_taken_to_be_a_cameras():
    rates_of_resize = {"resize": (10.0, 1e-3, 0.0)}
    any_size = preprocessing.time_us([resize(32)], (-1, -1, 3), 0, rates_of_resize)
    assert any_size == pytest.approx(10 + 1e-3 * 480 * 640 * 3)


def test_a_crop_counts_as_what_is_like_it():
    crop = {"op": "crop", "height": 32, "width": 32}
    assert preprocessing.time_us([crop], (64, 64, 3), 0, {"resize": (10.0, 0.0, 0.0)}) == 10
