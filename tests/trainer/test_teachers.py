"""Teachers of every kind answer as they do at home, or are refused in one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from tests import teachers_support as support
from tests.teachers_support import AUDIO_KINDS, IMAGE_KINDS, NAMES, TEXT_KINDS, edit_json
from torch import nn

from edgedistill import teachers
from edgedistill.errors import EdgeDistillError, SettingsError, TeacherError

TEXTS = ["The film was great!", "i hated it", "not very good, not very bad.", ""]
NORM = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
TASKS = {
    **dict.fromkeys(TEXT_KINDS, "text-classification"),
    **dict.fromkeys(IMAGE_KINDS, "image-classification"),
    **dict.fromkeys(AUDIO_KINDS, "audio-classification"),
}
TEXT, IMAGE, AUDIO = "text-classification", "image-classification", "audio-classification"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, and a hub cache of its own, whenever the hub's client was imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "py"))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "teacher"


def load(source, task=TEXT, labels=NAMES, **options):
    options = {"max_length": 64, "norm": NORM} | options
    return teachers.load(str(source), task, len(labels), labels, **options)


def make(folder, kind, names=NAMES, **config):
    if kind in TEXT_KINDS:
        return support.text_teacher(folder, kind, names, **config)
    if kind in IMAGE_KINDS:
        return support.image_teacher(folder, kind, names, **config)
    return support.audio_teacher(folder, kind, names, **config)


def refusal(source, task=TEXT, labels=NAMES, **options):
    with pytest.raises(TeacherError) as caught:
        load(source, task, labels, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"{source}: ")
    assert caught.value.exit_code == 2
    return sentence.removeprefix(f"{source}: ")


def padded(encoder, texts=TEXTS):
    """ids and mask of a batch, as the training loop makes them."""
    encoded = encoder.encode_batch(texts)
    longest = max(map(len, encoded))
    ids = torch.full((len(texts), longest), encoder.pad_id)
    mask = torch.zeros(len(texts), longest)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)] = torch.from_numpy(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask


def batch(teacher, task):
    if task == TEXT:
        return padded(teacher.encoder)
    generator = torch.Generator().manual_seed(5)
    if task == IMAGE:
        return (torch.randn(4, 3, 16, 16, generator=generator),)
    return (torch.randn(4, 8000, generator=generator),)


def answers(teacher, *inputs):
    with torch.inference_mode():
        return teacher.network(*inputs)


# What every kind has


@pytest.mark.parametrize("kind", TASKS)
def test_a_trained_folder_knows_its_classes_and_answers_with_logits(folder, kind, capfd):
    make(folder, kind)
    capfd.readouterr()
    teacher = load(folder, TASKS[kind])
    assert capfd.readouterr() == ("", "")
    assert (teacher.labels, teacher.outputs, teacher.trained) == (NAMES, 3, True)
    assert not teacher.network.training
    logits = answers(teacher, *batch(teacher, TASKS[kind]))
    assert logits.shape == (4, 3)
    assert logits.isfinite().all()
    assert len({tuple(row) for row in logits.tolist()}) == 4  # its input matters
    assert str(folder) not in teacher.name


@pytest.mark.parametrize("kind", TASKS)
def test_a_bare_encoder_gets_a_fresh_head_for_the_datas_classes(folder, kind, capfd):
    make(folder, kind, names=None)
    capfd.readouterr()
    labels = ("a", "b", "c", "d", "e")
    before = torch.get_rng_state()
    teacher, again = load(folder, TASKS[kind], labels), load(folder, TASKS[kind], labels)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), before)
    assert (teacher.labels, teacher.outputs, teacher.trained) == (None, 5, False)
    inputs = batch(teacher, TASKS[kind])
    assert answers(teacher, *inputs).shape == (4, 5)
    torch.testing.assert_close(answers(teacher, *inputs), answers(again, *inputs), rtol=0, atol=0)
    assert teacher.digest == again.digest


@pytest.mark.parametrize("kind", TASKS)
def test_a_teacher_of_other_classes_than_the_data_keeps_its_own(folder, kind):
    make(folder, kind, names=("sad", "Negative", "dull", "POSITIVE", "neutral"))
    teacher = load(folder, TASKS[kind])
    assert teacher.outputs == 5
    columns = teachers.columns(teacher.labels, NAMES, teacher.outputs)
    assert columns.tolist() == [1, 4, 3]


@pytest.mark.parametrize("kind", [k for k in TASKS if k not in ("resnet", "convnext")])
def test_attention_is_loaded_in_its_eager_form(folder, kind):
    teacher = load(make(folder, kind), TASKS[kind])
    assert teacher.body.config._attn_implementation == "eager"


def test_names_say_what_it_is(tmp_path):
    assert load(make(tmp_path / "a", "bert")).name == "bert, 3 layers of 32"
    assert load(make(tmp_path / "b", "resnet"), IMAGE).name == "resnet, 0.00611 M parameters"


def test_weights_in_half_precision_become_float32(folder):
    make(folder, "bert")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    halves = {name: value.half() for name, value in weights.items()}
    safetensors.torch.save_file(halves, folder / "model.safetensors", {"format": "pt"})
    edit_json(folder / "config.json", dtype="float16")
    teacher = load(folder)
    assert {w.dtype for w in teacher.network.parameters()} == {torch.float32}


# Text


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_padded_batches_give_what_the_model_says_to_each_text_alone(folder, kind):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    make(folder, kind)
    teacher = load(folder)
    got = answers(teacher, *padded(teacher.encoder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        alone = [model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]
    torch.testing.assert_close(got, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "most"), [("bert", 48), ("distilbert", 40), ("roberta", 40)])
def test_texts_are_no_longer_than_the_model_and_its_tokenizer_take(folder, kind, most):
    make(folder, kind)
    teacher = load(folder, max_length=512)
    ids = teacher.encoder.encode("very good " * 10_000)
    assert len(ids) == teacher.encoder.max_length == most
    assert answers(teacher, torch.from_numpy(ids)[None], torch.ones(1, most)).isfinite().all()
    assert len(load(folder, max_length=7).encoder.encode("very good " * 20)) == 7


def test_special_tokens_stay_when_a_text_is_cut(folder):
    encoder = load(make(folder, "bert"), max_length=5).encoder
    ids = encoder.encode("the film was very good")
    assert (ids.dtype, ids[0], ids[-1]) == (np.int64, 2, 3)


def test_the_tokenizer_is_handed_on_without_truncation_and_padding(folder):
    from tokenizers import Tokenizer

    make(folder, "bert")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=32)
    tokenizer.save(str(folder / "tokenizer.json"))
    teacher = load(folder)
    text = "the film was very good"
    assert len(teacher.encoder.encode(text)) == 7
    assert Tokenizer.from_str(teacher.tokenizer_json.decode()).encode(text).ids == (
        teacher.encoder.encode(text).tolist()
    )


def test_an_empty_text_without_special_tokens_is_the_unknown_token():
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    assert teachers.TeacherEncoder(tokenizer, 8).encode("").tolist() == [1]
    assert teachers.TeacherEncoder(Tokenizer(models.BPE()), 8).encode("").tolist() == [0]


def test_a_decoder_without_padding_reads_the_last_token_of_each_text(folder):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    tokenizer = support.byte_level_bpe()
    size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    config = GPT2Config(**size, vocab_size=tokenizer.vocab_size, eos_token_id=2, num_labels=3)
    torch.manual_seed(1)
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    teacher = load(folder, labels=("a", "b", "c"))
    ids, mask = padded(teacher.encoder)
    got = answers(teacher, ids, mask)
    for row in range(len(ids)):
        length = int(mask[row].sum())
        alone = answers(teacher, ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(got[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_a_model_that_reads_the_padding_is_refused(folder):
    from transformers import XLNetConfig, XLNetForSequenceClassification

    size = {"d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 32, "initializer_range": 0.3}
    config = XLNetConfig(**size, vocab_size=99, num_labels=3)
    torch.manual_seed(1)
    XLNetForSequenceClassification(config).save_pretrained(folder)
    support.generic(support.word_piece()).save_pretrained(folder)
    assert refusal(folder).startswith("its answer to a text changes with the padding after it;")


def test_heavy_libraries_are_imported_only_to_load():
    code = "import sys, edgedistill.teachers; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"transformers", "tokenizers", "onnx", "onnxruntime", "huggingface_hub"}
    assert not heavy & set(done.stdout.split())


def test_a_sentence_encoder_is_read_by_the_mean_of_its_tokens(folder):
    make(folder, "bert", names=None)
    (folder / "1_Pooling").mkdir()
    support.write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    teacher = load(folder)
    ids, mask = padded(teacher.encoder)
    with torch.inference_mode():
        tokens = teacher.body(input_ids=ids, attention_mask=mask.long())[0]
        means = torch.stack([t[m > 0].mean(0) for t, m in zip(tokens, mask, strict=True)])
        expected = teacher.network.model.head(means)
    torch.testing.assert_close(answers(teacher, ids, mask), expected)
    assert not teacher.trained
    teacher.freeze(0)
    trained = [n for n, w in teacher.network.named_parameters() if w.requires_grad]
    assert trained == ["model.head.weight", "model.head.bias"]


# Images


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_an_image_teacher_sees_what_its_own_image_processor_would_show_it(folder, kind):
    """Whatever the student's normalisation is."""
    make(folder, kind)
    pixels = np.random.default_rng(3).integers(0, 256, (4, 3, 20, 24)).astype(np.float32) / 255
    shown = []
    for mean, std in (NORM, ((0, 0, 0), (1, 1, 1))):
        teacher = load(folder, IMAGE, norm=(mean, std))
        mean, std = (np.float32(values)[:, None, None] for values in (mean, std))
        shown.append(answers(teacher, torch.from_numpy((pixels - mean) / std)))
    torch.testing.assert_close(*shown, rtol=1e-4, atol=1e-5)


