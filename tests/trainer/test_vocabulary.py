"""Vocabularies cut to a task's texts: still tokenizers, and the same where nothing was cut."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from edgedistill.errors import DataError
from edgedistill.students import vocabulary
from edgedistill_runtime.tokenize import TextEncoder

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "ki", "lo", "mu", "ne", "pi", "ro")
EVERY = 1 << 16
FOREIGN = "日本語 🤖 \x00 Straße ½"


def texts(count: int, seed: int = 0) -> list[str]:
    """Sentences of made-up words, some of which are much more frequent than others."""
    generator = np.random.default_rng(seed)
    words = ["".join(generator.choice(SYLLABLES, generator.integers(1, 5))) for _ in range(400)]
    places = np.minimum(generator.zipf(1.4, (count, 12)) - 1, len(words) - 1)
    return [" ".join(words[place] for place in row) + "!" for row in places]


def wordpiece() -> bytes:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts(2000), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(64)
    return tokenizer.to_str().encode()


def byte_level_bpe() -> bytes:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(2000), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer.to_str().encode()


def bpe_with_an_added_word() -> bytes:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["[UNK]", "[PAD]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts(2000), trainer)
    tokenizer.add_tokens(["babaceceba", "@nobody"])
    return tokenizer.to_str().encode()


def unigram() -> bytes:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(2000), trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.TemplateProcessing(
                single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
            )
        ]
    )
    return tokenizer.to_str().encode()


@pytest.fixture(scope="module", params=[wordpiece, byte_level_bpe, bpe_with_an_added_word, unigram])
def tokenizer(request) -> bytes:
    """One `tokenizer.json` of each kind."""
    return request.param()


def whole(tokenizer: bytes) -> Tokenizer:
    made = Tokenizer.from_buffer(tokenizer)
    made.no_padding()
    made.no_truncation()
    return made


def without(tokenizer: bytes, **changes) -> bytes:
    document = json.loads(tokenizer)
    document["model"] |= changes
    return json.dumps(document).encode()


# Trimmed


@pytest.mark.parametrize("size", [60, 150, 300])
def test_a_text_whose_entries_all_stay_is_split_as_before(tokenizer, size):
    trimmed, old_ids = vocabulary.trim(tokenizer, texts(500), size)
    encoder, before = TextEncoder.build(trimmed, EVERY, EVERY), whole(tokenizer)
    unchanged = 0
    for text in texts(500) + texts(100, seed=1):
        was = before.encode(text).ids
        if set(was) <= set(old_ids.tolist()):
            assert old_ids[encoder.encode(text)].tolist() == was
            unchanged += 1
    assert unchanged > (0 if size == 60 else 50)


@pytest.mark.parametrize("size", [60, 150, 300])
def test_a_trimmed_vocabulary_has_the_size_that_was_asked_for(tokenizer, size):
    trimmed, old_ids = vocabulary.trim(tokenizer, texts(500), size)
    assert TextEncoder.build(trimmed, EVERY, EVERY).vocabulary_size == size
    assert old_ids.shape == (size,)
    assert old_ids.dtype == np.int64
    assert len(set(old_ids.tolist())) == size


def test_every_new_id_is_the_token_of_its_old_id(tokenizer):
    trimmed, old_ids = vocabulary.trim(tokenizer, texts(500), 150)
    new, old = Tokenizer.from_buffer(trimmed), Tokenizer.from_buffer(tokenizer)
    for i, old_id in enumerate(old_ids.tolist()):
        assert new.id_to_token(i) == old.id_to_token(old_id)


def test_any_text_can_still_be_encoded(tokenizer):
    trimmed, _ = vocabulary.trim(tokenizer, texts(500), 60)
    encoder = TextEncoder.build(trimmed, 64, EVERY)
    for text in (FOREIGN, "", " ", "x" * 1000, *texts(200, seed=2)):
        ids = encoder.encode(text)
        assert 1 <= len(ids) <= 64
        assert ids.max() < 60


def test_words_of_known_characters_never_become_unknown():
    trimmed, _ = vocabulary.trim(wordpiece(), texts(500), 60)
    encoder = TextEncoder.build(trimmed, EVERY, EVERY)
    unknown = Tokenizer.from_buffer(trimmed).token_to_id("[UNK]")
    for text in texts(200, seed=3):
        assert unknown not in encoder.encode(text)


def test_a_text_still_stands_between_its_special_tokens():
    for made, first, last in ((wordpiece(), "[CLS]", "[SEP]"), (byte_level_bpe(), "<s>", "</s>")):
        trimmed, _ = vocabulary.trim(made, texts(500), 100)
        new = Tokenizer.from_buffer(trimmed)
        ids = TextEncoder.build(trimmed, 64, EVERY).encode("bace difo")
        assert [new.id_to_token(int(i)) for i in ids[[0, -1]]] == [first, last]
        assert "mask" not in " ".join(new.get_vocab()).lower()  # nothing of this task needs it


def test_padding_has_an_id(tokenizer):
    trimmed, old_ids = vocabulary.trim(tokenizer, texts(500), 100)
    pad = old_ids[TextEncoder.build(trimmed, 64, EVERY).pad_id]
    assert Tokenizer.from_buffer(tokenizer).id_to_token(int(pad)) in ("[PAD]", "<pad>")


def test_a_trimmed_tokenizer_neither_pads_nor_cuts(tokenizer):
    document = json.loads(vocabulary.trim(tokenizer, texts(500), 100)[0])
    assert document["padding"] is document["truncation"] is None


def test_an_added_word_stays_if_the_texts_use_it():
    made = bpe_with_an_added_word()
    used = [*texts(500), *["hello babaceceba"] * 200]
    trimmed, _ = vocabulary.trim(made, used, 100)
    new = Tokenizer.from_buffer(trimmed)
    assert "babaceceba" in new.encode("babaceceba").tokens
    assert "@nobody" not in new.get_vocab()


def test_merges_lead_only_to_entries_and_to_every_one():
    model = json.loads(vocabulary.trim(byte_level_bpe(), texts(500), 150)[0])["model"]
    made = {first + second for first, second in model["merges"]}
    assert made <= set(model["vocab"])
    special = {"<s>", "<pad>", "</s>"}
    assert {t for t in model["vocab"] if len(t) > 1} - special == made


def test_merges_of_older_files_are_read():
    document = json.loads(byte_level_bpe())
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    older = vocabulary.trim(json.dumps(document).encode(), texts(500), 150)
    newer = vocabulary.trim(byte_level_bpe(), texts(500), 150)
    assert older[0] == newer[0]


def test_a_vocabulary_beyond_what_the_texts_use_is_filled_up():
    made = wordpiece()
    used = vocabulary.available(made, texts(20))
    most = Tokenizer.from_buffer(made).get_vocab_size() - 1  # all but [MASK]
    assert used < most
    _, old_ids = vocabulary.trim(made, texts(20), most)
    assert len(old_ids) == most


def test_what_is_available_is_what_a_text_can_use(tokenizer):
    some = texts(20)
    trimmed, _ = vocabulary.trim(tokenizer, some, vocabulary.available(tokenizer, some))
    before, after = whole(tokenizer), TextEncoder.build(trimmed, EVERY, EVERY)
    for text in some:
        assert len(after.encode(text)) == len(before.encode(text).ids)


# Trained


def test_a_trained_tokenizer_has_its_size_and_splits_words_of_the_texts():
    made = vocabulary.train(texts(500), 200)
    encoder = TextEncoder.build(made, 64, EVERY)
    assert encoder.vocabulary_size == 200
    assert encoder.pad_id == Tokenizer.from_buffer(made).token_to_id("[PAD]")
    unknown = Tokenizer.from_buffer(made).token_to_id("[UNK]")
    assert all(unknown not in ids for ids in encoder.encode_batch(texts(500)))
    assert encoder.encode("BACE").tolist() == encoder.encode("bace").tolist()
    assert encoder.encode(FOREIGN).max() < 200


def test_another_process_trains_the_same_tokenizer():
    code = (
        "import sys\n"
        "from edgedistill.students import vocabulary\n"
        "sys.stdout.buffer.write(vocabulary.train(['Abc abd, acd bcd', 'dab cab'] * 9, 40))\n"
    )
    made = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        for _ in range(3)
    ]
    assert made[0] == made[1] == made[2]


def test_texts_too_few_for_a_vocabulary_are_filled_up_with_what_no_text_uses():
    made = vocabulary.train(["a b", "b a"], 50)
    assert TextEncoder.build(made, 64, EVERY).vocabulary_size == 50
    assert vocabulary.available(None, ["a b", "b a"]) == 4  # padding, unknown, a, b


def test_vocabularies_are_made_without_torch():
    code = "import sys, edgedistill.students.vocabulary; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# What cannot be trimmed


def test_a_vocabulary_larger_than_the_tokenizers_is_refused():
    with pytest.raises(DataError, match=r"has \d+ entries .* the student has 1,000; give spec"):
        vocabulary.trim(wordpiece(), texts(10), 1000)


def test_a_vocabulary_without_room_for_special_tokens_is_refused():
    with pytest.raises(DataError, match=r"of 3 has no room for .*\(\[UNK\], \[PAD\], \[CLS\], "):
        vocabulary.trim(wordpiece(), texts(10), 3)


def test_a_file_that_is_no_tokenizer_is_refused():
    for data in (b"{}", b"vocab.txt", b"\xff", json.dumps({"model": {}}).encode()):
        with pytest.raises(DataError, match=r"no tokenizer\.json of a fast tokenizer"):
            vocabulary.trim(data, [], 100)


def test_a_tokenizer_of_another_kind_is_refused():
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(DataError, match="'WordLevel' cannot be trimmed"):
        vocabulary.trim(words.to_str().encode(), [], 2)


def test_a_bpe_with_marked_word_ends_is_refused():
    marked = without(bpe_with_an_added_word(), end_of_word_suffix="</w>")
    with pytest.raises(DataError, match="marks inside or at the end of words"):
        vocabulary.trim(marked, [], 100)
