"""The text families: what they are, and what they take over from a teacher."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from edgedistill.errors import SettingsError
from edgedistill.students import FAMILIES, Source, family
from edgedistill.students.source import uniform_layers
from edgedistill.students.static import StaticSpec
from edgedistill.students.transformer import MAX_TOKENS, TransformerSpec

VOCABULARY, CLASSES, TOKENS = 90, 3, (16,)
PAD, FIRST, LAST, WORDS = 1, 2, 3, 4
WIDTH, LAYERS, HEADS, UNITS = 64, 4, 2, 128
SPECS = {
    "static": StaticSpec(VOCABULARY, dim=16, hidden=64),
    "transformer": TransformerSpec(VOCABULARY, 32, layers=2, hidden=64, heads=2, ffn=128),
}
EQUAL = TransformerSpec(VOCABULARY, WIDTH, LAYERS, WIDTH, HEADS, UNITS)


def batch(seed: int, rows: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of different lengths between two special tokens, padded."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(WORDS, VOCABULARY, (rows, TOKENS[0]))
    lengths = generator.integers(4, TOKENS[0] + 1, rows)
    mask = np.arange(TOKENS[0]) < lengths[:, None]
    ids[:, 0] = FIRST
    ids[np.arange(rows), lengths - 1] = LAST
    ids[~mask] = PAD
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.float32))


def batches():
    return (batch(seed) for seed in range(4))


def perturbed(network: nn.Module) -> nn.Module:
    """Nothing in it is zero, one, or like anything else."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def bert_config(**changes):
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": UNITS,
        "max_position_embeddings": 40,
        "pad_token_id": PAD,
    }
    return BertConfig(**(sizes | changes))


def bare_bert(**changes):
    torch.manual_seed(0)
    return perturbed(BertModel(bert_config(**changes)))


def bert():
    torch.manual_seed(0)
    return perturbed(BertForSequenceClassification(bert_config()))


def roberta():
    torch.manual_seed(0)
    config = RobertaConfig(**(bert_config().to_dict() | {"model_type": "roberta"}))
    return perturbed(RobertaForSequenceClassification(config))


def distilbert():
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=WIDTH,
        n_layers=LAYERS,
        n_heads=HEADS,
        hidden_dim=UNITS,
        max_position_embeddings=40,
        pad_token_id=PAD,
    )
    return perturbed(DistilBertForSequenceClassification(config))


TEACHERS = [bare_bert, bert, roberta, distilbert]


def untrained(name: str, spec) -> nn.Module:
    torch.manual_seed(1)
    return FAMILIES[name].build(spec, TOKENS, CLASSES).eval()


def source(teacher, token_ids=None):
    everything = np.arange(VOCABULARY)
    return Source(teacher, everything if token_ids is None else token_ids, batches)


def adopted(teacher, spec, token_ids=None) -> tuple[nn.Module, str]:
    name = "static" if isinstance(spec, StaticSpec) else "transformer"
    student = untrained(name, spec)
    return student, FAMILIES[name].adopt(student, spec, source(teacher, token_ids))


def hidden_states(student: nn.Module, ids, mask) -> list[torch.Tensor]:
    """Found as any stage of distillation finds them: by hooks on the named parts."""
    found = []
    parts = [student.embeddings, *student.layers]
    hooks = [p.register_forward_hook(lambda _m, _i, output: found.append(output)) for p in parts]
    with torch.no_grad():
        student(ids, mask)
    for hook in hooks:
        hook.remove()
    return found


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# The networks


