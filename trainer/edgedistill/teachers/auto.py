"""`auto`: teachers that are trained on the spot, where nobody brings one."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgedistill.students.modules import Classifier, conv_block
from edgedistill.teachers.loaded import Network
from edgedistill.teachers.text import TextInputs


def auto_image_teacher(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A plain convolutional network in the manner of VGG (Simonyan & Zisserman 2015), batch-normed.

    input_shape: (channels, height, width); two 3×3 convolutions a stage, each stage half the side.
    """
    channels, *sides = input_shape
    blocks: list[nn.Module] = []
    width, side = 64, min(sides)
    while side >= 2 and width <= 256:
        blocks += [conv_block(channels, width, 3, 1), conv_block(width, width, 3, 1)]
        blocks.append(nn.MaxPool2d(2))
        channels, width, side = width, width * 2, side // 2
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
