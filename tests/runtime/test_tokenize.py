"""Texts become ids: what an encoder computes, what it cuts, and which files it refuses."""

from __future__ import annotations

import base64
import json
import os
import random
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from tests.runtime.runtime_support import MISSING, environment
from tests.runtime.text_support import (
    BPE,
    IDS,
    MAX_LENGTH,
    TOKENIZER,
    TOKENS,
    UNIGRAM,
    as_json,
    bare,
    changed,
    encoder,
    piece,
    special,
    template,
)

from edgedistill_runtime.errors import BundleError, EngineError, InputError
from edgedistill_runtime.tokenizercheck import MAX_VOCABULARY, check_tokenizer


def ids(text, table=TOKENIZER, **options):
    return encoder(table, **options).encode(text).tolist()


def named(*tokens):
    return [IDS[token] for token in tokens]


def refused(table, **options):
    with pytest.raises(BundleError) as caught:
        encoder(table, **options)
    return str(caught.value)


# --- what is computed


def test_words_become_ids_between_special_tokens():
    assert ids("The GOOD film!") == named("[CLS]", "the", "good", "film", "!", "[SEP]")
    assert ids("badly") == named("[CLS]", "bad", "##ly", "[SEP]")
    assert ids("čudno") == named("[CLS]", "[UNK]", "[SEP]")


def test_ids_are_int64():
    assert encoder().encode("good").dtype == np.int64


def test_a_long_text_is_cut_and_its_special_tokens_stay():
    found = ids("good " * 100)
    assert found == named("[CLS]", *["good"] * (MAX_LENGTH - 2), "[SEP]")


def test_characters_beyond_the_limit_are_not_looked_at():
    assert ids("good bad day", max_characters=5) == named("[CLS]", "good", "[SEP]")
    assert ids("x" * 100_000) == named("[CLS]", "[UNK]", "[SEP]")


def test_the_files_own_padding_and_truncation_count_for_nothing():
    assert TOKENIZER["padding"]["strategy"] == {"Fixed": 16}
    assert TOKENIZER["truncation"]["max_length"] == 3
    assert len(ids("good bad day")) == 5


def test_an_empty_text_is_its_special_tokens():
    assert ids("") == named("[CLS]", "[SEP]")


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
@pytest.mark.parametrize(
    ("table", "unknown"),
    [
        (changed(post_processor=None), IDS["[UNK]"]),
        (bare(UNIGRAM, pre_tokenizer={"type": "WhitespaceSplit"}), 0),
        (bare({**BPE, "unk_token": None}, pre_tokenizer={"type": "WhitespaceSplit"}), 0),
        (bare({**BPE, "unk_token": "c"}, pre_tokenizer={"type": "WhitespaceSplit"}), 3),
    ],
    ids=["WordPiece", "Unigram", "BPE without unknown", "BPE"],
)
def test_a_text_of_no_token_is_the_unknown_token(text, table, unknown):
    assert ids(text, table) == [unknown]


def test_a_batch_is_the_same_as_one_by_one():
    texts = ["good day", "", "it was bad, it was very bad, it was", "čć"]
    one_by_one = [encoder().encode(text).tolist() for text in texts]
    assert [row.tolist() for row in encoder().encode_batch(texts)] == one_by_one
    assert encoder().encode_batch([]) == []


def test_the_vocabulary_counts_added_tokens():
    more = [*TOKENIZER["added_tokens"], {**special("[PAD]"), "id": len(TOKENS), "content": "<x>"}]
    table = changed(added_tokens=more)
    assert encoder().vocabulary_size == len(TOKENS)
    assert encoder(table).vocabulary_size == len(TOKENS) + 1
    assert ids("good <x>", table) == [*named("[CLS]", "good"), len(TOKENS), IDS["[SEP]"]]


@pytest.mark.parametrize(
    ("table", "pad"),
    [
        (changed(padding__pad_token="."), IDS["."]),
        (changed(padding=None), IDS["[PAD]"]),
        (changed(padding__pad_token="absent"), IDS["[PAD]"]),
        (bare(BPE), 0),
        (bare({**UNIGRAM, "vocab": [["<unk>", 0], ["<pad>", 0]]}), 1),
    ],
)
def test_the_padding_token_is_the_files(table, pad):
    assert encoder(table).pad_id == pad


