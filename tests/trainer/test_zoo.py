"""The networks that the cost model is judged on: whole, varied, cached, and measurable."""

from __future__ import annotations

import onnx
import pytest
from benchmarks import truth, zoo

from edgedistill.cost.graph import kernels_of
from edgedistill.cost.kernels import total_macs

SMALL = "convnet-6x1x128-separable-64-1.5-4-2-9-1"
TEXT = "static-128-8000-64-128"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def found(folder):
    return {network.id: network for network in zoo.networks((SMALL, TEXT), folder)}


def test_there_are_enough_networks_of_every_kind():
    families = {entry.family for entry in zoo.CATALOGUE}
    assert len(zoo.CATALOGUE) >= 36
    assert families >= {"mobilenet-v1", "mobilenet-v2", "mobilenet-v3", "resnet", "squeezenet"}
    assert families >= {"efficientnet", "bert", "hf-vit", "convnet", "vit", "static", "transformer"}
    assert zoo.OUT_OF_RANGE in families
    names = [entry.name for entry in zoo.CATALOGUE]
    assert len(set(names)) == len(names)


def test_each_network_comes_in_both_precisions(found):
    assert set(found) == {f"{name}-{p}" for name in (SMALL, TEXT) for p in ("float32", "int8")}
    for name in (SMALL, TEXT):
        float32, int8 = (found[f"{name}-{p}"] for p in ("float32", "int8"))
        operators = {node.op_type for node in onnx.load_from_string(int8.model).graph.node}
        assert any("Quantize" in operator for operator in operators)
        assert len(int8.model) < 0.5 * len(float32.model)
        assert float32.length == (128 if name == TEXT else 1)


def test_the_cost_model_reads_them(found):
    for network in found.values():
        assert total_macs(kernels_of(network.model, network.length)) > 0


def test_a_network_is_exported_once(folder, found, monkeypatch):
    def never(*_):
        raise AssertionError("exported again")

    monkeypatch.setattr(zoo.exporter, "export", never)
    again = {network.id: network for network in zoo.networks((SMALL, TEXT), folder)}
    assert again == found


def test_a_network_is_the_same_on_every_machine(tmp_path, found):
    (float32, _) = zoo.networks((TEXT,), tmp_path)
    assert float32.model == found[float32.id].model


def test_the_truth_is_measured(found):
    measured = truth.measure(found.values(), passes=2)
    assert [f"{row.name}-{row.precision}" for row in measured] == list(found)
    for row in measured:
        assert 0 < row.floor_ms <= row.p50_ms
        assert 30 < row.peak_mib < 500


def test_more_work_takes_longer(found):
    small = min(truth.latencies_ms(found[f"{SMALL}-float32"].model, seconds=0.02))
    none = min(truth.latencies_ms(found[f"{TEXT}-float32"].model, 128, seconds=0.02))
    assert none < small