@pytest.mark.parametrize("name", SPECS)
def test_padding_changes_nothing(name):
    student = untrained(name, SPECS[name])
    ids, mask = batch(0)
    with torch.no_grad():
        padded = student(ids, mask)
        alone = [student(row[None, : int(m.sum())]) for row, m in zip(ids, mask, strict=True)]
    assert padded.shape == (len(ids), CLASSES)
    torch.testing.assert_close(padded, torch.cat(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SPECS)
def test_a_student_can_be_trained(name):
    student = untrained(name, SPECS[name]).train()
    ids, mask = batch(0)
    student(ids, mask).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_a_weight_of_zero_makes_a_token_count_for_nothing_in_the_folded_form_too():
    student = untrained("static", SPECS["static"])
    with torch.no_grad():
        student.weights.weight.uniform_(0, 2)
        student.weights.weight[7] = 0
        ids = torch.tensor([[5, 7, 6]])
        assert torch.allclose(student(ids), student(torch.tensor([[7, 6, 5]])))
        torch.testing.assert_close(student.folded()(ids), student(ids))
        student.tokens.weight[7] += 1
        torch.testing.assert_close(student.folded()(ids), student(ids))


def test_a_text_may_have_as_many_tokens_as_there_are_positions():
    student = untrained("transformer", SPECS["transformer"])
    with torch.no_grad():
        assert student(torch.full((1, MAX_TOKENS), 5)).isfinite().all()


def test_parts_have_the_names_that_distillation_looks_for():
    student = untrained("transformer", SPECS["transformer"])
    ids, mask = batch(0)
    for states in hidden_states(student, ids, mask):
        assert states.shape == (*ids.shape, 64)
    for layer in student.layers:
        assert layer.attention.num_heads == 2
        for part in ("query", "key", "value"):
            assert isinstance(getattr(layer.attention, part), nn.Linear)


@pytest.mark.parametrize("name", SPECS)
def test_a_larger_spec_has_no_less_capacity(name):
    made, specs = FAMILIES[name], list(FAMILIES[name].specs(TOKENS))
    assert all(made.capacity(spec) > 0 for spec in specs)
    least, most = (pick(specs, key=made.capacity) for pick in (min, max))
    assert least == specs[0]
    assert (least.vocabulary, most.vocabulary) == (1000, 4000)  # the first of those that are equal


def test_planning_needs_no_torch():
    code = (
        "import sys\n"
        "from edgedistill.students import FAMILIES\n"
        "for name in ('static', 'transformer'):\n"
        "    family = FAMILIES[name]\n"
        "    for spec in family.specs((32,)):\n"
        "        family.kernels(spec, (32,), 3, 'int8'), family.capacity(spec)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# A transformer from a teacher


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_student_of_the_teachers_size_computes_what_the_teacher_computes(teacher):
    network = teacher()
    student, said = adopted(network, EQUAL)
    ids, mask = batch(9)
    with torch.no_grad():
        output = network.base_model(
            input_ids=ids, attention_mask=mask.long(), output_hidden_states=True
        )
    ours = hidden_states(student, ids, mask)
    assert len(ours) == len(output.hidden_states) == LAYERS + 1
    for state, theirs in zip(ours, output.hidden_states, strict=True):
        assert ((state - theirs) * mask[:, :, None]).abs().max() < 1e-5
    assert said == (
        "layers 1, 2, 3, 4 of 4, 64 of 64 hidden dimensions, 2 of 2 heads, "
        "128 of 128 feed-forward units"
    )


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_teacher_stays_as_it_was(teacher):
    network = teacher()
    before = weights(network)
    for spec in SPECS.values():
        adopted(network, spec)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_the_layers_taken_are_spread_evenly_and_end_with_the_last():
    assert uniform_layers(2, of=6) == (2, 5)
    assert uniform_layers(3, of=12) == (3, 7, 11)
    assert uniform_layers(4, of=6) == (1, 2, 4, 5)
    assert uniform_layers(6, of=6) == tuple(range(6))
    assert uniform_layers(4, of=2) == (0, 0, 1, 1)
    teacher = bare_bert()
    student, _ = adopted(teacher, TransformerSpec(VOCABULARY, WIDTH, 2, WIDTH, HEADS, UNITS))
    for layer, index in zip(student.layers, (1, 3), strict=True):
        theirs = teacher.encoder.layer[index].intermediate.dense.weight
        assert torch.equal(layer.up.weight, theirs)


def test_only_rows_of_the_students_tokens_are_taken():
    teacher = bare_bert()
    kept = np.array([1, 2, 3, 50, 17])
    spec = TransformerSpec(len(kept), WIDTH, LAYERS, WIDTH, HEADS, UNITS)
    student, _ = adopted(teacher, spec, kept)
    assert torch.equal(
        student.embeddings.tokens.weight, teacher.embeddings.word_embeddings.weight[kept]
    )


def test_feed_forward_units_that_do_nothing_are_cut_first():
    teacher = bare_bert()
    dead = torch.randperm(UNITS, generator=torch.Generator().manual_seed(0))[: UNITS // 2]
    with torch.no_grad():
        for i, layer in enumerate(teacher.encoder.layer):
            if i % 2:
                layer.output.dense.weight[:, dead] = 0  # nobody listens
            else:
                layer.intermediate.dense.weight[dead] = 0
                layer.intermediate.dense.bias[dead] = 0  # nothing to say
    student, said = adopted(teacher, TransformerSpec(VOCABULARY, 64, 4, 64, 2, UNITS // 2))
    ids, mask = batch(9)
    with torch.no_grad():
        theirs = teacher(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    ours = hidden_states(student, ids, mask)[-1]
    assert ((ours - theirs) * mask[:, :, None]).abs().max() < 1e-5
    assert said.endswith("64 of 128 feed-forward units")


def test_heads_and_dimensions_that_do_most_are_kept():
    teacher = bare_bert(hidden_size=128, num_attention_heads=4)
    dims = torch.randperm(128, generator=torch.Generator().manual_seed(0))[:64].sort().values
    norms = [m for m in teacher.modules() if isinstance(m, nn.LayerNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.weight[dims] *= 10
        for layer in teacher.encoder.layer:
            layer.attention.self.value.weight[:32] *= 0.01
            layer.attention.output.dense.weight[:, 64:96] *= 0.01
    rows = torch.cat([torch.arange(32, 64), torch.arange(96, 128)])
    student, said = adopted(teacher, TransformerSpec(VOCABULARY, 64, 4, 64, 2, UNITS))
    assert "64 of 128 hidden dimensions, 2 of 4 heads" in said
    for ours, layer in zip(student.layers, teacher.encoder.layer, strict=True):
        theirs = layer.attention.self
        for name in ("query", "key", "value"):
            assert torch.equal(
                getattr(ours.attention, name).weight, getattr(theirs, name).weight[rows][:, dims]
            )
            assert torch.equal(getattr(ours.attention, name).bias, getattr(theirs, name).bias[rows])
        output = layer.attention.output
        assert torch.equal(ours.attention.output.weight, output.dense.weight[dims][:, rows])
        assert torch.equal(ours.attention_norm.weight, output.LayerNorm.weight[dims])
    assert torch.equal(
        student.embeddings.tokens.weight, teacher.embeddings.word_embeddings.weight[:, dims]
    )


def test_wider_heads_are_cut_and_keep_the_size_of_their_scores():
    teacher = bare_bert(num_attention_heads=1)
    student, said = adopted(teacher, TransformerSpec(VOCABULARY, 64, 4, 64, 2, UNITS))
    assert "1 of 1 heads" in said
    ours, theirs = student.layers[0].attention, teacher.encoder.layer[0].attention.self
    kept = [(theirs.key.weight == row).all(1).nonzero().item() for row in ours.key.weight[:32]]
    assert kept == sorted(set(kept))
    torch.testing.assert_close(ours.query.weight[:32] / 32**0.5, theirs.query.weight[kept] / 8)
    assert not ours.query.weight[32:].any()  # the head that the teacher lacks is silent
    assert not ours.output.weight[:, 32:].any()


def test_narrow_embeddings_are_the_teachers_main_components():
    teacher = bare_bert()
    table = teacher.embeddings.word_embeddings.weight
    with torch.no_grad():  # a table of rank 20, around one point
        generator = torch.Generator().manual_seed(0)
        table.copy_(torch.randn(VOCABULARY, 20, generator=generator) @ table[:20] + 3)
    student, _ = adopted(teacher, TransformerSpec(VOCABULARY, 32, 4, 64, 2, UNITS))
    ids, mask = batch(9)
    with torch.no_grad():
        theirs = teacher(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    ours = hidden_states(student, ids, mask)[-1]
    assert ((ours - theirs) * mask[:, :, None]).abs().max() < 1e-3


def test_without_a_shared_vocabulary_the_layers_are_taken_and_the_table_is_not():
    student, before = untrained("transformer", EQUAL), untrained("transformer", EQUAL)
    teacher = bare_bert()
    said = FAMILIES["transformer"].adopt(student, EQUAL, Source(teacher, None, batches))
    assert said.endswith("; token vectors start at random")
    assert torch.equal(student.embeddings.tokens.weight, before.embeddings.tokens.weight)
    assert torch.equal(
        student.layers[0].up.weight, teacher.encoder.layer[0].intermediate.dense.weight
    )


def test_a_cut_student_starts_ahead_of_a_random_one():
    """On a small task: does token 4 or token 5 come first?"""

    def examples(seed):
        ids, mask = batch(seed, rows=32)
        generator = np.random.default_rng(seed)
        ids[(ids == 4) | (ids == 5)] = 6
        first = generator.integers(0, 2, len(ids))
        ids[:, 1], ids[:, 2] = torch.from_numpy(4 + first), torch.from_numpy(5 - first)
        return ids, mask, torch.from_numpy(first)

    def train(network, call, steps, seed):
        losses = []
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
        for step in range(steps):
            ids, mask, labels = examples(seed + step)
            loss = F.cross_entropy(call(ids, mask), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return np.mean(losses[-10:])

    torch.manual_seed(0)
    teacher = BertForSequenceClassification(
        bert_config(hidden_size=128, num_attention_heads=4, intermediate_size=256)
    )
    learned = train(
        teacher,
        lambda ids, mask: teacher(input_ids=ids, attention_mask=mask.long()).logits,
        60,
        0,
    )
    assert learned < 0.2
    spec = TransformerSpec(VOCABULARY, 32, 2, 64, 2, 128)
    cut, _ = adopted(teacher.eval(), spec)
    random = untrained("transformer", spec)
    assert train(cut, cut, 20, 1000) < 0.5 * train(random, random, 20, 1000)


# A bag of tokens from a teacher


def test_token_vectors_keep_the_distances_of_the_teachers_outputs():
    teacher = bare_bert()
    student, said = adopted(teacher, StaticSpec(VOCABULARY, dim=64, hidden=0))
    alone = torch.tensor([[FIRST, token, LAST] for token in range(VOCABULARY)])
    with torch.no_grad():
        theirs = teacher(input_ids=alone).last_hidden_state.mean(1)
    ratio = torch.pdist(student.tokens.weight.detach()) / torch.pdist(theirs)
    assert ratio.std() < 1e-3 * ratio.mean()
    assert torch.equal(student.weights.weight, torch.ones(VOCABULARY, 1))
    assert said == "vectors of 90 tokens, 64 main components of the teacher's 64"


@pytest.mark.parametrize("teacher", TEACHERS)
def test_fewer_dimensions_are_those_in_which_frequent_tokens_differ_most(teacher):
    student, _ = adopted(teacher(), StaticSpec(VOCABULARY, dim=16, hidden=0))
    spread = student.tokens.weight.detach().std(0)
    assert spread[:4].mean() > 2 * spread[-4:].mean()
    assert 0.2 < student.tokens.weight.detach().square().mean().sqrt() < 1.0


def test_more_dimensions_than_the_teacher_has_stay_random():
    teacher = bare_bert(hidden_size=32)
    student, said = adopted(teacher, StaticSpec(VOCABULARY, dim=64, hidden=0))
    before = untrained("static", StaticSpec(VOCABULARY, dim=64, hidden=0))
    assert torch.equal(student.tokens.weight[:, 32:], before.tokens.weight[:, 32:])
    assert "32 main components of the teacher's 32" in said


# Where there is nothing to take


@pytest.mark.parametrize(
    ("spec", "teacher", "token_ids", "reason"),
    [
        (SPECS["static"], None, np.arange(VOCABULARY), "no teacher that shares the student's voc"),
        (SPECS["static"], bare_bert(), None, "no teacher that shares the student's vocabulary"),
        (SPECS["static"], nn.Linear(2, 2), np.arange(VOCABULARY), "no network of transformers"),
        (SPECS["transformer"], None, np.arange(VOCABULARY), "no encoder such as BERT, RoBERTa or"),
        (SPECS["transformer"], nn.Linear(2, 2), None, "no encoder such as BERT, RoBERTa or Distil"),
        (
            SPECS["transformer"],
            bare_bert(hidden_size=32),
            np.arange(VOCABULARY),
            "the teacher has 32 hidden dimensions, the student 64",
        ),
    ],
)
def test_what_cannot_be_taken_is_said_and_changes_nothing(spec, teacher, token_ids, reason):
    name = "static" if isinstance(spec, StaticSpec) else "transformer"
    student = untrained(name, spec)
    before = weights(student)
    said = FAMILIES[name].adopt(student, spec, Source(teacher, token_ids, batches))
    assert said.startswith("nothing taken over: ")
    assert reason in said
    assert all(torch.equal(before[k], v) for k, v in student.state_dict().items())


# Families of other packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package that offers student families."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, code: str, entries: str) -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8"
        )
        (info / "entry_points.txt").write_text(
            f"[edgedistill.students]\n{entries}\n", encoding="utf-8"
        )

    return install


FOREIGN = "class Foreign:\n    name = 'foreign'\n"


def test_a_family_of_another_package_is_found_by_name(package):
    package("of_class", FOREIGN, "foreign = of_class:Foreign")
    package("of_object", FOREIGN + "made = Foreign()\n", "ready = of_object:made")
    assert family("foreign").name == family("ready").name == "foreign"


def test_another_package_is_imported_only_when_it_is_named(package):
    package("unnamed", FOREIGN, "unnamed = unnamed:Foreign")
    family("static")
    with pytest.raises(SettingsError, match=r"did you mean 'unnamed'.*\(known: .*unnamed"):
        family("unname")
    assert "unnamed" not in sys.modules


def test_a_name_that_two_packages_offer_is_refused(package):
    package("here", FOREIGN, "twice = here:Foreign")
    package("there", FOREIGN, "twice = there:Foreign")
    with pytest.raises(
        SettingsError, match=r"'twice' is offered 2 times \(here:Foreign, there:Foreign\); uninst"
    ):
        family("twice")


def test_what_is_built_in_cannot_be_replaced(package):
    package("usurper", FOREIGN, "static = usurper:Foreign")
    assert family("static") is FAMILIES["static"]


def test_a_package_that_cannot_be_imported_is_one_sentence(package):
    package("broken", "raise RuntimeError('no such thing')", "broken = broken:Foreign")
    with pytest.raises(SettingsError, match=r"'broken' \(broken:Foreign\) cannot be loaded: no su"):
        family("broken")