def test_byte_pairs_are_merged():
    assert ids("abcab", bare(BPE)) == [5, 4]
    lines = {**BPE, "merges": ["a b", "ab c"]}
    assert ids("abcab", bare(lines)) == [5, 4]


def test_byte_pairs_with_marks_are_merged():
    model = {
        **BPE,
        "continuing_subword_prefix": "##",
        "vocab": {"[UNK]": 0, "a": 1, "##b": 2, "ab": 3},
        "merges": [["a", "##b"]],
    }
    assert ids("aba", bare(model)) == [3, 0]


def test_the_likeliest_pieces_are_found():
    assert ids("abb", bare(UNIGRAM)) == [3, 2]
    spaced = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    dashed = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    table = bare(UNIGRAM, normalizer={"type": "Sequence", "normalizers": [spaced, dashed]})
    assert ids("a    b", table) == [1, 4, 2]


def test_every_component_on_the_list_is_accepted():
    normalizers = [
        {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFD"}]},
        *({"type": kind} for kind in ("NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")),
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
        {"type": "Prepend", "prepend": "▁"},
        TOKENIZER["normalizer"],
        {"type": "Precompiled", "precompiled_charsmap": charsmap()},
    ]
    pre_tokenizers = [
        *({"type": kind} for kind in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")),
        {"type": "Punctuation", "behavior": "Isolated"},
        {"type": "Digits", "individual_digits": True},
        {"type": "Split", "pattern": {"String": "x"}, "behavior": "Removed", "invert": False},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    ]
    processors = [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    ]
    roberta = {"type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    table = changed(
        normalizer={"type": "Sequence", "normalizers": normalizers},
        pre_tokenizer={"type": "Sequence", "pretokenizers": pre_tokenizers},
        post_processor={"type": "Sequence", "processors": processors},
    )
    assert ids("good", table)[0] == IDS["[CLS]"]
    whole = {**roberta, "trim_offsets": True, "add_prefix_space": True}
    assert ids("good", changed(post_processor=whole))[-1] == IDS["[SEP]"]


# --- tables of replacements


def unit(label=0, offset=0, leaf=False):
    return label | leaf << 8 | offset << 10


def charsmap(texts=b"\0good\0", **changes):
    """A table that turns "G" into "good": a trie of 512 units."""
    units = [0] * 512
    units[0] = unit(offset=256)  # the root's children begin at 256
    at = 256 ^ ord("G")
    units[at] = unit(ord("G"), at ^ 300, leaf=True)  # the children of "G" begin at 300
    units[300] = 1 << 31 | 1  # its text is at 1
    for place, value in changes.items():
        units[int(place.removeprefix("u"))] = value
    data = struct.pack("<513I", 4 * 512, *units) + texts
    return base64.b64encode(data).decode()


def with_charsmap(text):
    return changed(normalizer={"type": "Precompiled", "precompiled_charsmap": text})


def test_a_table_of_replacements_is_used():
    assert ids("G day", with_charsmap(charsmap())) == named("[CLS]", "good", "day", "[SEP]")


@pytest.mark.parametrize(
    "text",
    [
        charsmap(u0=unit(offset=512)),  # children beyond the end
        charsmap(u0=unit(offset=1 << 20)),
        charsmap(u7=unit(7, 256) | 1 << 9),  # an unreachable one, and an offset times 256
        charsmap(u300=1),  # the leaf is none
        charsmap(u300=1 << 31 | 7),  # a text beyond the end
        charsmap(u9=1 << 31 | 1 << 30),
        charsmap("č".encode(), u300=1 << 31 | 1),  # in the middle of a character
        charsmap(b"\0" + b"x" * 100),
        charsmap(b"\xff\0"),
        base64.b64encode(struct.pack("<I", 0)).decode(),
        base64.b64encode(struct.pack("<I", 1 << 31)).decode(),
        base64.b64encode(b"abc").decode(),
        "no base64!",
        "",
        None,
        [1],
    ],
)
def test_a_damaged_table_of_replacements_is_refused(text):
    """The library would look where nothing is, and end the process's thread."""
    assert refused(with_charsmap(text)).startswith("the tokenizer")


# --- refusals

PRE = TOKENIZER["model"]["vocab"]
NESTED = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 17}
REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}


