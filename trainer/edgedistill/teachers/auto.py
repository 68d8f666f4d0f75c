"""`auto`: teachers that are trained on the spot, where nobody brings one."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgedistill.students.modules import Classifier, conv_block
from edgedistill.teachers.loaded import Network
from edgedistill.teachers.text import TextInputs

MAX_WIDTH = 256
LARGE_SIDE = 32
"""Images and spectrograms above it begin with half the side and half the width."""


def auto_convolutional_teacher(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A plain convolutional network in the manner of VGG (Simonyan & Zisserman 2015), batch-normed.

    input_shape: (channels, height, width); two 3×3 convolutions a stage, each stage half the side.
    Of height one (sensors) the convolutions are 1×5, and stages go on until 8 steps are left.
    """
    channels, height, steps = input_shape
    if height == 1:
        return _auto_sequence_teacher(channels, steps, classes)
    blocks: list[nn.Module] = []
    width, side = 64, min(height, steps)
    while side > LARGE_SIDE:
        blocks.append(conv_block(channels, 32, 3, 2))
        channels, width, side = 32, 32, (side + 1) // 2
    while side >= 2 and width <= MAX_WIDTH:
        blocks += [conv_block(channels, width, 3, 1), conv_block(width, width, 3, 1)]
        blocks.append(nn.MaxPool2d(2))
        channels, width, side = width, width * 2, side // 2
    return Classifier(blocks, channels, classes)


def _auto_sequence_teacher(channels: int, steps: int, classes: int) -> nn.Module:
    blocks: list[nn.Module] = []
    width = 64
    while width == 64 or (steps >= 16 and width <= MAX_WIDTH):
        for _ in range(2):
            blocks.append(conv_block(channels, width, 5, 1, flat=True))
            channels = width
        blocks.append(nn.MaxPool2d((1, 2)))
        width, steps = width * 2, steps // 2
    return Classifier(blocks, channels, classes)


def auto_text_teacher(vocabulary: int, classes: int, tokens: int = 512) -> nn.Module:
    """A BERT of 4 layers, 256 wide: (ids, mask) -> logits.

    vocabulary: entries of the tokenizer it shares with the student.  tokens: most in a text.
    Its `model.base_model` is an encoder that students can take layers from.
    """
    from transformers import BertConfig, BertForSequenceClassification

    make: Any = BertConfig
    config = make(
        vocab_size=vocabulary,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=tokens,
        type_vocab_size=1,
        num_labels=classes,
        pad_token_id=None,  # every row of the embedding is trained, whichever id pads
        attn_implementation="eager",
    )
    return Network(TextInputs(), BertForSequenceClassification(config)).eval()
