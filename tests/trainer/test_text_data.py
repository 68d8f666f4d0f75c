"""Tables become labelled texts in fixed splits, or a sentence that names the file and the line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from edgedistill import data
from edgedistill.data import Columns
from edgedistill.errors import DataError

SEED = 11
SPLITS = ("train", "validation", "test")
WORDS = ("red", "green", "blue", "warm", "cold", "near", "far", "old", "new", "slow")


def rows(count=80, classes=("bad", "good")):
    """(text, label), every text another."""
    random = np.random.default_rng(SEED)
    return [
        (f"{' '.join(random.choice(WORDS, 4))} {i}", classes[i % len(classes)])
        for i in range(count)
    ]


def separated(path, table, header=("text", "label"), delimiter=",", **options):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, **options).writerows([header, *table])
    return str(path)


def json_lines(path, objects):
    text = "".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects)
    path.write_text(text, encoding="utf-8")
    return str(path)


def parquet(path, **columns):
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path)
    return str(path)


def objects(table):
    return [{"text": text, "label": label} for text, label in table]


def refusal(source, columns=None):
    with pytest.raises(DataError) as caught:
        data.load(str(source), columns or Columns())
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 1000
    return sentence


def outcome(source):
    """The sentence of the refusal, or nothing if the data are read."""
    try:
        data.load(source)
    except DataError as error:
        return str(error)
    return ""


def pairs(found, *splits):
    """All (text, label) of these splits."""
    return {
        (text, found.labels[y])
        for split in splits or SPLITS
        for text, y in zip(getattr(found, split).x, getattr(found, split).y, strict=True)
    }


def texts(split):
    return set(split.x.tolist())


# Kinds of files


def test_a_csv_becomes_texts_with_their_labels(tmp_path):
    found = data.load(separated(tmp_path / "tweets.csv", rows()))
    assert (found.name, found.task, found.labels) == (
        "tweets",
        "text-classification",
        ("bad", "good"),
    )
    assert (found.sample.kind, found.sample.dtype, found.sample.shape) == ("text", "text", ())
    assert not found.multi_label
    assert found.input_shape == (64,)
    assert pairs(found) == set(rows())
    assert found.train.x.dtype == object
    assert found.train.y.dtype == np.int64


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "json", "parquet", "semicolon", "tab", "bar"])
def test_every_kind_of_table_gives_the_same_data(tmp_path, kind):
    table = rows()
    one = data.load(separated(tmp_path / "one.csv", table))
    path = tmp_path / f"other.{kind if kind in data_suffixes() else 'csv'}"
    if kind in ("jsonl", "json"):
        source = json_lines(path, objects(table))
    elif kind == "parquet":
        source = parquet(path, text=[t for t, _ in table], label=[y for _, y in table])
    else:
        delimiter = {"semicolon": ";", "bar": "|"}.get(kind, "\t")
        source = separated(path, table, delimiter=delimiter)
    assert data.load(source).digest == one.digest


def data_suffixes():
    return ("tsv", "jsonl", "json", "parquet")


def test_quoted_newlines_delimiters_and_quotes_are_part_of_a_text(tmp_path):
    odd = [('one\ntwo, "three"\r\nfour;', "bad"), ("semi; colon | bar\ttab", "good")]
    found = data.load(separated(tmp_path / "t.csv", rows() + odd))
    assert set(odd) <= pairs(found)


def test_marks_line_ends_and_empty_lines_of_other_systems_are_read(tmp_path):
    lines = ["text,label", "", *(",".join(row) for row in rows())]
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert pairs(data.load(str(path))) == set(rows())
    path = tmp_path / "t.jsonl"
    lines = ["", *map(json.dumps, objects(rows()))]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert pairs(data.load(str(path))) == set(rows())


def test_lines_separators_of_unicode_do_not_end_a_line(tmp_path):
    odd = [("one\u2028two\x85three\x0bfour", "bad")]
    for source in (
        separated(tmp_path / "t.csv", rows() + odd),
        separated(tmp_path / "t.tsv", rows() + odd, delimiter="\t"),
        json_lines(tmp_path / "t.jsonl", objects(rows() + odd)),
    ):
        assert set(odd) <= pairs(data.load(source))


def test_quotes_in_a_tsv_without_quoting_are_part_of_the_text(tmp_path):
    path = tmp_path / "t.tsv"
    odd = [('"never" he said', "bad"), ('"open', "good"), ('the 5" one', "good")]
    lines = ["text\tlabel", *("\t".join(row) for row in rows() + odd), '"all ""of"" it"\tbad']
    path.write_text("\n".join(lines), encoding="utf-8")
    assert {*odd, ('all "of" it', "bad")} <= pairs(data.load(str(path)))


def test_a_tsv_with_quoted_tabs_and_newlines_is_read(tmp_path):
    odd = [("one\ttwo", "bad"), ("three\nfour", "good")]
    found = data.load(separated(tmp_path / "t.tsv", rows() + odd, delimiter="\t"))
    assert set(odd) <= pairs(found)


def test_a_text_of_100000_characters_is_read_and_nothing_else_is_changed(tmp_path):
    limit = csv.field_size_limit()
    long = [("x" * 200_000, "bad"), ("word " * 20_000, "good")]
    for delimiter in ",;":
        found = data.load(separated(tmp_path / "t.csv", long + rows(), delimiter=delimiter))
        assert set(long) <= pairs(found)
    assert csv.field_size_limit() == limit


def test_40000_rows_are_read_in_two_seconds(tmp_path):
    table = [(" ".join([text] * 5), label) for text, label in rows(40_000)]
    source = separated(tmp_path / "t.csv", table)
    begin = time.perf_counter()
    found = data.load(source)
    assert len(found.train) == 24_000
    assert time.perf_counter() - begin < 2


def test_data_are_read_without_torch_and_without_what_they_do_not_need(tmp_path):
    source = separated(tmp_path / "t.csv", rows())
    code = (
        "import sys; from edgedistill import data; data.load(sys.argv[1]);"
        "print([m for m in ('torch', 'pyarrow', 'datasets', 'sklearn') if m in sys.modules])"
    )
    run = [sys.executable, "-c", code, source]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "[]\n"


# Columns


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        (("text", "label"), 0, 1),
        (("label", "text"), 1, 0),
        (("Sentiment", "Tweet"), 1, 0),
        (("review", "stars"), 0, 1),
        (("prose", "class"), 0, 1),
        (("a", "b"), 0, 1),
        (("category", "words"), 1, 0),
    ],
)
def test_columns_are_found_by_name_and_content(tmp_path, header, text, label):
    table = [[row[0], row[1]] if text == 0 else [row[1], row[0]] for row in rows()]
    found = data.load(separated(tmp_path / "t.csv", table, header))
    assert pairs(found) == set(rows())
    assert f"texts in the column {header[text]!r}, labels in {header[label]!r}" in found.notes


def test_numbers_and_short_texts_beside_the_texts_are_passed_over(tmp_path):
    table = [(i, 0.5, label, f"u{i}", text) for i, (text, label) in enumerate(rows())]
    header = ("id", "confidence", "sentiment", "user", "words")
    assert pairs(data.load(separated(tmp_path / "t.csv", table, header))) == set(rows())


def test_columns_can_be_named_and_then_nothing_is_searched(tmp_path):
    table = [(text.upper(), "no", text, label) for text, label in rows()]
    source = separated(tmp_path / "t.csv", table, ("text", "label", "mine", "other"))
    found = data.load(source, Columns(text="mine", label="other"))
    assert pairs(found) == set(rows())
    assert not any("column" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["text", "label", "group"])
def test_a_column_that_does_not_exist_is_refused_with_the_nearest(tmp_path, kind):
    source = separated(tmp_path / "t.csv", rows(), ("tweet", "mood"))
    assert refusal(source, Columns(**{kind: "twet"})) == (
        f"{source}: no column named 'twet'; did you mean 'tweet'? (known: mood, tweet)"
    )


def test_columns_that_could_be_either_are_refused_with_all_of_them(tmp_path):
    table = [(text, text + " x", label, label) for text, label in rows()]
    source = separated(tmp_path / "t.csv", table, ("review", "tweet", "class", "topic"))
    assert refusal(source) == (
        f"{source}: the texts may be in 'review' or 'tweet'; name the text column (columns: "
        "review, tweet, class, topic)"
    )
    assert refusal(source, Columns(text="tweet")).startswith(
        f"{source}: the labels may be in 'class' or 'topic'; name the label column "
    )
    source = separated(tmp_path / "u.csv", table, ("one", "two", "label", "x"))
    assert "the texts may be in 'two' or 'one'; " in refusal(source)


def test_a_table_without_texts_or_labels_is_refused(tmp_path):
    source = separated(tmp_path / "t.tsv", [(i, i % 2) for i in range(20)], ("n", "label"), "\t")
    assert refusal(source) == (
        f"{source}: no column holds texts; name the text column (columns: n, label)"
    )
    table = [(text, 1, 2) for text, _ in rows()]
    source = separated(tmp_path / "t.csv", table, ("text", "n", "m"))
    assert refusal(source).startswith(f"{source}: no column is named like labels; name the label")
    assert "is named for the texts and for the labels" in refusal(source, Columns("text", "text"))


def test_a_file_without_a_header_is_refused_in_a_short_sentence(tmp_path):
    table = [("word " * 1000, "bad", "x"), *((text, label, "x") for text, label in rows())]
    path = tmp_path / "t.csv"
    separated(path, table[1:], table[0])
    assert "(columns: word word" in refusal(path)


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = [(text, text, label) for text, label in rows()]
    source = separated(tmp_path / "t.csv", table, ("text", "text", "label"))
    assert refusal(source) == f"{source}: two columns are named 'text'"
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    columns = arrow.table([["one"], ["two"], ["bad"]], names=["text", "text", "label"])
    pytest.importorskip("pyarrow.parquet").write_table(columns, path)
    assert refusal(path) == f"{path}: two columns are named 'text'"


def test_columns_without_a_name_are_passed_over(tmp_path):
    table = [(i, text, label, "", "") for i, (text, label) in enumerate(rows())]
    found = data.load(separated(tmp_path / "t.csv", table, ("", "text", "label", "", "")))
    assert pairs(found) == set(rows())


# Labels


def test_integer_labels_are_sorted_by_value_and_texts_by_letter(tmp_path):
    table = rows(60, ("10", "9", "-1"))
    assert data.load(separated(tmp_path / "t.csv", table)).labels == ("-1", "9", "10")
    numbers = [(text, int(label)) for text, label in table]
    assert data.load(json_lines(tmp_path / "t.jsonl", objects(numbers))).labels == (
        "-1",
        "9",
        "10",
    )
    table = rows(60, ("b10", "b9", "a"))
    assert data.load(separated(tmp_path / "t.csv", table)).labels == ("a", "b10", "b9")


def test_labels_are_read_without_the_spaces_around_them(tmp_path):
    table = [(text, f" {label} ") for text, label in rows()]
    assert data.load(separated(tmp_path / "t.csv", table)).labels == ("bad", "good")


def test_true_and_false_are_labels(tmp_path):
    table = [(text, label == "good") for text, label in rows()]
    assert data.load(json_lines(tmp_path / "t.jsonl", objects(table))).labels == ("false", "true")


def many(count=120):
    sets = [(), ("a",), ("b",), ("a", "b"), ("c", "a")]
    return [(text, sets[i % len(sets)]) for i, (text, _) in enumerate(rows(count))]


def test_cells_with_separators_are_several_labels_or_none(tmp_path):
    table = [(text, "|".join(labels)) for text, labels in many()]
    found = data.load(separated(tmp_path / "t.csv", table), Columns(label_separator="|"))
    assert found.multi_label
    assert found.labels == ("a", "b", "c")
    wanted = {text: set(labels) for text, labels in many()}
    for name in SPLITS:
        split = getattr(found, name)
        assert split.y.shape == (len(split), 3)
        assert split.y.dtype == np.int64
        for text, y in zip(split.x, split.y, strict=True):
            assert {found.labels[i] for i in np.flatnonzero(y)} == wanted[text]


def test_lists_of_labels_are_several_labels_or_none(tmp_path):
    table = [(text, "|".join(labels)) for text, labels in many()]
    one = data.load(separated(tmp_path / "t.csv", table), Columns(label_separator="|"))
    source = json_lines(tmp_path / "t.jsonl", objects(many()))
    assert data.load(source).digest == one.digest
    lists = [list(labels) for _, labels in many()]
    source = parquet(tmp_path / "t.parquet", text=[t for t, _ in many()], label=lists)
    assert data.load(source).digest == one.digest


def test_every_label_of_several_has_its_share_of_every_split(tmp_path):
    source = json_lines(tmp_path / "t.jsonl", objects(many(1000)))
    found = data.load(source)
    whole = sum(getattr(found, name).y.sum(0) for name in SPLITS) / 1000
    for name in SPLITS:
        assert np.abs(getattr(found, name).y.mean(0) - whole).max() < 0.01


def test_a_separator_that_separates_nothing_is_refused(tmp_path):
    source = separated(tmp_path / "t.csv", rows())
    assert refusal(source, Columns(label_separator="|")) == (
        f"{source}: '|' separates no labels in 'label'; leave out the separator where every row "
        "has one label"
    )


def test_one_class_and_none_are_refused(tmp_path):
    source = separated(tmp_path / "t.csv", rows(classes=("bad",)))
    assert refusal(source) == f"{source}: only one class; a classifier needs two classes or more"
    source = json_lines(tmp_path / "t.jsonl", [{"text": t, "label": []} for t, _ in rows()])
    assert refusal(source) == f"{source}: no labels; a classifier needs two classes or more"


def test_a_tiny_class_is_refused_by_its_name(tmp_path):
    source = separated(tmp_path / "t.csv", [*rows(), ("one alone", "odd")])
    assert refusal(source) == (
        f"{source}: the class 'odd' has 1 sample; at least 8 are needed to train, choose and test"
    )


@pytest.mark.parametrize("content", ["", "\n", "text,label\n"], ids=["empty", "line", "header"])
def test_a_table_without_rows_is_refused(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_text(content, encoding="utf-8")
    assert refusal(path) == f"{path}: no rows"


# Bad rows

BROKEN_CSV = {
    "fields": (b"one,bad,more", "3 fields, and the first line names 2; a text that holds ','"),
    "field": (b"one", "1 field, and the first line names 2; a text that holds ','"),
    "label": (b"one,", "no label"),
    "blank label": (b"one,  ", "no label"),
    "long label": (b"one," + b"x" * 300, "a label of 300 characters; at most 256"),
    "control": (b"one,b\x07d", "the label 'b\\x07d' has a control character"),
    "text": (b",bad", "the text is empty"),
    "blank text": (b'" \t ",bad', "the text is empty"),
    "utf-8": (b"caf\xe9,bad", "not UTF-8 (byte 0xe9); save the file as UTF-8"),
    "nul": (b"o\0e,bad", "a NUL character"),
    "quotes": (b'"one" two,bad', "quotes out of place; "),
    "open": (b'"one,bad', "a quoted field does not end; "),
}


@pytest.mark.parametrize(("line", "fault"), BROKEN_CSV.values(), ids=BROKEN_CSV)
def test_a_bad_row_of_a_csv_is_named_by_the_line_it_begins_at(tmp_path, line, fault):
    path = tmp_path / "t.csv"
    good = [f"{text},{label}".encode() for text, label in rows()]
    begin = [b"text,label", b'"two', b'lines",bad', b"", *good[:40]]
    path.write_bytes(b"\n".join([*begin, line, *good[40:]]))
    assert refusal(path).startswith(f"{path}, line 45: {fault}")


BROKEN_JSON = {
    "json": ('{"text": "one", "label": ', "not JSON (Expecting value"),
    "python": ("{'text': 'one'}", "not JSON ("),
    "deep": ("[" * 100_000, "not JSON ("),
    "digits": (f'{{"text": "one", "label": {"1" * 5000}}}', "not JSON ("),
    "list": ('["one", "bad"]', "not a JSON object; one a line"),
    "no text": ('{"label": "bad"}', "no text"),
    "null text": ('{"text": null, "label": "bad"}', "no text"),
    "number": ('{"text": 7, "label": "bad"}', "the text is an integer, not a string"),
    "texts": ('{"text": ["a"], "label": "bad"}', "the text is a list, not a string"),
    "empty": ('{"text": "", "label": "bad"}', "the text is empty"),
    "nul": ('{"text": "o\\u0000e", "label": "bad"}', "a NUL character in the text"),
    "half": ('{"text": "o\\ud83de", "label": "bad"}', "half of a surrogate pair in the text"),
    "no label": ('{"text": "one"}', "no label"),
    "null": ('{"text": "one", "label": null}', "no label"),
    "fraction": ('{"text": "one", "label": 0.5}', "the label is a fraction; labels are integers"),
    "object": ('{"text": "one", "label": {}}', "the label is of type dict; labels are integers"),
    "lists": ('{"text": "one", "label": ["bad"]}', "the label is a list; labels are integers"),
}


@pytest.mark.parametrize(("line", "fault"), BROKEN_JSON.values(), ids=BROKEN_JSON)
def test_a_bad_row_of_json_lines_is_named_by_its_line(tmp_path, line, fault):
    path = tmp_path / "t.jsonl"
    good = list(map(json.dumps, objects(rows())))
    path.write_text("\n".join(["", *good[:40], line, *good[40:]]), encoding="utf-8")
    assert refusal(path).startswith(f"{path}, line 42: {fault}")


def test_a_single_label_among_lists_is_named(tmp_path):
    table = [*many(40), ("one", "a"), *many(40)]
    path = tmp_path / "t.jsonl"
    fault = "not a list of labels, as other rows have"
    assert refusal(json_lines(path, objects(table))) == f"{path}, line 41: {fault}"
    table[40] = ("one", [0.5])
    fault = "the label is a fraction; labels are integers or texts"
    assert refusal(json_lines(path, objects(table))) == f"{path}, line 41: {fault}"


def test_a_bad_row_of_parquet_is_named_by_its_number(tmp_path):
    path = tmp_path / "t.parquet"
    content, labels = ([row[i] for row in rows()] for i in (0, 1))
    parquet(path, text=[*content, None], label=[*labels, "bad"])
    assert refusal(path) == f"{path}, row 81: no text"
    parquet(path, text=[*content, "one"], label=[*labels, None])
    assert refusal(path) == f"{path}, row 81: no label"


def test_texts_of_parquet_that_are_no_utf_8_are_named(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    content = [text.encode() for text, _ in rows()]
    content[6] = b"caf\xe9"
    column = arrow.array(content, arrow.binary()).view(arrow.string())
    parquet(path, text=column, label=[label for _, label in rows()])
    assert refusal(path) == f"{path}, row 7: 'text' is not UTF-8"


def test_further_bad_rows_are_counted(tmp_path):
    table = rows()
    for i in (3, 7, 11):
        table[i] = ("", "bad")
    source = separated(tmp_path / "t.csv", table)
    assert refusal(source) == f"{source}, line 5: the text is empty (and 2 more rows)"
    assert refusal(json_lines(tmp_path / "t.jsonl", objects(table))).endswith("(and 2 more rows)")
    (tmp_path / "t.csv").write_text("text,label\na\nb\n", encoding="utf-8")
    assert refusal(source).endswith(" (and 1 more row)")


def test_a_row_without_its_group_is_named(tmp_path):
    table = [(text, label, i % 9 or "") for i, (text, label) in enumerate(rows())]
    source = separated(tmp_path / "t.csv", table, ("text", "label", "writer"))
    assert refusal(source, Columns(group="writer")) == (
        f"{source}, line 2: no group in 'writer' (and 8 more rows)"
    )


def test_a_damaged_table_is_read_or_refused_in_a_sentence(tmp_path):
    """Single flipped bits and cut ends: never another kind of exception."""
    random = np.random.default_rng(SEED)
    table = rows(40)
    sources = [
        separated(tmp_path / "t.csv", table, quoting=csv.QUOTE_ALL),
        separated(tmp_path / "t.tsv", table, delimiter="\t"),
        json_lines(tmp_path / "t.jsonl", objects(table)),
        parquet(tmp_path / "t.parquet", text=[t for t, _ in table], label=[y for _, y in table]),
    ]
    for source in sources:
        with open(source, "rb") as file:
            good = file.read()
        for _ in range(150):
            damaged = bytearray(good)
            damaged[random.integers(len(good))] ^= 1 << int(random.integers(8))
            end = len(good) if random.random() < 0.7 else random.integers(len(good))
            with open(source, "wb") as file:
                file.write(damaged[:end])
            sentence = outcome(source)
            assert sentence == "" or sentence.startswith(source)
            assert "\n" not in sentence


# Splits


def test_every_row_is_in_one_split_and_every_class_has_its_share(tmp_path):
    found = data.load(separated(tmp_path / "t.csv", rows(1000, ("a", "b", "b", "c", "c"))))
    sizes = [len(getattr(found, name)) for name in SPLITS]
    assert sizes == [600, 150, 250]
    for name, size in zip(SPLITS, sizes, strict=True):
        counts = np.bincount(getattr(found, name).y)
        assert np.abs(counts - np.array([0.2, 0.4, 0.4]) * size).max() <= 1
    assert "test (250) and validation (150) held out of 1,000 texts" in found.notes


def test_a_class_of_the_least_size_is_in_every_split(tmp_path):
    table = rows(8 * 30, [f"class {i}" for i in range(30)])
    found = data.load(separated(tmp_path / "t.csv", table))
    for name in SPLITS:
        assert set(getattr(found, name).y) == set(range(30))


def test_splits_are_the_same_in_every_call_whatever_was_random_before(tmp_path):
    source = separated(tmp_path / "t.csv", rows())
    one = data.load(source)
    np.random.seed(3)
    other = data.load(source)
    for name in SPLITS:
        assert getattr(one, name).x.tolist() == getattr(other, name).x.tolist()
        assert getattr(one, name).y.tolist() == getattr(other, name).y.tolist()


def test_the_order_of_a_split_does_not_follow_the_files(tmp_path):
    table = sorted(rows(400), key=lambda row: row[1])
    found = data.load(separated(tmp_path / "t.csv", table))
    for name in SPLITS:
        assert 10 < getattr(found, name).y[:40].sum() < 30


def test_copies_of_a_text_are_left_out_whatever_their_case_and_spaces(tmp_path):
    table = rows()
    copies = [(f"  {text.upper()}\n", label) for text, label in table[:5]]
    found = data.load(separated(tmp_path / "t.csv", table + copies))
    assert pairs(found) == set(table)
    assert "5 duplicate texts left out" in found.notes
    assert sum(len(getattr(found, name)) for name in SPLITS) == 80


def test_texts_whose_copies_have_other_labels_are_left_out_altogether(tmp_path):
    table = rows()
    text, label = table[7]
    odd = [(text, "good" if label == "bad" else "bad"), (text, label), table[3]]
    found = data.load(separated(tmp_path / "t.csv", table + odd))
    assert pairs(found) == set(table) - {table[7]}
    assert "1 duplicate text and 3 with conflicting labels left out" in found.notes


def grouped(count, groups, classes=("a", "b", "c")):
    random = np.random.default_rng(SEED)
    table = rows(count, classes)
    return [(text, label, f"g{random.integers(groups)}") for text, label in table]


@pytest.mark.parametrize("groups", [12, 200])
def test_no_group_is_in_two_splits_and_every_class_has_its_share(tmp_path, groups):
    table = grouped(2000, groups)
    source = separated(tmp_path / "t.csv", table, ("text", "label", "group"))
    found = data.load(source, Columns(group="group"))
    group = {text: group for text, _, group in table}
    parts = [{group[text] for text in getattr(found, name).x} for name in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == groups
    shares = [len(getattr(found, name)) / 2000 for name in SPLITS]
    assert np.abs(np.array(shares) - [0.6, 0.15, 0.25]).max() < (0.05 if groups < 100 else 0.02)
    for name in SPLITS:
        part = getattr(found, name)
        assert np.abs(np.bincount(part.y) / len(part) - 1 / 3).max() < 0.1


def test_groups_and_several_labels_go_together(tmp_path):
    table = [
        {"text": text, "label": labels, "writer": i % 40}
        for i, (text, labels) in enumerate(many(400))
    ]
    source = json_lines(tmp_path / "t.jsonl", table)
    found = data.load(source, Columns(group="writer"))
    group = {row["text"]: row["writer"] for row in table}
    parts = [{group[text] for text in getattr(found, name).x} for name in SPLITS]
    assert sum(map(len, parts)) == 40


def test_three_groups_are_enough_and_two_are_not(tmp_path):
    for groups in (2, 3):
        table = [(text, label, f"g{i // 2 % groups}") for i, (text, label) in enumerate(rows())]
        source = separated(tmp_path / "t.csv", table, ("text", "label", "group"))
        columns = Columns(group="group")
        if groups == 2:
            assert refusal(source, columns) == (
                f"{source}: 2 groups; at least 3 are needed, since none may be in two splits"
            )
        else:
            assert all(len(getattr(data.load(source, columns), name)) for name in SPLITS)


def test_a_class_that_groups_keep_out_of_a_split_is_told(tmp_path):
    table = [(text, label, f"g{i // 2 % 10}") for i, (text, label) in enumerate(rows(200))]
    table += [(f"odd {i}", "odd", "g0") for i in range(20)]
    source = separated(tmp_path / "t.csv", table, ("text", "label", "group"))
    found = data.load(source, Columns(group="group"))
    without = [name for name in SPLITS if 2 not in getattr(found, name).y]
    assert without == ["validation", "test"]
    assert {f"the {name} split has no 'odd'" for name in without} <= set(found.notes)


def test_a_class_that_groups_leave_no_training_row_is_refused(tmp_path):
    table = [(text, label, label) for text, label in rows(90, ("a", "b", "c"))]
    source = separated(tmp_path / "t.csv", table, ("text", "label", "group"))
    sentence = refusal(source, Columns(group="group"))
    assert sentence.endswith(" has no sample left to train with")


# Splits that are given


def folder(tmp_path, suffix="csv", **tables):
    for name, table in tables.items():
        path = tmp_path / f"{name}.{suffix}"
        json_lines(path, objects(table)) if suffix == "jsonl" else separated(path, table)
    return tmp_path


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev"])
def test_a_folder_gives_its_splits(tmp_path, validation):
    table = rows()
    folder(tmp_path, train=table[:50], test=table[60:])
    folder(tmp_path, "jsonl", **{validation: table[50:60]})
    found = data.load(str(tmp_path))
    assert found.name == tmp_path.name
    assert pairs(found, "train") == set(table[:50])
    assert pairs(found, "validation") == set(table[50:60])
    assert pairs(found, "test") == set(table[60:])


def test_splits_that_are_missing_are_made_from_the_training_rows(tmp_path):
    table = rows(100)
    given = folder(tmp_path, train=table[:80], test=table[80:])
    found = data.load(str(given))
    assert pairs(found, "test") == set(table[80:])
    assert pairs(found, "train", "validation") == set(table[:80])
    assert len(found.validation) == 16
    (tmp_path / "test.csv").unlink()
    found = data.load(str(given))
    assert pairs(found) == set(table[:80])
    assert len(found.test) == 20


def test_training_rows_that_stand_in_other_splits_are_left_out(tmp_path):
    table = rows(100)
    found = data.load(
        str(
            folder(
                tmp_path,
                train=[*table[:60], (table[95][0].upper(), "good"), table[65]],
                validation=[*table[60:80], table[99]],
                test=table[80:],
            )
        )
    )
    assert pairs(found, "train") == set(table[:60])
    assert pairs(found, "validation") == set(table[60:80])
    assert pairs(found, "test") == set(table[80:])
    assert "1 train text left out, standing in the test split too" in found.notes
    assert "1 train text left out, standing in the validation split too" in found.notes
    assert "1 validation text left out, standing in the test split too" in found.notes


def test_a_folder_whose_training_rows_are_all_in_the_test_split_is_refused(tmp_path):
    given = folder(tmp_path, train=rows(), test=rows())
    place = tmp_path / "train.csv"
    sentence = f"{place}: nothing is left; every row stands in the test split too"
    assert refusal(given) == sentence


def test_training_rows_of_groups_in_other_splits_are_left_out(tmp_path):
    table = [(text, label, f"g{i // 10}") for i, (text, label) in enumerate(rows(100))]
    header = ("text", "label", "group")
    separated(tmp_path / "train.csv", table[:85], header)
    separated(tmp_path / "test.csv", table[85:], header)
    found = data.load(str(tmp_path), Columns(group="group"))
    assert "5 train texts left out, of groups in the test split" in found.notes
    group = {text: group for text, _, group in table}
    parts = [{group[text] for text in getattr(found, name).x} for name in SPLITS]
    assert sum(map(len, parts)) == 10


def test_a_label_that_training_rows_do_not_have_is_named(tmp_path):
    table = rows(100)
    given = folder(tmp_path, train=table[:80], test=[*table[80:], ("what", "new")])
    assert refusal(given) == (
        f"{tmp_path / 'test.csv'}, line 22: the label 'new' does not occur in "
        f"{tmp_path / 'train.csv'}"
    )


def test_a_column_that_one_split_does_not_have_is_named(tmp_path):
    given = folder(tmp_path, train=rows())
    separated(tmp_path / "test.csv", rows(), ("text", "lable"))
    assert refusal(given) == (
        f"{tmp_path / 'test.csv'}: no column named 'label'; did you mean 'lable'? "
        "(known: lable, text)"
    )


def test_a_split_without_labels_is_not_used(tmp_path):
    given = folder(tmp_path, train=rows(), test=[(f"what {i}", "") for i in range(9)])
    found = data.load(str(given))
    assert "the test split has no labels and is not used" in found.notes
    assert pairs(found) == set(rows())


def test_a_folder_with_two_tables_for_a_split_or_none_is_refused(tmp_path):
    assert refusal(tmp_path).startswith(f"{tmp_path}: no table train.csv, train.tsv, ")
    folder(tmp_path, train=rows(), test=rows())
    folder(tmp_path, "jsonl", test=rows())
    assert refusal(tmp_path) == f"{tmp_path}: both test.csv and test.jsonl; keep one of the two"
    (tmp_path / "test.csv").write_text("text,label\n", encoding="utf-8")
    (tmp_path / "test.jsonl").unlink()
    assert refusal(tmp_path) == f"{tmp_path / 'test.csv'}: no rows"


# Texts without labels


def test_unlabelled_texts_are_those_that_no_split_has(tmp_path):
    source = separated(tmp_path / "t.csv", rows())
    more = ["New one", "new  ONE", "", "another", rows()[3][0].upper(), "  "]
    path = tmp_path / "more.txt"
    path.write_text("\n".join(more), encoding="utf-8")
    found = data.load(source, Columns(unlabelled=str(path)))
    assert texts(found.unlabelled) == {"New one", "another"}
    assert found.unlabelled.y.tolist() == [-1, -1]
    assert "2 unlabelled texts, 2 duplicates left out" in found.notes
    assert found.digest != data.load(source).digest


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "column"])
def test_unlabelled_texts_come_from_any_table(tmp_path, kind):
    source = separated(tmp_path / "t.csv", rows())
    new = [f"thing number {i}" for i in range(9)]
    if kind == "jsonl":
        path = json_lines(tmp_path / "more.jsonl", [{"text": t, "id": 3} for t in new])
    elif kind == "parquet":
        path = parquet(tmp_path / "more.parquet", text=new)
    else:
        header = ("text", "id") if kind == "csv" else ("id", "body")
        table = [(t, 3) if kind == "csv" else (3, t) for t in new]
        path = separated(tmp_path / "more.csv", table, header)
    assert texts(data.load(source, Columns(unlabelled=path)).unlabelled) == set(new)


def test_unlabelled_texts_beside_several_labels_have_as_many_unknown(tmp_path):
    source = json_lines(tmp_path / "t.jsonl", objects(many()))
    path = tmp_path / "more.txt"
    path.write_text("one\ntwo\n", encoding="utf-8")
    assert data.load(source, Columns(unlabelled=str(path))).unlabelled.y.tolist() == [[-1] * 3] * 2


def test_unlabelled_texts_that_cannot_be_used_are_refused(tmp_path):
    source = separated(tmp_path / "t.csv", rows())
    path = tmp_path / "more.txt"
    columns = Columns(unlabelled=str(path))
    assert refusal(source, columns) == f"{path}: cannot be read (No such file or directory)"
    path.write_text(f"\n{rows()[0][0]}\n", encoding="utf-8")
    sentence = refusal(source, columns)
    assert sentence == f"{path}: no text that is not in the labelled data already"
    path.write_bytes(b"one\n\nca\xe9\n")
    assert refusal(source, columns).startswith(f"{path}, line 3: not UTF-8 (byte 0xe9)")
    path = json_lines(tmp_path / "more.jsonl", [{"text": "one"}, {"text": 3}])
    columns = Columns(unlabelled=path)
    assert refusal(source, columns) == f"{path}, line 2: the text is an integer, not a string"


# Digests


def test_the_digest_changes_with_every_text_and_label_and_not_with_the_name(tmp_path):
    table = rows()
    digests = {data.load(separated(tmp_path / "a.csv", table)).digest}
    assert data.load(separated(tmp_path / "b.csv", table)).digest in digests
    other = list(table)
    other[5] = (other[5][0] + ".", other[5][1])
    digests.add(data.load(separated(tmp_path / "a.csv", other)).digest)
    other = list(table)
    other[5], other[6] = (other[5][0], other[6][1]), (other[6][0], other[5][1])
    digests.add(data.load(separated(tmp_path / "a.csv", other)).digest)
    renamed = [(text, label + "ly") for text, label in table]
    digests.add(data.load(separated(tmp_path / "a.csv", renamed)).digest)
    assert len(digests) == 4


# The datasets library


def saved(tmp_path, splits, names=("neg", "pos"), key="label"):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {"text": datasets.Value("string"), key: datasets.ClassLabel(names=list(names))}
    )

    def make(table):
        columns = {"text": [t for t, _ in table], key: [y for _, y in table]}
        return datasets.Dataset.from_dict(columns, features=features)

    if isinstance(splits, dict):
        whole = datasets.DatasetDict({name: make(table) for name, table in splits.items()})
    else:
        whole = make(splits)
    whole.save_to_disk(str(tmp_path / "set"))
    return str(tmp_path / "set")


def numbered(count=80, classes=2):
    return [(text, i % classes) for i, (text, _) in enumerate(rows(count))]


def test_a_saved_data_set_gives_texts_and_the_names_of_its_labels(tmp_path):
    found = data.load(saved(tmp_path, numbered(), ("pos", "neg"), "kind"))
    assert (found.name, found.labels) == ("set", ("pos", "neg"))
    assert pairs(found) == {(text, ("pos", "neg")[y]) for text, y in numbered()}


def test_a_saved_data_set_gives_its_splits(tmp_path):
    table = numbered()
    splits = {"train": table[:60], "test": table[60:], "unsupervised": [("x", -1)]}
    found = data.load(saved(tmp_path, splits))
    assert texts(found.test) == {text for text, _ in table[60:]}
    assert texts(found.train) | texts(found.validation) == {text for text, _ in table[:60]}


def test_a_saved_test_split_without_labels_is_not_used(tmp_path):
    splits = {"train": numbered(), "test": [(f"what {i}", -1) for i in range(5)]}
    found = data.load(saved(tmp_path, splits))
    assert "the test split has no labels and is not used" in found.notes
    assert len(found.test) == 20


def test_a_saved_data_set_with_a_bad_row_an_empty_class_or_no_training_split_is_refused(tmp_path):
    bad = [*numbered(), ("one", -1)]
    source = saved(tmp_path / "row", bad)
    assert refusal(source) == f"{source}, row 81: no label"
    source = saved(tmp_path / "class", numbered(), ("neg", "pos", "odd"))
    assert refusal(source).startswith(f"{source}: the class 'odd' has 0 samples; at least 8")
    source = saved(tmp_path / "split", {"a": numbered(), "b": numbered()})
    assert refusal(source) == f"{source}: no split named 'train' (found: a, b)"
    source = saved(tmp_path / "twice", dict.fromkeys(("train", "validation", "dev"), numbered()))
    assert refusal(source) == f"{source}: both 'validation' and 'dev' are among its splits"


def test_a_damaged_saved_data_set_is_refused(tmp_path):
    source = saved(tmp_path, numbered())
    (tmp_path / "set" / "state.json").write_text("{", encoding="utf-8")
    assert refusal(source).startswith(f"{source}: not a readable saved data set (")


def test_lists_of_named_labels_keep_their_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    kind = datasets.Sequence(datasets.ClassLabel(names=["z", "a"]))
    features = datasets.Features({"text": datasets.Value("string"), "tags": kind})
    sets = [[], [0], [1], [0, 1]]
    columns = {"text": [t for t, _ in rows()], "tags": [sets[i % 4] for i in range(80)]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "set"))
    found = data.load(str(tmp_path / "set"))
    assert found.labels == ("z", "a")
    wanted = dict(zip(columns["text"], columns["tags"], strict=True))
    for text, y in zip(found.test.x, found.test.y, strict=True):
        assert np.flatnonzero(y).tolist() == wanted[text]


def test_a_missing_library_names_the_extra(tmp_path, monkeypatch):
    parquet(tmp_path / "t.parquet", text=["one"], label=["bad"])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "state.json").touch()
    for package in ("datasets", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, package, None)
    wanted = "is needed for these data; install it with: pip install 'edgedistill[datasets]'"
    assert refusal(tmp_path / "t.parquet") == f"the package 'pyarrow' {wanted}"
    assert refusal(tmp_path / "set") == f"the package 'datasets' {wanted}"
    assert refusal("owner/reviews") == f"the package 'datasets' {wanted}"


class Hub:
    """Stands in for the libraries; remembers what was asked for, and whether offline."""

    def __init__(self, monkeypatch, probe=None, answer=None):
        self.asked, self.probe, self.answer = [], probe, answer
        self.constants = types.SimpleNamespace(HF_HUB_OFFLINE=False)
        monkeypatch.setitem(sys.modules, "datasets", self)
        monkeypatch.setitem(sys.modules, "huggingface_hub", self)

    def HfApi(self):
        return self

    def dataset_info(self, name, timeout):
        if self.probe:
            raise self.probe

    def load_dataset(self, name, config):
        self.asked.append((name, config, self.constants.HF_HUB_OFFLINE))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("reviews", ("reviews", None)),
        ("owner/reviews", ("owner/reviews", None)),
        ("owner/reviews:small", ("owner/reviews", "small")),
        ("glue:sst2", ("glue", "sst2")),
    ],
)
def test_a_hubs_name_is_asked_for_with_its_configuration(tmp_path, monkeypatch, source, asked):
    datasets = pytest.importorskip("datasets")
    table = numbered()
    made = datasets.load_from_disk(saved(tmp_path, {"train": table[:60], "test": table[60:]}))
    hub = Hub(monkeypatch, answer=made)
    found = data.load(source)
    assert hub.asked == [(*asked, False)]
    assert found.name == source
    assert texts(found.test) == {text for text, _ in table[60:]}


def test_a_hub_that_cannot_be_reached_is_one_sentence_and_only_the_cache_is_asked(monkeypatch):
    failure = ConnectionError("Couldn't reach 'owner/reviews' on the Hub\nmore")
    hub = Hub(monkeypatch, probe=OSError("no route"), answer=failure)
    assert refusal("owner/reviews") == (
        "no file, folder or built-in data set 'owner/reviews', and none to be had from the hub "
        "(Couldn't reach 'owner/reviews' on the Hub)"
    )
    assert hub.asked == [("owner/reviews", None, True)]
    assert hub.constants.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_is_asked_again_for_its_own_words(monkeypatch):
    refused = OSError("401")
    refused.response = object()
    hub = Hub(monkeypatch, probe=refused, answer=ValueError("gated"))
    assert refusal("owner/reviews").endswith("none to be had from the hub (gated)")
    assert hub.asked == [("owner/reviews", None, False)]


def test_offline_a_hubs_name_fails_at_once(tmp_path):
    pytest.importorskip("datasets")
    code = (
        "import sys, time; from edgedistill import data, errors\n"
        "import datasets; begin = time.time()\n"
        "try: data.load('owner/reviews')\n"
        "except errors.DataError as error: print(error, time.time() - begin < 2)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
    assert out.startswith("no file, folder or built-in data set 'owner/reviews', and none to be")
    assert out.endswith(" True\n")


# What is no such data


@pytest.mark.parametrize(
    "source", ["", "two words", "a/b/c", "x\0y", "x" * 5000 + "/", "../ there"]
)
def test_what_is_no_name_and_no_path_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(source)


def test_a_missing_table_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub = Hub(monkeypatch)
    sentence = refusal("data/tweets.csv")
    assert sentence == "data/tweets.csv: cannot be read (No such file or directory)"
    assert refusal("digtis").startswith("no data set named 'digtis'; did you mean 'digits'?")
    assert hub.asked == []


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "t.xlsx"
    path.write_bytes(b"PK")
    assert refusal(path) == (
        f"{path}: not a kind of file that holds a table (.csv, .tsv, .jsonl, .json, .parquet)"
    )
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1")
    assert refusal(path).startswith(f"{path}: not a readable Parquet file (")
    folder = tmp_path / "x.csv"
    folder.mkdir()
    assert refusal(folder).startswith(f"{folder}: no table train.csv")