def regex(expression, kind="Replace"):
    other = {"content": ""} if kind == "Replace" else {"behavior": "Removed", "invert": False}
    return {"type": kind, "pattern": {"Regex": expression}, **other}


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (changed(normalizer=regex("(a+)+$")), "Replace has a regular expression"),
        (changed(normalizer=regex(" {2,}|(a+)+$")), "Replace has a regular expression"),
        (changed(normalizer={**REPLACE, "pattern": {"Regex": "a", "String": "a"}}), "regular"),
        (changed(pre_tokenizer=regex("(a|a)*b", "Split")), "Split has a regular expression"),
        (changed(decoder=regex("(a|a)*b")), "Replace has a regular expression"),
        (
            changed(
                pre_tokenizer={
                    "type": "Sequence",
                    "pretokenizers": [{"type": "Whitespace"}, regex("(.*)*x", "Split")],
                }
            ),
            "Split has a regular expression",
        ),
        (changed(normalizer={**REPLACE, "content": "aa"}), "replaces it with more"),
        (changed(normalizer={**REPLACE, "pattern": {"String": ""}}), "a pattern of 0"),
        (changed(normalizer={**REPLACE, "pattern": {"String": "a" * 257}}), "over 256"),
        (changed(normalizer={"type": "Prepend", "prepend": "a" * 300}), "prepends over 256"),
        (changed(normalizer={"type": "Lua"}), "no normalizer in bundles named 'Lua'"),
        (changed(normalizer={"type": "Lowercase", "x": 1}), "Lowercase.x"),
        (changed(normalizer=NESTED), "over 16 components"),
        (
            changed(normalizer={"type": "Sequence", "normalizers": [REPLACE], "x": 1}),
            "Sequence.x",
        ),
        (
            changed(
                normalizer={
                    "type": "Sequence",
                    "normalizers": [{"type": "Prepend", "prepend": "a"}] * 2,
                }
            ),
            "Prepend twice",
        ),
        (changed(pre_tokenizer={"type": "CharDelimiterSplit"}), "no pre_tokenizer in bundles"),
        (changed(pre_tokenizer={"type": "UnicodeScripts"}), "no pre_tokenizer in bundles"),
        (changed(post_processor={"type": "Evil"}), "no post_processor in bundles"),
        (changed(decoder={"type": "CTC"}), "no decoder in bundles"),
        (changed(model__type="WordLevel"), "no tokenizer model in bundles named 'WordLevel'"),
        (changed(model__type=None), "no tokenizer model in bundles"),
        (changed(model__x=1), "WordPiece.x"),
        (changed(x=1), "tokenizer.x"),
        (changed(model=MISSING), "not in the form of one"),
        (changed(normalizer={}), "not in the form of one"),
        (changed(normalizer=[]), "not in the form of one"),
        (changed(added_tokens=[None]), "not in the form of one"),
        (changed(model__vocab={}), "ids are not 0, 1, 2"),
        (changed(model__vocab={**PRE, "x": 19}), "ids are not 0, 1, 2"),
        (changed(model__vocab={**PRE, "x": 21}), "ids are not 0, 1, 2"),
        (changed(model__vocab={**PRE, "x": -1}), "ids are not 0, 1, 2"),
        (changed(model__vocab={**PRE, "x": "20"}), "not in the form of one"),
        (changed(model__vocab={**PRE, "": 20}), "a token of 0 or over 256"),
        (changed(model__vocab={**PRE, "x" * 257: 20}), "a token of 0 or over 256"),
        (bare({**UNIGRAM, "vocab": [["a", 0.0], ["a", 0.0]]}), "ids are not 0, 1, 2"),
        (bare({**UNIGRAM, "unk_id": None}), "unknown token is not in its vocabulary"),
        (bare({**UNIGRAM, "unk_id": 5}), "unknown token is not in its vocabulary"),
        (bare({**UNIGRAM, "unk_id": -1}), "unknown token is not in its vocabulary"),
        (bare({**BPE, "unk_token": "absent"}), "unknown token is not in its vocabulary"),
        (changed(model__unk_token="absent"), "unknown token is not in its vocabulary"),
        (changed(model__unk_token=None), "unknown token is not in its vocabulary"),
        (changed(model__max_input_chars_per_word=100_000), "max_input_chars_per_word"),
        (changed(model__continuing_subword_prefix="#" * 257), "over 256 characters"),
        (bare({**BPE, "dropout": 0.5}), "dropout"),
        (bare({**BPE, "merges": [["a", "c"]]}), "merges tokens that it does not have"),
        (bare({**BPE, "merges": [["a", "absent"]]}), "merges tokens that it does not have"),
        (bare({**BPE, "merges": ["a b c"]}), "not in the form of one"),
        (
            bare({**BPE, "continuing_subword_prefix": "##", "merges": [["a", "b"]]}),
            "merges tokens that it does not have",
        ),
        (changed(added_tokens=[{**special("[PAD]"), "id": 7}]), "ids are not 0, 1, 2"),
        (changed(added_tokens=[{**special("[PAD]"), "id": 30, "content": "x"}]), "ids are not"),
        (changed(added_tokens=[{**special("[PAD]"), "content": ""}]), "a token of 0"),
        (changed(added_tokens=[{**special("[PAD]"), "regex": "a"}]), "added_tokens.regex"),
        (changed(added_tokens=[special("[PAD]")] * 10_001), "over 10000 added tokens"),
        (changed(post_processor=template([piece("[CLS]")])), "has the text 0 times"),
        (changed(post_processor=template([piece("A", "Sequence")] * 2)), "has the text 2 times"),
        (changed(post_processor=template([piece("B", "Sequence")])), "nowhere defined"),
        (changed(post_processor=template([piece("[MASK]")])), "nowhere defined"),
        (
            changed(post_processor={"type": "BertProcessing", "sep": ["x", 20], "cls": ["x", 0]}),
            "adds an id that is not 0 to 19",
        ),
        (changed(post_processor__special_tokens={"[CLS]": {"ids": [-1]}}), "nowhere defined"),
        (changed(version="2.0"), "does not accept the tokenizer"),
        (changed(normalizer={"type": "Strip", "strip_left": "x"}), "does not accept"),
        (changed(truncation={"max_length": "x"}), "does not accept"),
        (changed(padding={"strategy": 5}), "does not accept"),
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (as_json(TOKENIZER)[:-1], "not valid JSON"),
        (as_json(TOKENIZER)[:-40], "not valid JSON"),
        (b"[]", "not in the form of one"),
        (b"null", "not in the form of one"),
        (b"\xff\xfe", "not in the form of one"),
        (as_json(TOKENIZER)[:-1] + b',"version":"1.0"}', "a key stands twice"),
        (b"[" * 200_000, "the tokenizer"),
        (b'{"model":' * 200_000, "the tokenizer"),
        (b" " * (1 << 24) + b"{}", "at most 16777216"),
        (b'{"model": ' + b"9" * 5000 + b"}", "the tokenizer"),
    ],
)
def test_what_a_tokenizer_may_not_hold_is_one_sentence(table, sentence):
    assert sentence in refused(table)
    assert "\n" not in refused(table)


