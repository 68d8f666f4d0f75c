"""A process that goes on keeps its memory and descriptors; `benchmarks/soak.py` goes on longer."""

from __future__ import annotations

import pytest
from tests.runtime import small_bundles, soaking

pytestmark = pytest.mark.skipif(
    not soaking.ROLLUP.exists(), reason=f"the kernel has no {soaking.ROLLUP}"
)
LOADS, WARM_UP_LOADS = 250, 100
PREDICTIONS = 10_000
SLOPE_KIB = 2.0
"""Of a load; up to 1.2 while CPython fills its own stock of tuples, up to 2,000 of each size."""
GROWTH_KIB = 128
"""Of the second half of the predictions; up to 30 while such stocks fill."""
BUNDLES = ("images", "texts, TFLite")


@pytest.fixture(params=BUNDLES)
def path(request, tmp_path):
    if request.param not in small_bundles.names():
        pytest.skip(f"a bundle of {request.param} needs what is not installed here")
    return small_bundles.write(request.param, tmp_path / "model.edge")


def test_loading_again_and_again_keeps_memory_and_descriptors(path):
    found = soaking.soak("loads", path, LOADS)
    assert found.done[-1] == LOADS
    assert found.more_descriptors() == 0
    assert found.slope_kib(WARM_UP_LOADS) < SLOPE_KIB


def test_predicting_again_and_again_keeps_memory_and_descriptors(path):
    found = soaking.soak("predictions", path, PREDICTIONS)
    assert found.done[-1] == PREDICTIONS
    assert found.more_descriptors() == 0
    assert found.growth_kib(PREDICTIONS // 2) < GROWTH_KIB