PROCESSORS = {
    "ViT": {"size": {"height": 14, "width": 18}, "resample": 2},
    "DeiT": {"size": {"height": 30, "width": 30}, "crop_size": {"height": 20, "width": 20}},
    "Bit": {"size": {"shortest_edge": 17}, "crop_size": {"height": 16, "width": 16}},
    "CLIP": {"size": {"shortest_edge": 16}, "crop_size": {"height": 19, "width": 19}},
    "ConvNext": {"size": {"shortest_edge": 16}, "resample": 3, "crop_pct": 0.8},
    "EfficientNet": {"size": {"height": 16, "width": 16}, "resample": 0, "rescale_offset": True},
    "MobileViT": {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}},
    "MobileNetV2": {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}},
    "Siglip": {"size": {"height": 13, "width": 13}, "resample": 1},
}


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("shape", [(24, 32), (33, 21)])
def test_preprocessing_is_that_of_transformers(kind, channels, shape):
    """Within the rounding to whole pixel values, which only transformers does, twice."""
    import importlib

    from PIL import Image

    from edgedistill.teachers import images

    name = {"MobileNetV2": "mobilenet_v2"}.get(kind, kind.lower())
    module = importlib.import_module(f"transformers.models.{name}.image_processing_pil_{name}")
    processor = getattr(module, f"{kind}ImageProcessorPil")(**PROCESSORS[kind])
    config = processor.to_dict() | {"image_processor_type": f"{kind}ImageProcessor"}
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(1, channels, 6, 6, generator=generator)
    smooth = nn.functional.interpolate(coarse, shape, mode="bilinear")
    pixels = (smooth * 255).round().byte()
    plain = pixels[0].permute(1, 2, 0).numpy()
    picture = Image.fromarray(plain if channels == 3 else plain[..., 0]).convert("RGB")
    expected = torch.from_numpy(np.stack(processor(picture)["pixel_values"]))
    norm = ((0.3,) * channels, (0.5,) * channels)
    inputs = images.ImageInputs(images.read(config, None), norm)
    got = inputs((pixels / 255 - 0.3) / 0.5)["pixel_values"]
    assert got.shape == expected.shape
    difference = (got - expected).abs() * inputs.std / inputs.steps.scale
    assert difference.max() <= 2.01 / 255
    assert difference.mean() <= 0.5 / 255


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_processor_type": "LevitImageProcessor"}, "the rules of its image processor"),
        ({"resample": 4}, "resample 4 is not a filter known here"),
        ({"size": {"longest_edge": 9}}, "the image size {'longest_edge': 9} is not known here"),
        ({"image_mean": None}, "it asks for normalised images and gives no image_mean"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_refused(folder, changes, sentence):
    make(folder, "vit")
    edit_json(folder / "preprocessor_config.json", **changes)
    assert refusal(folder, IMAGE).startswith(f"preprocessor_config.json: {sentence}")


def test_an_old_processors_file_gets_its_side_from_the_model(folder):
    make(folder, "vit")
    old = {"feature_extractor_type": "ViTFeatureExtractor", "size": None}
    edit_json(folder / "preprocessor_config.json", image_processor_type=None, **old)
    teacher = load(folder, IMAGE)
    assert answers(teacher, torch.zeros(2, 3, 40, 40)).shape == (2, 3)


# Audio


@pytest.mark.parametrize("kind", AUDIO_KINDS)
def test_waveforms_reach_the_model_as_its_own_extractor_would_give_them(folder, kind):
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    make(folder, kind)
    teacher = load(folder, AUDIO)
    assert teacher.sample_rate_hz == 16_000
    waves = torch.randn(3, 8000, generator=torch.Generator().manual_seed(2)) * 0.1 + 0.2
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        given = extractor(list(waves.numpy()), sampling_rate=16_000, return_tensors="pt")
        expected = model(**given).logits
    torch.testing.assert_close(answers(teacher, waves), expected, rtol=1e-4, atol=1e-5)


# Training a part


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("last_layers", [0, 1])
def test_only_the_head_and_the_last_layers_are_trained(folder, kind, last_layers):
    teacher = load(make(folder, kind, names=None), TASKS[kind])
    network = teacher.network
    teacher.freeze(last_layers)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    weights = [w for w in network.parameters() if w.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    logits = network(*batch(teacher, TASKS[kind]))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    changed = {n for n, v in network.state_dict().items() if not torch.equal(v, before[n])}
    heads = ("classifier", "pooler.dense", "projector", "layernorm")
    last = {"resnet": ".stages.1.", "convnext": ".stages.1."}.get(
        kind, f".{1 if kind in AUDIO_KINDS else 2}."
    )
    assert any("classifier" in name for name in changed)
    outside = {n for n in changed if not any(head in n for head in heads)}
    assert bool(outside) == bool(last_layers)
    assert all(last in name for name in outside)


def test_what_is_frozen_does_not_drop_out(folder):
    teacher = load(make(folder, "bert", names=None))
    teacher.freeze(0)
    seen = []
    teacher.body.encoder.register_forward_hook(lambda *x: seen.append(x[2][0]))
    teacher.network.train()
    for _ in range(2):
        teacher.network(*padded(teacher.encoder))
    torch.testing.assert_close(*seen, rtol=0, atol=0)


def test_more_layers_than_there_are_cannot_be_trained(folder):
    teacher = load(make(folder, "bert", names=None))
    with pytest.raises(TeacherError, match=r"has 3 layers, the last 4 cannot be trained; give 0"):
        teacher.freeze(4)


# Digest


def test_the_digest_is_of_what_changes_the_answers(tmp_path):
    make(tmp_path / "one", "bert")
    digests = [load(tmp_path / "one").digest]

    def changed(change):
        folder = tmp_path / f"copy{len(digests)}"
        shutil.copytree(tmp_path / "one", folder)
        change(folder)
        digests.append(load(folder).digest)

    def weight(folder):
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        weights["bert.encoder.layer.1.output.dense.weight"][3, 3] += 1e-3
        safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})

    def tokenizer(folder):
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        (folder / "tokenizer.json").write_text(text.replace('"great"', '"grand"'), encoding="utf-8")

    changed(weight)
    changed(tokenizer)
    changed(lambda folder: edit_json(folder / "config.json", hidden_act="relu"))
    digests.append(load(tmp_path / "one", max_length=9).digest)
    assert len(set(digests)) == 5
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere")
    as_pickle(tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").digest == digests[0]


def test_the_digest_of_an_image_teacher_covers_its_preprocessing(folder):
    make(folder, "vit")
    before = load(folder, IMAGE).digest
    edit_json(folder / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    assert load(folder, IMAGE).digest != before


def as_pickle(folder):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


# Labels


@pytest.mark.parametrize(
    ("own", "data", "columns"),
    [
        (("neg", "neu", "pos"), ("neg", "neu", "pos"), [0, 1, 2]),
        (("neg", "neu", "pos"), ("pos", "neg", "neu"), [2, 0, 1]),
        (("Very Good", "so_so", "BAD"), ("bad", "sO sO", "very_good"), [2, 1, 0]),
        (("0", "1", "2"), ("LABEL_2", "label 0"), [2, 0]),
        (("LABEL_0", "other", "LABEL_1"), ("1", "0"), [2, 0]),
        (("a", "A"), ("A", "a"), [1, 0]),  # the very name first
        (None, ("x", "y"), [0, 1]),
        (None, ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"), None),
        (None, ("1", "2", "3"), [0, 1, 2]),
    ],
)
def test_logits_are_put_into_the_datas_order(own, data, columns):
    expected = [int(x) for x in data] if columns is None else columns
    found = teachers.columns(own, data)
    assert found.tolist() == expected
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("own", "data", "outputs", "sentence"),
    [
        (
            ("neg", "pos"),
            ("neg", "joy"),
            2,
            "the teacher does not know the label 'joy': it knows 'neg', 'pos', the data has 'neg', "
            "'joy'; rename the labels of one of them",
        ),
        (
            tuple("abcdefg"),
            ("z",),
            None,
            "the teacher does not know the label 'z': it knows 'a', 'b', 'c', 'd', 'e', … 7 in "
            "all, the data has 'z'; rename the labels of one of them",
        ),
        (
            None,
            ("neg", "pos"),
            3,
            "the teacher has 3 classes without names, the data has 2 ('neg', 'pos'); name the "
            "teacher's in its config.json (id2label)",
        ),
        (("a", "b"), ("a", "b"), 3, "the teacher names 2 classes ('a', 'b') and answers with 3"),
        (("a b", "c"), ("a_b", "ab"), 2, "the label 'ab' does not tell the teacher's classes"),
        (("crane", "crane"), ("crane",), 2, "the label 'crane' does not tell the teacher's"),
    ],
)
def test_labels_that_do_not_match_are_told_shortly(own, data, outputs, sentence):
    with pytest.raises(TeacherError) as caught:
        teachers.columns(own, data, outputs)
    assert str(caught.value).startswith(sentence)


def test_numbered_labels_are_no_names(folder):
    teacher = load(make(folder, "bert", names=("LABEL_0", "LABEL_1", "LABEL_2")))
    assert (teacher.labels, teacher.trained) == (None, True)


def test_a_teacher_that_does_not_know_the_datas_labels_is_refused_at_once(folder):
    make(folder, "bert")
    assert refusal(folder, labels=("happy", "sad")).startswith(
        "the teacher does not know the label 'happy': it knows 'negative', 'neutral', 'positive'"
    )
    make(folder, "bert", names=("LABEL_0", "LABEL_1", "LABEL_2"))
    assert "the teacher has 3 classes without names" in refusal(folder, labels=("happy", "sad"))


# Folders that are no teachers


def without(name):
    return lambda folder: (folder / name).unlink()


def without_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def not_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"hello")


def headless(folder):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    del weights["classifier.weight"]
    safetensors.torch.save_file(weights, path, {"format": "pt"})


def config(**changes):
    return lambda folder: edit_json(folder / "config.json", **changes)


def written(name, text):
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("config.json"), "no config.json; save the model with what prepares its input"),
        (written("config.json", "{"), "config.json cannot be read (Expecting property name"),
        (written("config.json", "[]"), "config.json is not a JSON object; save the model again"),
        (without("model.safetensors"), "no weights; the folder needs model.safetensors or"),
        (without_tokenizer, "no tokenizer; the folder needs its tokenizer.json beside"),
        (written("tokenizer.json", "{"), "its tokenizer cannot be loaded ("),
        (cut, "transformers cannot load it (Error while deserializing header"),
        (not_a_pickle, "transformers cannot load it ("),
        (headless, "its weights lack 1 of the tensors that its config.json describes, such as"),
        (config(num_hidden_layers=5), "its weights lack 32 of the tensors that its config.json"),
        (config(hidden_size=64), "its weights hold 'bert.embeddings.LayerNorm.bias' of shape [32]"),
        (config(model_type="oddity"), "transformers 5.23.0 has no model 'oddity' (model_type in"),
        (config(model_type="vit"), "a 'vit' cannot do text-classification: transformers has no"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_with_what(folder, change, sentence, monkeypatch):
    monkeypatch.setattr("transformers.__version__", "5.23.0")
    make(folder, "bert")
    change(folder)
    assert refusal(folder).startswith(sentence)


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    make(folder, "bert")
    make(tmp_path / "other", "roberta")
    shutil.copy(tmp_path / "other" / "tokenizer.json", folder / "tokenizer.json")
    assert refusal(folder).startswith("its tokenizer has 310 entries, its weights 99; the two")


@pytest.mark.parametrize("kind", ["vit", "wav2vec2"])
def test_a_teacher_without_its_preprocessing_is_refused(folder, kind):
    make(folder, kind)
    (folder / "preprocessor_config.json").unlink()
    assert refusal(folder, TASKS[kind]).startswith("no preprocessor_config.json; save the model")


def test_a_pickle_of_more_than_tensors_is_refused_and_not_run(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    make(folder, "bert")
    as_pickle(folder)
    assert load(folder).trained
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(weights | {"bomb": Bomb()}, folder / "pytorch_model.bin")
    assert refusal(folder).startswith("its pytorch_model.bin holds more than tensors, and could")
    assert not (tmp_path / "exploded").exists()


ODD_MODEL = """
import pathlib
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

pathlib.Path({mark!r}).touch()

class OddConfig(PretrainedConfig):
    model_type = "odd"

class OddForSequenceClassification(PreTrainedModel):
    config_class = OddConfig

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = torch.nn.Embedding(99, 3)
        self.post_init()

    def _init_weights(self, module):
        pass

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None].float()
        vectors = self.embeddings(input_ids) * mask
        return SequenceClassifierOutput(logits=vectors.sum(1) / mask.sum(1))
"""


def test_code_of_a_model_runs_only_where_it_is_trusted(folder, tmp_path):
    mark = tmp_path / "ran"
    make(folder, "bert")
    (folder / "odd.py").write_text(ODD_MODEL.format(mark=str(mark)), encoding="utf-8")
    table = torch.arange(99.0 * 3).reshape(99, 3)
    weights = {"embeddings.weight": table}
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    auto_map = {
        "AutoConfig": "odd.OddConfig",
        "AutoModelForSequenceClassification": "odd.OddForSequenceClassification",
    }
    architectures = ["OddForSequenceClassification"]
    support.edit_json(
        folder / "config.json", model_type="odd", auto_map=auto_map, architectures=architectures
    )
    assert refusal(folder).startswith("this model runs Python code that comes with it; read that")
    assert not mark.exists()
    teacher = load(folder, trust_remote_code=True)
    assert mark.exists()
    assert (teacher.labels, teacher.trained) == (NAMES, True)
    ids = torch.tensor([[2, 3]])
    torch.testing.assert_close(answers(teacher, ids, torch.ones(1, 2)), table[2:4].mean(0)[None])


# The hub


def test_a_model_in_the_hubs_cache_needs_no_network(tmp_path):
    cached = tmp_path / "hub" / "models--somebody--something"
    make(cached / "snapshots" / ("0" * 40), "distilbert")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    local = make(tmp_path / "local", "distilbert")
    teacher = load("somebody/something")
    assert (teacher.labels, teacher.digest) == (NAMES, load(local).digest)
    assert load(f"somebody/something@{'0' * 40}").digest == teacher.digest
    assert "not in its cache" in refusal("somebody/something@other")


@pytest.mark.parametrize("source", ["nobody/nothing", "nothing-at-all"])
def test_a_hub_that_cannot_be_reached_is_told_at_once(source):
    assert refusal(source) == (
        "neither a folder here nor to be had from the hub (it cannot be reached, and the model is "
        "not in its cache); download it where there is a network, and give its folder"
    )


@pytest.mark.parametrize("source", ["./teacher", "/no/such/folder", "a:b:c", "", "..", "a b"])
def test_what_names_no_teacher_is_refused_with_what_would(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if source in ("", ".."):
        assert "no config.json" in refusal(source)
    else:
        assert refusal(source) == (
            "not there; a teacher is a folder or hub id of transformers, an .onnx file, or "
            "module:function"
        )


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "teacher.pth"
    path.write_bytes(b"")
    assert refusal(path).startswith("a file of another kind; a teacher is a folder or hub id")


def test_a_task_that_does_not_exist_is_told_with_the_nearest_one():
    with pytest.raises(SettingsError, match="did you mean 'text-classification'"):
        teachers.load("x", "text-clasification", 2, ("a", "b"))


# ONNX


def numpy_answers(path, encoder, texts):
    import onnx
    from onnx import numpy_helper

    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    ids = encoder.encode_batch(texts)
    return np.stack([weights["table"][i].mean(0) @ weights["head"] for i in ids])


@pytest.mark.parametrize(
    "shape", [("batch", "tokens"), (1, "tokens"), (1, 12), ("batch", 12)], ids=str
)
@pytest.mark.parametrize("types", [(), ("token_type_ids",)], ids=["", "types"])
def test_an_onnx_file_answers_whatever_shapes_it_fixes(folder, shape, types):
    folder.mkdir()
    path = support.text_onnx(
        folder / "model.onnx", inputs=("input_ids", "attention_mask", *types), shape=shape
    )
    teacher = load(path)
    assert (teacher.name, teacher.labels, teacher.trained) == ("model.onnx", NAMES, True)
    assert (teacher.outputs, teacher.body) == (3, None)
    assert teacher.encoder.max_length == (12 if 12 in shape else 48)
    got = answers(teacher, *padded(teacher.encoder))
    np.testing.assert_allclose(got, numpy_answers(path, teacher.encoder, TEXTS), atol=1e-5)


def test_an_onnx_file_without_names_has_none(folder):
    folder.mkdir()
    assert load(support.text_onnx(folder / "model.onnx", names=None)).labels is None


def test_an_onnx_image_teacher_has_the_preprocessing_that_lies_beside_it(folder):
    make(folder, "vit")
    path = support.image_onnx(folder / "model.onnx")
    teacher = load(path, IMAGE, norm=((0.5,), (0.2,)))
    assert teacher.labels == NAMES
    grey = torch.full((2, 1, 8, 8), -1.0)  # pixels of 0.3
    mean, std = np.array([0.48, 0.45, 0.4]), np.array([0.23, 0.22, 0.25])
    head = np.random.default_rng(support.SEED).normal(size=(3, 3))
    expected = np.stack([(0.3 - mean) / std @ head] * 2)
    np.testing.assert_allclose(answers(teacher, grey), expected, rtol=1e-5)


def test_the_digest_of_an_onnx_file_covers_weights_stored_beside_it(folder):
    import onnx

    folder.mkdir()
    path = support.text_onnx(folder / "model.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=99)
    before = load(path).digest
    data = bytearray((folder / "model.data").read_bytes())
    data[100] ^= 1
    (folder / "model.data").write_bytes(data)
    assert load(path).digest != before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: path.unlink(), "there is no such file; give the path of an .onnx file"),
        (lambda path: path.write_bytes(b"hello"), "not an ONNX file that onnxruntime can read ("),
        (lambda path: (path.parent / "tokenizer.json").unlink(), "no tokenizer; its tokenizer"),
        (
            lambda path: (path.parent / "tokenizer.json").write_text("{"),
            "tokenizer.json cannot be read (",
        ),
        (
            lambda path: support.text_onnx(path, inputs=("input_ids", "text_mask")),
            "its inputs are input_ids [batch, tokens] tensor(int64), text_mask [batch, tokens]",
        ),
        (
            lambda path: support.text_onnx(path, shape=(4, 12)),
            "its inputs are input_ids [4, 12] tensor(int64), attention_mask [4, 12] tensor(int64); "
            "a teacher for text-classification takes input_ids and attention_mask, and may take "
            "token_type_ids, in batches of any size or of 1",
        ),
        (
            lambda path: support.image_onnx(path),
            "its inputs are pixel_values [batch, 3, height, width] tensor(float); a teacher for",
        ),
    ],
)
def test_an_onnx_file_that_is_no_teacher_is_refused(folder, change, sentence):
    folder.mkdir()
    path = support.text_onnx(folder / "model.onnx")
    change(path)
    assert refusal(path).startswith(sentence)


def test_an_onnx_file_of_other_outputs_is_refused(folder):
    folder.mkdir()
    path = folder / "model.onnx"
    support.token_onnx(path)
    assert refusal(path).startswith(
        "its outputs are logits [batch, tokens, 8] tensor(float); a teacher has float logits of "
        "shape [batch, classes]"
    )


def test_images_that_an_onnx_file_does_not_take_are_told(folder):
    make(folder, "vit")
    teacher = load(support.image_onnx(folder / "model.onnx"), IMAGE, norm=((0.5,), (1.0,)))
    with pytest.raises(TeacherError, match="onnxruntime cannot run the teacher"):
        teacher.network.model(pixel_values=torch.zeros(2, 4, 16, 16))


# module:function

MODULE = """
import torch
from torch import nn
from tests.teachers_support import word_piece

class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.arange(600.0).reshape(200, 3))

    def forward(self, ids, mask):
        assert mask.dtype == torch.float32
        return (self.table(ids) * mask[..., None]).sum(1)

class Brightness(nn.Module):
    labels = ["negative", "positive", "neutral"]

    def forward(self, pixels):
        assert pixels.shape[1:] == (3, 8, 8), pixels.shape
        return pixels.mean((2, 3))

class Shapeless(nn.Module):
    def forward(self, ids, mask):
        return ids

class Textual(nn.Module):
    def forward(self, ids, mask):
        return "logits"

def bag():
    return Bag()

def bag_with_tokens():
    made = Bag()
    made.tokenizer = word_piece()
    return made

def bag_with_other_tokens():
    made = Bag()
    made.tokenizer = "bert"
    return made

def bag_with_other_labels():
    made = Bag()
    made.labels = 3
    return made

def bert():
    from transformers import BertConfig, BertForSequenceClassification
    size = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**size, intermediate_size=16, num_labels=3))

def brightness():
    return Brightness()

def shapeless():
    return Shapeless()

def textual():
    return Textual()

def number():
    return 3

def failing():
    raise ValueError("no weights here")

constant = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in the working folder."""
    name = f"teachers_of_mine_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_function_of_a_file_here_gives_a_network_that_takes_the_students_tokens(module):
    path = list(sys.path)
    teacher = load(f"{module}:bag")
    assert sys.path == path
    assert (teacher.encoder, teacher.tokenizer_json, teacher.body) == (None, None, None)
    assert (teacher.labels, teacher.trained, teacher.name) == (None, True, f"{module}:bag")
    ids, mask = torch.tensor([[1, 2, 9]]), torch.tensor([[1.0, 1.0, 0.0]])
    assert answers(teacher, ids, mask).tolist() == [[9.0, 11.0, 13.0]]


def test_a_function_may_bring_its_own_tokenizer(module):
    teacher = load(f"{module}:bag_with_tokens", max_length=5)
    assert teacher.encoder.encode("the film was very good").tolist() == [2, 5, 7, 9, 3]
    assert teacher.encoder.pad_id == 0


def test_a_function_may_return_a_model_of_transformers(module):
    teacher = load(f"{module}:bert")
    ids, mask = torch.tensor([[1, 2, 9]]), torch.tensor([[1.0, 1.0, 0.0]])
    alone = answers(teacher, ids[:, :2], mask[:, :2])
    torch.testing.assert_close(answers(teacher, ids, mask), alone)
    assert type(teacher.body).__name__ == "BertModel"


def test_a_function_for_images_gets_pixels_of_0_to_1_and_may_name_its_classes(module):
    teacher = load(f"{module}:brightness", IMAGE)
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(values)[:, None, None] for values in NORM)
    got = answers(teacher, (pixels - mean) / std)
    torch.testing.assert_close(got, pixels.mean((2, 3)))
    assert teachers.columns(teacher.labels, NAMES).tolist() == [0, 2, 1]