def test_components_nested_without_end_are_refused():
    table = {"type": "Lowercase"}
    for _ in range(400):
        table = {"type": "Sequence", "normalizers": [table]}
    assert refused(changed(normalizer=table)).startswith("the tokenizer")
    assert "tokenizer" in refused(as_json(changed()).replace(b"null", b"[" * 900 + b"]" * 900))


def test_a_vocabulary_of_millions_is_refused():
    table = bare({**BPE, "vocab": {f"{i:x}": i for i in range(MAX_VOCABULARY + 1)}})
    data = as_json(table)
    with pytest.raises(BundleError):
        check_tokenizer(data)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_length": 0}, "max_length of texts is 0"),
        ({"max_length": 1 << 20}, "max_length of texts is 1048576"),
        ({"max_length": True}, "max_length of texts is True"),
        ({"max_length": 8.0}, "max_length of texts is 8.0"),
        ({"max_length": 2}, "adds 2 special tokens"),
        ({"max_characters": 0}, "max_characters of texts is 0"),
        ({"max_characters": 1 << 30}, "max_characters of texts is 1073741824"),
        ({"max_characters": "9"}, "max_characters of texts is '9'"),
    ],
)
def test_lengths_are_within_reason(options, sentence):
    assert sentence in refused(TOKENIZER, **options)


