"""Intermediate outputs: found in every kind of network, paired by a rule, compared by losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests import teachers_support
from tests.training_support import BAG, ENCODER
from torch import nn

from edgedistill import losses, teachers
from edgedistill.distill.features import (
    FEATURES,
    Attention,
    Feature,
    Layout,
    Pair,
    Recorder,
    WithFeatures,
    difference,
    layout,
    pairs,
    paths,
)
from edgedistill.errors import SettingsError
from edgedistill.students.convnet import ConvNet, ConvNetSpec
from edgedistill.students.source import uniform_layers
from edgedistill.students.static import Static
from edgedistill.students.transformer import Transformer
from edgedistill.teachers import auto_convolutional_teacher

IDS = torch.tensor([[5, 7, 9, 4], [6, 8, 0, 0]])
MASK = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]])
TEXT = (IDS, MASK)
SMALL = ConvNetSpec("separable", 8, 2.0, 2, 1, 3)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """The network of a tiny teacher, by kind."""
    folder = tmp_path_factory.mktemp("teachers")

    def load(kind):
        path = folder / kind
        image = kind in teachers_support.IMAGE_KINDS
        if not path.exists():
            make = teachers_support.image_teacher if image else teachers_support.text_teacher
            make(path, kind)
        task = "image-classification" if image else "text-classification"
        norm = ([0.5], [0.2]) if image else None
        names = teachers_support.NAMES
        return teachers.load(str(path), task, 3, names, max_length=24, norm=norm).network

    return load


def student(family, spec, shape):
    torch.manual_seed(0)
    return family.build(spec, shape, 3).eval()


def encoder():
    return student(Transformer(), ENCODER, (12,))


# Where they are


@pytest.mark.parametrize("kind", teachers_support.TEXT_KINDS)
def test_the_layers_of_text_teachers_are_found(load, kind):
    network = load(kind)
    found = layout(network, TEXT)
    modules = dict(network.named_modules())
    assert found.embeddings in modules
    assert len(found.hidden) == len(found.attention) == 3
    assert [path.rpartition(".")[2] for path in found.hidden] == ["0", "1", "2"]
    for each, layer in zip(found.attention, found.hidden, strict=True):
        assert each.heads == 4
        for path in (each.query, each.key, each.value):
            assert path.startswith(f"{layer}.")
            assert modules[path].out_features == 32
    outputs = record(network, {found.embeddings, *found.hidden}, TEXT)
    assert {tuple(x.shape) for x in outputs.values()} == {(2, 4, 32)}


def test_the_layers_of_a_vision_transformer_are_found(load):
    network = load("vit")
    images = (torch.rand(2, 1, 8, 8),)
    found = layout(network, images)
    assert len(found.hidden) == len(found.attention) == 3
    assert found.attention[0].heads == 4
    outputs = record(network, {found.embeddings, *found.hidden}, images)
    assert {tuple(x.shape) for x in outputs.values()} == {(2, 17, 32)}


@pytest.mark.parametrize("kind", ["resnet", "convnext", "auto", "student"])
def test_of_a_convolutional_network_the_last_map_of_each_size_is_found(load, kind):
    images = (torch.rand(2, 1, 8, 8),)
    network = {
        "auto": lambda: auto_convolutional_teacher((1, 8, 8), 3),
        "student": lambda: student(ConvNet(), SMALL, (1, 8, 8)),
    }.get(kind, lambda: load(kind))().train()
    found = layout(network, images)
    assert network.training
    assert (found.embeddings, found.attention) == (None, ())
    outputs = record(network.eval(), set(found.hidden), images)
    sizes = [tuple(outputs[path].shape[2:]) for path in found.hidden]
    assert len(set(sizes)) == len(sizes) >= 2
    assert sizes == sorted(sizes, reverse=True)
    assert min(map(max, sizes)) > 1
    assert not [m for m in network.modules() if m._forward_hooks]


def test_the_layers_of_the_own_encoder_are_found_and_a_bag_has_none():
    found = layout(encoder(), TEXT)
    assert found.embeddings == "embeddings"
    assert found.hidden == ("layers.0", "layers.1")
    assert found.attention[1] == Attention(
        *(f"layers.1.attention.{name}" for name in ("query", "key", "value")), 2
    )
    assert layout(student(Static(), BAG, (12,)), TEXT) == Layout(None, (), ())


def record(network, wanted, inputs):
    recorder = Recorder(network, wanted)
    with torch.no_grad():
        network(*inputs)
    recorder.detach()
    return recorder.outputs


@pytest.mark.parametrize("kind", teachers_support.TEXT_KINDS)
def test_attention_scores_are_those_that_the_network_computes(load, kind):
    network = load(kind)
    network.model.set_attn_implementation("eager")
    found = layout(network, TEXT)
    features = [Feature((a.query, a.key), a.heads) for a in found.attention]
    outputs = record(network, {p for f in features for p in f.paths}, TEXT)
    with torch.no_grad():
        answer = network.model(
            input_ids=IDS, attention_mask=MASK.long(), output_attentions=True
        ).attentions
    for feature, weights in zip(features, answer, strict=True):
        scores = feature.of(outputs)
        masked = scores.masked_fill(MASK[:, None, None, :] == 0, -math.inf)
        torch.testing.assert_close(masked.softmax(-1), weights, rtol=1e-4, atol=1e-5)


# Which belong together


@pytest.mark.parametrize(
    ("count", "of", "chosen"),
    [
        (2, 6, (2, 5)),
        (3, 12, (3, 7, 11)),
        (4, 6, (1, 2, 4, 5)),
        (1, 4, (3,)),
        (3, 3, (0, 1, 2)),
        (3, 4, (1, 2, 3)),
        (4, 2, (0, 0, 1, 1)),
    ],
)
def test_layers_are_mapped_uniformly_the_last_to_the_last(count, of, chosen):
    assert uniform_layers(count, of) == chosen


def transformer(layers, width="x"):
    attention = tuple(
        Attention(f"{width}{i}.q", f"{width}{i}.k", f"{width}{i}.v", 2) for i in range(layers)
    )
    return Layout("embeddings", tuple(f"{width}{i}" for i in range(layers)), attention)


def test_hidden_states_and_attention_follow_the_uniform_rule():
    made = pairs({"hint": 1.0, "attention": 3.0}, transformer(2, "s"), transformer(6, "t"), {}, {})
    assert [(p.loss, p.student.key, p.teacher.key) for p in made] == [
        ("hint", "s0", "t2"),
        ("hint", "s1", "t5"),
        ("attention", "s0.q+s0.k", "t2.q+t2.k"),
        ("attention", "s1.q+s1.k", "t5.q+t5.k"),
    ]
    assert [p.weight for p in made] == [0.5, 0.5, 1.5, 1.5]
    assert all(p.student.heads == 2 for p in made if p.loss == "attention")


def test_relations_are_those_of_the_last_layers_queries_keys_and_values():
    made = pairs({"relation": 3.0}, transformer(2, "s"), transformer(6, "t"), {}, {})
    assert [(p.student.key, p.teacher.key) for p in made] == [
        ("s1.q", "t5.q"),
        ("s1.k", "t5.k"),
        ("s1.v", "t5.v"),
    ]
    assert [p.weight for p in made] == [1.0] * 3


def test_embeddings_are_one_pair():
    (made,) = pairs({"embeddings": 2.0}, transformer(2), transformer(6), {}, {})
    assert (made.student.key, made.teacher.key, made.weight) == ("embeddings", "embeddings", 2.0)


def test_maps_of_convolutional_networks_follow_the_same_rule():
    small, large = Layout(None, ("a", "b"), ()), Layout(None, ("x", "y", "z"), ())
    made = pairs({"hint": 1.0, "attention": 1.0, "relation": 1.0}, small, large, {}, {})
    assert [(p.loss, p.student.key, p.teacher.key) for p in made] == [
        ("hint", "a", "y"),
        ("hint", "b", "z"),
        ("attention", "a", "y"),
        ("attention", "b", "z"),
        ("relation", "b", "z"),
    ]


def test_hints_between_layers_named_by_hand_take_the_rules_place():
    made = pairs({"hint": 1.0}, transformer(2, "s"), transformer(6, "t"), {"s0": "t0"}, {})
    assert [(p.student.key, p.teacher.key) for p in made] == [("s0", "t0")]


@pytest.mark.parametrize("loss", FEATURES)
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_network_without_what_a_loss_needs_is_named(loss, who):
    nothing = Layout(None, (), ())
    two = (nothing, transformer(2)) if who == "student" else (transformer(2), nothing)
    with pytest.raises(SettingsError) as caught:
        pairs({loss: 1.0}, *two, {}, {})
    assert str(caught.value).startswith(f"the {who} has no layers for the loss {loss!r}")


def test_a_loss_that_is_not_known_is_told_with_the_nearest():
    with pytest.raises(
        SettingsError, match="no loss on features named 'hints'; did you mean 'hint'"
    ):
        pairs({"hints": 1.0}, transformer(2), transformer(2), {}, {})


def test_a_path_that_a_network_does_not_have_is_told_with_the_nearest():
    with pytest.raises(SettingsError, match=r"no module path named 'layer\.0'; did you mean 'lay"):
        Recorder(encoder(), {"layer.0"})


# The student with its regressors


def with_features(module, teacher, wanted, inputs, by_hand=None):
    made = pairs(wanted, layout(module, inputs), layout(teacher, inputs), by_hand or {}, {})
    mine, theirs = (
        record(network, paths(made, who), inputs)
        for network, who in ((module, "student"), (teacher, "teacher"))
    )
    features = {p.teacher.key: p.teacher.of(theirs) for p in made}
    return made, WithFeatures(module, made, mine, features), features


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_student_gives_its_features_as_wide_as_the_teachers(load, kind):
    if kind == "text":
        module, teacher, inputs = encoder(), load("bert"), TEXT
        wanted = {"embeddings": 1.0, "hint": 1.0, "attention": 1.0, "relation": 1.0}
    else:
        inputs = (torch.rand(2, 1, 8, 8),)
        module, teacher = (
            student(ConvNet(), SMALL, (1, 8, 8)),
            auto_convolutional_teacher((1, 8, 8), 3),
        )
        teacher.eval()
        wanted = {"hint": 1.0, "attention": 1.0, "relation": 1.0}
    made, network, theirs = with_features(module, teacher, wanted, inputs)
    expected = module(*inputs)
    logits, features = network(*inputs)
    torch.testing.assert_close(logits, expected)
    mask = inputs[1] if kind == "text" else None
    for pair, mine in zip(made, features, strict=True):
        assert mine.ndim == theirs[pair.teacher.key].ndim
        if pair.loss in ("hint", "embeddings"):
            axis = 1 if mine.ndim == 4 else 2
            assert mine.shape[axis] == theirs[pair.teacher.key].shape[axis]
        value = difference(pair, mine, theirs[pair.teacher.key], mask, {})
        assert value.ndim == 0
        assert value > 0
    total = sum(
        difference(pair, mine, theirs[pair.teacher.key], mask, {})
        for pair, mine in zip(made, features, strict=True)
    )
    (total + 0 * logits.sum()).backward()
    trained = [p for p in network.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any(p is q for p in trained for q in network.regressors.parameters())
    assert any(p is q for p in trained for q in module.parameters())


def test_where_widths_agree_there_is_no_regressor_and_a_copy_differs_by_nothing():
    module, teacher = encoder(), encoder()
    wanted = {"embeddings": 1.0, "hint": 1.0, "attention": 1.0, "relation": 1.0}
    made, network, theirs = with_features(module, teacher, wanted, TEXT)
    assert len(network.regressors) == 0
    _, features = network(*TEXT)
    for pair, mine in zip(made, features, strict=True):
        value = difference(pair, mine, theirs[pair.teacher.key], MASK, {})
        assert value.item() == pytest.approx(0, abs=1e-6)


def test_layers_of_different_kinds_cannot_be_hints(load):
    inputs = (torch.rand(2, 1, 8, 8),)
    module, teacher = student(ConvNet(), SMALL, (1, 8, 8)), load("vit")
    with pytest.raises(SettingsError, match="a hint needs layers of the same kind"):
        with_features(module, teacher, {"hint": 1.0}, inputs)


# How they differ


def pair(loss, heads=0):
    return Pair(loss, 1.0, Feature(("s",), heads), Feature(("t",), heads))


def test_each_kind_is_held_against_the_loss_of_its_name():
    torch.manual_seed(1)
    s, t = torch.randn(2, 2, 4, 16)
    assert difference(pair("hint"), s, t, MASK, {}) == losses.hint(s, t, MASK)
    assert difference(pair("embeddings"), s, t, MASK, {}) == losses.hint(s, t, MASK)
    wide = torch.randn(2, 4, 32)
    assert difference(pair("relation"), s, wide, MASK, {}) == losses.relation(s, wide, MASK, 8)
    odd, even = torch.randn(2, 4, 6), torch.randn(2, 4, 9)
    assert difference(pair("relation"), odd, even, MASK, {}) == losses.relation(odd, even, MASK, 1)
    s, t = torch.randn(2, 2, 3, 4, 4)
    assert difference(pair("attention", 3), s, t, MASK, {}) == losses.attention(s, t, MASK)


def test_maps_of_different_sizes_are_pooled_to_the_smaller():
    torch.manual_seed(1)
    s, t = torch.randn(2, 5, 8, 8), torch.randn(2, 5, 4, 4)
    small = nn.functional.avg_pool2d(s, 2)
    torch.testing.assert_close(difference(pair("hint"), s, t, None, {}), losses.hint(small, t))
    torch.testing.assert_close(difference(pair("hint"), t, s, None, {}), losses.hint(t, small))
    assert difference(pair("attention"), s, t, None, {}) == losses.attention_maps(s, t)
    tokens, others = (x.flatten(2).transpose(1, 2) for x in (small, t))
    torch.testing.assert_close(
        difference(pair("relation"), s, t, None, {}), losses.relation(tokens, others, heads=1)
    )


def test_one_vector_a_text_is_compared_without_the_tokens_mask():
    s, t = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 2, 16)))
    assert difference(pair("hint"), s, t, MASK, {}) == losses.hint(s, t)


def test_a_loss_of_ones_own_gets_both_features():
    s, t = torch.ones(2, 4, 8), torch.zeros(2, 4, 8)
    own = {"mine": lambda a, b: (a - b).sum()}
    assert difference(pair("mine"), s, t, MASK, own) == 64