def test_the_digest_of_a_function_covers_its_code(module, tmp_path):
    before = load(f"{module}:brightness", IMAGE).digest
    assert load(f"{module}:brightness", IMAGE).digest == before
    sys.modules.pop(module)
    other = f"{module}x"
    (tmp_path / f"{other}.py").write_text(
        MODULE.replace("pixels.mean((2, 3))", "pixels.amax((2, 3))"), encoding="utf-8"
    )
    assert load(f"{other}:brightness", IMAGE).digest != before
    sys.modules.pop(other)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("bagg", "no function named 'bagg'; did you mean 'bag'? (known: bag, "),
        ("constant", "no function named 'constant'"),
        ("number", "the function returned a int; it must return a torch.nn.Module"),
        ("failing", "the function failed (ValueError: no weights here); it is called without"),
        ("Bag.forward", None),
        ("bag_with_other_tokens", "its attribute 'tokenizer' is a str; it must be a tokenizers."),
        ("bag_with_other_labels", "its attribute 'labels' must be a list of class names"),
    ],
)
def test_a_function_that_gives_no_teacher_is_refused(module, name, sentence):
    found = refusal(f"{module}:{name}")
    assert found.startswith(sentence or "not there; a teacher is a folder or hub id")


@pytest.mark.parametrize("text", ["import torchhh", "1 +", "raise SystemError('no\\nway')"])
def test_a_module_that_cannot_be_imported_is_refused(tmp_path, monkeypatch, text):
    (tmp_path / "broken_teacher.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert refusal("broken_teacher:make").startswith("'broken_teacher' cannot be imported (")
    assert refusal("not_there.at_all:make").startswith("'not_there.at_all' cannot be imported (")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("textual", "the teacher returned a str; it must return logits, a tensor of shape"),
        ("shapeless", "the teacher returned int64 of shape [2, 3] for a batch of 2; it must"),
    ],
)
def test_an_answer_that_is_no_logits_is_told(module, name, sentence):
    teacher = load(f"{module}:{name}")
    with pytest.raises(EdgeDistillError) as caught:
        answers(teacher, torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3))
    assert str(caught.value).startswith(sentence)


def test_a_function_has_no_layers_to_freeze(module):
    with pytest.raises(TeacherError, match="has no encoder with layers to freeze"):
        load(f"{module}:bag").freeze(0)


# Trained here


def test_the_automatic_text_teacher_reads_tokens_and_never_the_padding():
    torch.manual_seed(0)
    network = teachers.auto_text_teacher(50, 3, tokens=16)
    ids = torch.tensor([[4, 5, 6, 0], [7, 0, 0, 0]])
    mask = (ids != 0).float()
    with torch.inference_mode():
        got, alone = network(ids, mask), network(ids[1:, :1], mask[1:, :1])
    assert got.shape == (2, 3)
    torch.testing.assert_close(got[1:], alone)
    assert len(network.model.base_model.encoder.layer) == 4
    assert network.model.config.hidden_size == 256
