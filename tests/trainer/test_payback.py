"""What a distillation cost, in seconds and joules, and when it has paid that back."""

from __future__ import annotations

import pytest

from edgedistill.payback import Meter, Payback


def test_the_cost_over_what_an_inference_saves_is_the_number_of_inferences():
    made = Payback.of(10.0, None, teacher_ms=3.0, student_ms=0.5)
    assert made.inferences == 4000
    assert made.saved_ms == 2.5
    assert "paid back after 4,000 inferences, each 2.5 ms shorter" in made.sentence
    assert made.to_json()["energy_j"] is None


@pytest.mark.parametrize("teacher_ms", [0.5, 0.4])
def test_a_student_that_is_not_faster_never_pays(teacher_ms):
    made = Payback.of(10.0, None, teacher_ms, student_ms=0.5)
    assert made.inferences is None
    assert "never paid back" in made.sentence


def test_without_the_teachers_latency_nothing_is_claimed():
    made = Payback.of(10.0, 120.0, None, student_ms=0.5)
    assert (made.saved_ms, made.inferences) == (None, None)
    assert "not known" in made.sentence
    assert "120 J" in made.sentence


@pytest.fixture
def rapl(tmp_path):
    """Two packages, a part of one, and a function that sets their counters."""

    def count(*joules):
        for place, value in enumerate(joules):
            folder = tmp_path / f"intel-rapl:{place}"
            folder.mkdir(exist_ok=True)
            (folder / "energy_uj").write_text(f"{round(value * 1e6)}\n")
            (folder / "max_energy_range_uj").write_text("999999999\n")
        (tmp_path / "intel-rapl:0:0").mkdir(exist_ok=True)  # inside of package 0

    return tmp_path, count


def test_energy_is_that_of_the_stretches_that_were_counted(rapl):
    folder, count = rapl
    count(100, 50)
    meter = Meter(folder)
    meter.start()
    count(103, 51)
    meter.stop()
    count(200, 200)
    meter.start()
    count(201, 200)
    assert meter.joules() == pytest.approx(5)


def test_a_counter_that_begins_again_is_followed(rapl):
    folder, count = rapl
    count(999, 0)
    meter = Meter(folder)
    meter.start()
    count(2, 0)
    assert meter.joules() == pytest.approx(3)


def test_where_nobody_says_energy_is_unknown_and_not_zero(tmp_path, rapl):
    assert Meter(tmp_path / "nowhere").joules() is None
    folder, count = rapl
    count(1)
    (folder / "intel-rapl:0" / "energy_uj").write_text("no permission")
    meter = Meter(folder)
    meter.start()
    assert meter.joules() is None
