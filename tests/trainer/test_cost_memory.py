"""Peak memory from kernels: what it is made of, and how a board's own rates are found."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from benchmarks.truth import peak_mib
from tests.networks import exported, spread

from edgedistill.cost import memory
from edgedistill.cost.graph import kernels_of
from edgedistill.cost.kernels import Kernel, conv, gather, linear
from edgedistill.cost.memory import DEFAULT, ENGINE, MemoryRates
from edgedistill.errors import SettingsError
from edgedistill.students import FAMILIES

PHOTO, CLASSES = (3, 96, 96), 10
TEXTS = (32,)
BOARD = MemoryRates(
    base_mib=38.0,
    unread_mib=6.0,
    kernel_mib=0.02,
    quantized_kernel_mib=0.05,
    stored=2.1,
    gemm=0.4,
    gemm_large=0.4,
    matmul=0.3,
    quantized=1.2,
    dynamic=0.6,
    activation=1.6,
    quantized_activation=1.2,
)
"""Of a board whose engine is smaller and copies other things."""


def networks(count, seed):
    """Kernels with their precision, from all families."""
    drawn = random.Random(seed)
    for family in FAMILIES:
        shape = PHOTO if family in ("convnet", "vit") else TEXTS
        specs = list(FAMILIES[family].specs(shape))
        for precision in ("float32", "int8"):
            for spec in drawn.sample(specs, count):
                yield FAMILIES[family].kernels(spec, shape, CLASSES, precision), precision


def measured(count, seed, rates=BOARD, noise_mib=0.0):
    drawn = random.Random(seed)
    return [
        (
            kernels,
            precision,
            memory.network_mib(kernels, precision, rates) + drawn.uniform(-noise_mib, noise_mib),
        )
        for kernels, precision in networks(count, seed)
    ]


def share_within(rates, rows):
    errors = [
        abs(memory.network_mib(kernels, precision, rates) - peak) / max(3, 0.05 * peak)
        for kernels, precision, peak in rows
    ]
    return sum(error <= 1 for error in errors) / len(errors)


# What a network takes


def test_the_largest_network_of_none_takes_the_base():
    assert memory.network_mib((), "float32", ENGINE) == pytest.approx(ENGINE.base_mib)
    assert DEFAULT.base_mib > ENGINE.base_mib  # the runtime has modules of its own


def test_a_text_models_process_holds_its_tokenizer_too():
    text = (gather(32, 8000, 64), linear("Gemm", (1, 64), 5))
    image = (linear("Gemm", (1, 64), 5),)
    extra = memory.peak_ram_mib(text, "float32") - memory.network_mib(text, "float32", DEFAULT)
    assert extra == pytest.approx(memory.TOKENIZER_MIB + 8000 * memory.TOKENIZER_ENTRY_MIB)
    alone = memory.network_mib(image, "float32", DEFAULT)
    assert memory.peak_ram_mib(image, "float32") == alone


def test_a_file_is_in_memory_three_times_while_it_is_read():
    sizes = (1000, 2000)
    tables = [(gather(8, rows * 64, 512),) for rows in sizes]
    small, large = (memory.network_mib(table, "float32", ENGINE) for table in tables)
    more_mib = 4 * 512 * 64 * (sizes[1] - sizes[0]) / 2**20
    assert large - small == pytest.approx(3 * more_mib, rel=0.01)


def test_large_activations_count_and_those_of_uint8_a_quarter():
    float32 = (Kernel("MaxPool", (1, 64, 224, 224), (1, 64, 112, 112)),)
    uint8 = (replace(float32[0], element_bytes=1),)
    base = memory.network_mib((), "float32", ENGINE)
    first, second = (memory.network_mib(k, "float32", ENGINE) - base for k in (float32, uint8))
    assert first == pytest.approx(4 * second, rel=0.01)
    assert first > 12  # 15.3 MiB at once


def test_a_quantized_convolution_also_holds_its_sums():
    """Of int32, which are larger than what it reads and writes."""
    image = (8, 112, 112)
    convolution = conv("QLinearConv", image, 64, 3, 1, False)
    moved = (8 + 64) * 112 * 112 / 2**20
    rates = replace(ENGINE, base_mib=0, unread_mib=0, kernel_mib=0, quantized_activation=1.0)
    assert memory.network_mib((convolution,), "int8", rates) > 4 * moved


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(("family", "shape"), [("convnet", PHOTO), ("transformer", TEXTS)])
def test_a_fresh_process_grows_by_what_is_said(family, shape, precision):
    """Against the smallest: how large an empty process is differs between machines."""
    specs = sorted(
        spread(FAMILIES[family].specs(shape), 8),
        key=lambda spec: memory.network_mib(
            FAMILIES[family].kernels(spec, shape, CLASSES, precision), precision, ENGINE
        ),
    )
    told, found = [], []
    for spec in (specs[0], specs[-1]):
        model = exported(family, spec, shape, CLASSES, precision)
        told.append(memory.network_mib(kernels_of(model, shape[0]), precision, ENGINE))
        found.append(peak_mib(model, shape[0]))
    allowed = max(3.0, 0.05 * found[1])
    assert told[1] - told[0] == pytest.approx(found[1] - found[0], abs=allowed)


# A board's own rates


def test_a_board_is_told_from_a_few_networks_that_ran_on_it():
    """40 networks, with the noise of an allocator; judged on others."""
    rates = memory.fit(measured(5, seed=1, noise_mib=1.0))
    judged = measured(25, seed=2)
    assert share_within(DEFAULT, judged) < 0.2  # another engine, in a larger process
    assert share_within(rates, judged) >= 0.95
    assert rates.base_mib == pytest.approx(BOARD.base_mib, abs=2)


def test_one_process_that_grew_for_another_reason_changes_little():
    rows = measured(5, seed=1)
    kernels, precision, peak = rows[3]
    spoilt = [*rows[:3], (kernels, precision, peak + 60), *rows[4:]]
    assert share_within(memory.fit(spoilt), measured(25, seed=2)) >= 0.9


def test_what_no_network_had_keeps_its_built_in_rate():
    convolutions = [row for row in measured(30, seed=3) if any("Conv" in k.op for k in row[0])]
    floats = [row for row in convolutions if row[1] == "float32"]
    rates = memory.fit(floats)
    assert rates.quantized == pytest.approx(DEFAULT.quantized)
    assert rates.dynamic == pytest.approx(DEFAULT.dynamic)


def test_rates_are_never_negative():
    rows = [(kernels, precision, 50.0) for kernels, precision, _ in measured(5, seed=1)]
    assert min(memory.fit(rows).to_dict().values()) >= 0


def test_too_few_networks_are_refused():
    with pytest.raises(SettingsError, match=r"measured on 8 networks; a fit needs 12"):
        memory.fit(measured(1, seed=1))


def test_networks_of_one_size_are_refused():
    rows = measured(1, seed=1)[:1] * 12
    with pytest.raises(SettingsError, match="at least 1 MiB apart"):
        memory.fit(rows)


@pytest.mark.parametrize("peak", [0.0, -1.0, math.nan, math.inf])
def test_a_peak_that_no_process_has_is_refused(peak):
    rows = measured(5, seed=1)
    rows[7] = (*rows[7][:2], peak)
    with pytest.raises(SettingsError, match="which no process has"):
        memory.fit(rows)


def test_rates_come_back_from_json():
    assert MemoryRates.of(json.loads(json.dumps(BOARD.to_dict()))) == BOARD


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stored": -1.0}, "'stored' is -1.0"),
        ({"stored": math.nan}, "'stored' is nan"),
        ({"stored": "2"}, "'stored' is '2'"),
        ({"stored": None}, "'stored' is missing"),
        ({"stord": 1.0}, "did you mean 'stored'"),
    ],
)
def test_rates_that_cannot_be_are_refused(change, told):
    with pytest.raises(SettingsError, match=told):
        MemoryRates.of(BOARD.to_dict() | change)
