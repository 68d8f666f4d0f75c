"""Tiny teachers in local folders and files, random weights, as real ones are saved.

Every function returns the folder, or the file.  `names` are the model's classes; None: it is saved
without a classification head, as a bare encoder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

SEED = 20_261_124
WORDS = [
    *("the", "a", "film", "food", "was", "is", "not", "very"),
    *("good", "bad", "great", "awful", "i", "loved", "hated", "it"),
]
NAMES = ("negative", "neutral", "positive")
TEXT_KINDS = ("bert", "distilbert", "roberta")
IMAGE_KINDS = ("vit", "resnet", "convnext")
AUDIO_KINDS = ("wav2vec2", "ast")


def text_teacher(
    folder: Path, kind: str = "bert", names: Sequence[str] | None = NAMES, **config: Any
) -> Path:
    """BERT, DistilBERT or RoBERTa of 3 layers of 32, and its fast tokenizer."""
    import transformers as tf

    tokenizer = byte_level_bpe() if kind == "roberta" else word_piece()
    size = {"vocab_size": tokenizer.vocab_size, "initializer_range": 0.2}
    wide = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    distil = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64}
    made: Any = {
        "bert": lambda: tf.BertConfig(**size, **wide, intermediate_size=64),
        "distilbert": lambda: tf.DistilBertConfig(**size, **distil, max_position_embeddings=40),
        "roberta": lambda: tf.RobertaConfig(
            **size, **wide, intermediate_size=64, max_position_embeddings=42, type_vocab_size=1
        ),
    }[kind]()
    return _save(folder, "SequenceClassification", made, names, config, tokenizer)


def image_teacher(
    folder: Path, kind: str = "vit", names: Sequence[str] | None = NAMES, **config: Any
) -> Path:
    """ViT, ResNet or ConvNeXt for images of 16×16, and its image processor's file."""
    import transformers as tf

    sides = {"image_size": 16, "patch_size": 4}
    wide = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    stages = {"hidden_sizes": [8, 16], "depths": [1, 1]}
    made: Any = {
        "vit": lambda: tf.ViTConfig(**sides, **wide, intermediate_size=64, initializer_range=0.2),
        "resnet": lambda: tf.ResNetConfig(**stages, embedding_size=8, layer_type="basic"),
        "convnext": lambda: tf.ConvNextConfig(**stages, num_stages=2, image_size=16),
    }[kind]()
    _save(folder, "ImageClassification", made, names, config)
    square = {"height": 16, "width": 16}
    processor = {
        "image_processor_type": "ViTImageProcessor" if kind == "vit" else "ConvNextImageProcessor",
        "do_resize": True,
        "size": square if kind == "vit" else {"shortest_edge": 16},
        "resample": 2 if kind == "vit" else 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48, 0.45, 0.4],
        "image_std": [0.23, 0.22, 0.25],
    }
    write_json(folder / "preprocessor_config.json", processor)
    return folder


def audio_teacher(
    folder: Path, kind: str = "wav2vec2", names: Sequence[str] | None = NAMES, **config: Any
) -> Path:
    """Wav2Vec2 on waveforms, or an Audio Spectrogram Transformer on log-mel, with its extractor."""
    import transformers as tf

    wide = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    convolutions = {"conv_dim": (16, 16), "conv_kernel": (10, 8), "conv_stride": (5, 4)}
    extractor: Any
    if kind == "wav2vec2":
        made: Any = tf.Wav2Vec2Config(
            **wide,
            **convolutions,
            intermediate_size=64,
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            classifier_proj_size=16,
        )
        extractor = tf.Wav2Vec2FeatureExtractor(do_normalize=True)
    else:
        made = tf.ASTConfig(**wide, intermediate_size=64, max_length=64, num_mel_bins=32)
        extractor = tf.ASTFeatureExtractor(num_mel_bins=32, max_length=64)
    _save(folder, "AudioClassification", made, names, config)
    extractor.save_pretrained(folder)
    return folder


def _save(
    folder: Path,
    head: str,
    config: Any,
    names: Sequence[str] | None,
    changes: dict[str, Any],
    tokenizer: Any = None,
) -> Path:
    import transformers as tf

    if names is not None:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}
    for key, value in changes.items():
        setattr(config, key, value)
    auto: Any = tf.AutoModel if names is None else getattr(tf, f"AutoModelFor{head}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        auto.from_config(config).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


# Tokenizers


def word_piece() -> Any:
    """WordPiece, lower case: words, and single characters."""
    from transformers import BertTokenizer

    characters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?"
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    entries += [c for c in characters if c not in entries] + [f"##{c}" for c in characters]
    return BertTokenizer(vocab={entry: i for i, entry in enumerate(entries)}, model_max_length=48)


def generic(tokenizer: Any) -> Any:
    """The same tokenizer, saved as one of no architecture in particular."""
    from transformers import PreTrainedTokenizerFast

    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special = {name: getattr(tokenizer, name) for name in names}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special)


def byte_level_bpe() -> Any:
    """RoBERTa's kind, trained on a sentence; its padding is entry 1."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator([" ".join(WORDS)] * 3, 320, special_tokens=special, show_progress=False)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizerFast(vocab=model["vocab"], merges=merges)


# ONNX


def text_onnx(
    path: Path,
    names: Sequence[str] | None = NAMES,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    shape: Sequence[int | str] = ("batch", "tokens"),
    output: Sequence[int | str] | None = None,
) -> Path:
    """The mean of token vectors and a linear layer, with the files that Optimum writes beside."""
    tokenizer = word_piece()
    tokenizer.save_pretrained(path.parent)
    classes = 3 if names is None else len(names)
    random = np.random.default_rng(SEED)
    weights: dict[str, Any] = {
        "table": random.normal(size=(tokenizer.vocab_size, 8)).astype(np.float32),
        "head": random.normal(size=(8, classes)).astype(np.float32),
        "last": np.array([-1]),
        "tokens": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", [inputs[1]], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "tokens"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "head"], ["logits"]),
    ]
    taken = [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in inputs]
    write_onnx(path, nodes, taken, output or (shape[0], classes), weights)
    if names is not None:
        write_json(path.parent / "config.json", {"id2label": dict(enumerate(names))})
    return path


def token_onnx(path: Path) -> Path:
    """Vectors of tokens, and no logits of texts."""
    tokenizer = word_piece()
    tokenizer.save_pretrained(path.parent)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["logits"]),
    ]
    weights = {"table": np.ones((tokenizer.vocab_size, 8), np.float32), "last": np.array([-1])}
    shape = ("batch", "tokens")
    names = ("input_ids", "attention_mask")
    taken = [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in names]
    write_onnx(path, nodes, taken, (*shape, 8), weights)
    return path


def image_onnx(path: Path) -> Path:
    """The mean of each channel and a linear layer."""
    weights = {
        "head": np.random.default_rng(SEED).normal(size=(3, 3)).astype(np.float32),
        "sides": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values", "sides"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "head"], ["logits"]),
    ]
    shape = ("batch", 3, "height", "width")
    taken = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)]
    write_onnx(path, nodes, taken, ("batch", 3), weights)
    return path


def write_onnx(
    path: Path, nodes: Any, inputs: Any, output: Sequence[int | str], weights: dict[str, Any]
) -> None:
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, output)
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "teacher", inputs, [logits], stored)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Change some keys of a JSON file; None takes a key away."""
    plain = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: value for key, value in plain.items() if value is not None})