@pytest.mark.parametrize("text", ["\ud800", "good \udfff", None, 5, b"good", ["good"]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises((InputError, TypeError)):
        encoder().encode(text)


def test_half_of_a_surrogate_pair_is_one_sentence():
    with pytest.raises(InputError, match="the text cannot be tokenized") as caught:
        encoder().encode("good \ud800")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (bare({**UNIGRAM, "vocab": [["<unk>", 0], *(["a" * n, -n] for n in range(1, 257))]}), "a"),
        (bare({**BPE, "vocab": {**BPE["vocab"]}}), "ab"),
        (changed(model__max_input_chars_per_word=256), "a" * 255 + " "),
        (changed(normalizer={"type": "NFKD"}), "\ufdfa"),
        (
            changed(
                normalizer={
                    "type": "Sequence",
                    "normalizers": [
                        REPLACE,
                        {**REPLACE, "pattern": {"String": "b"}, "content": "a"},
                    ]
                    * 8,
                }
            ),
            "a",
        ),
    ],
    ids=["Unigram", "BPE", "WordPiece", "NFKD", "Replace"],
)
def test_the_worst_text_for_the_worst_tokenizer_takes_a_moment(table, text):
    slow = encoder(table, max_characters=10_000)
    start = time.process_time()
    slow.encode(text * 10_000)
    assert time.process_time() - start < 2


# --- the library


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(EngineError, match=r"pip install 'edgedistill-runtime\[text\]'"):
        encoder()


def test_a_bad_file_is_refused_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert "regular expression" in refused(changed(normalizer=regex("a")))


ALONE = """
import os, sys, json
from edgedistill_runtime.tokenize import TextEncoder
before = len(os.listdir("/proc/self/task"))
encoder = TextEncoder.build(sys.stdin.buffer.read(), 8, 100)
encoder.encode("good day")
encoder.encode_batch(["good day"] * 50)
print(len(os.listdir("/proc/self/task")) - before, os.environ["TOKENIZERS_PARALLELISM"])
child = os.fork()
encoder.encode("good")
if not child:
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("wish", [None, "true"])
def test_encoding_starts_no_threads_and_warns_of_no_fork(wish):
    variables = {k: v for k, v in environment().items() if k != "TOKENIZERS_PARALLELISM"}
    if wish:
        variables["TOKENIZERS_PARALLELISM"] = wish
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        input=as_json(TOKENIZER),
        capture_output=True,
        check=True,
        env=variables,
    )
    threads, setting = done.stdout.split()
    assert done.stderr == b""
    assert setting.decode() == (wish or "false")
    if wish is None:
        assert int(threads) == 0


def test_the_check_is_of_the_standard_library():
    code = "import sys, edgedistill_runtime.tokenizercheck; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert not {"numpy", "tokenizers", "onnxruntime"} & set(done.stdout.split())
    assert os.path.exists(sys.executable)
    assert json.loads(as_json(TOKENIZER)) == TOKENIZER


@pytest.mark.parametrize("add", [True, False], ids=["special tokens", "none"])
def test_printable_ascii_takes_a_shorter_way_to_the_same_tokens(add):
    """Texts with special tokens in them, control characters, accents, or plain ones."""
    from tokenizers import Tokenizer

    table = TOKENIZER if add else changed(post_processor=None)
    reference = Tokenizer.from_str(json.dumps(table))
    reference.no_padding()
    reference.enable_truncation(32)
    made = encoder(table, max_length=32)
    chance = random.Random(7)
    parts = [
        *TOKENS,
        *map(str.upper, TOKENS),
        " ",
        " ",
        "\t",
        "\x00",
        "é",
        "Ü",
        "!",
        "--",
        "你",
        "ꟲ",
    ]
    for _ in range(2000):
        text = "".join(chance.choices(parts, k=chance.randrange(12)))
        expected = reference.encode(text).ids
        assert not expected or made.encode(text).tolist() == expected, text
        assert made.encode_batch([text, "é"])[0].tolist() == made.encode(text).tolist()
