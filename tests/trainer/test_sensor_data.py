"""Readings of sensors become windows, or a sentence that names the file and the line."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest

from edgedistill import data
from edgedistill.data import Columns, Decoding, sensors, tables
from edgedistill.errors import DataError
from edgedistill_runtime import inputs
from edgedistill_runtime.manifest import Sample

SEED = 13
SPLITS = ("train", "validation", "test")
SMALL = Decoding(window=16, hop=8)
HEADER = ("left", "right", "label")


def values(seed, steps, channels=2):
    """(channels, steps), as they stand in files."""
    random = np.random.default_rng([SEED, seed])
    return random.normal(size=(channels, steps)).round(4).astype(np.float32)


def write(path, header, rows, separator=",", end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(map(str, row)) for row in (header, *rows)]
    path.write_text(end.join(lines) + end, encoding="utf-8", newline="")
    return path


def whole(recording, window=16, hop=8):
    """Windows that lie in the recording as a whole, (channels, steps) -> list of bytes."""
    starts = range(0, recording.shape[1] - window + 1, hop)
    return [recording[:, i : i + window].tobytes() for i in starts]


def samples(found):
    parts = [getattr(found, name) for name in SPLITS]
    return {x.tobytes(): found.labels[y] for p in parts for x, y in zip(p.x, p.y, strict=True)}


def refusal(source, decoding=SMALL, columns=data.FOUND):
    with pytest.raises(DataError) as caught:
        data.load(str(source), columns, decoding)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Tables


RUNS = [(label, 20 + 7 * i) for i in range(12) for label in ("rest", "walk")]


def rows_of(runs=RUNS, more=lambda run: ()):
    """Rows of runs of a label, one after the other, with further cells for each."""
    return [
        (*row, label, *more(i))
        for i, (label, steps) in enumerate(runs)
        for row in values(i, steps).T.tolist()
    ]


@pytest.fixture
def table(tmp_path):
    def table(rows=None, header=HEADER, **options):
        return write(tmp_path / "arm.csv", header, rows_of() if rows is None else rows, **options)

    return table


def test_rows_are_steps_and_no_window_has_steps_of_two_runs(table):
    found = data.load(str(table()), decoding=SMALL)
    expected = {w: label for i, (label, n) in enumerate(RUNS) for w in whole(values(i, n))}
    assert samples(found) == expected
    assert found.sample == Sample("sensor", "float32", (2, 16), None, 8)
    assert (found.task, found.input_shape) == ("sensor-classification", (2, 1, 16))
    assert f"24 recordings, {len(expected)} windows of 16 steps" in found.notes


def test_a_window_has_128_steps_and_the_next_begins_at_its_middle(table):
    found = data.load(str(table(rows_of([("rest", 200), ("walk", 300)] * 4))))
    assert (found.sample.shape, found.sample.hop) == ((2, 128), 64)
    assert len(samples(found)) == 4 * (2 + 3)


def test_windows_of_one_run_never_stand_in_two_splits(table):
    found = data.load(str(table()), decoding=SMALL)
    of = {w: i for i, (_, n) in enumerate(RUNS) for w in whole(values(i, n))}
    parts = [{of[x.tobytes()] for x in getattr(found, name).x} for name in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 24


def test_rows_of_one_group_never_stand_in_two_splits(table):
    rows = rows_of(more=lambda run: (f"s{run // 4}",))
    found = data.load(
        str(table(rows, (*HEADER, "who"))), Columns(group="who", label="label"), SMALL
    )
    of = {w: i // 4 for i, (_, n) in enumerate(RUNS) for w in whole(values(i, n))}
    parts = [{of[x.tobytes()] for x in getattr(found, name).x} for name in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 6
    assert samples(found).keys() == of.keys()


def test_another_group_is_another_recording(table):
    runs = [("rest", 20)] * 8 + [("walk", 20)] * 8
    columns = Columns(label="label", group="day")
    rows = rows_of(runs, lambda run: (run,))
    found = data.load(str(table(rows, (*HEADER, "day"))), columns, Decoding(window=16, hop=4))
    assert samples(found) == {
        w: label for i, (label, n) in enumerate(runs) for w in whole(values(i, n), hop=4)
    }


def test_runs_shorter_than_a_window_are_left_out_and_counted(table):
    runs = [*RUNS, ("rest", 15), ("walk", 3), ("rest", 40)]
    found = data.load(str(table(rows_of(runs))), decoding=SMALL)
    expected = {w: label for i, (label, n) in enumerate(runs) for w in whole(values(i, n))}
    assert samples(found) == expected
    assert f"27 recordings, {len(expected)} windows of 16 steps" in found.notes
    assert "2 recordings shorter than a window, left out" in found.notes


def test_a_class_without_a_whole_window_is_refused(table):
    rows = rows_of([("rest", 40), ("walk", 15), ("rest", 40), ("walk", 12)] * 4)
    assert refusal(table(rows)) == (
        f"{table(rows)}: the class 'walk' has no recording of 16 steps, its longest has 15; give a "
        "smaller window"
    )


def test_shuffled_rows_are_refused_with_what_a_recording_is(table):
    rows = rows_of([("rest", 2), ("walk", 1)] * 90)
    assert refusal(table(rows)) == (
        f"{table(rows)}: a window has 16 steps and the longest recording (rows that follow each "
        "other with one label and group) 2; give a smaller window"
    )


@pytest.mark.parametrize(
    ("decoding", "told"),
    [
        (Decoding(window=16, hop=17), "hop is 17 and window 16; a hop is from 1 step to a window"),
        (Decoding(window=16, hop=0), "hop is 0 and window 16"),
        (Decoding(window=0), "a window has 0 steps"),
        (
            Decoding(window=104),
            "a window has 104 steps and the longest recording (rows that follow",
        ),
    ],
)
def test_windows_that_cannot_be_are_refused(table, decoding, told):
    assert f"arm.csv: {told}" in refusal(table(), decoding)


@pytest.mark.parametrize("stamp", ["17", "2026-11-24 12:00:01.5", "nan", ""])
def test_columns_that_say_when_are_no_channel(table, stamp):
    rows = [(stamp, *row) for row in rows_of()]
    found = data.load(str(table(rows, ("Timestamp", *HEADER))), decoding=SMALL)
    assert samples(found) == samples(data.load(str(table()), decoding=SMALL))
    assert "the column 'Timestamp' is no channel" in found.notes


def test_an_axis_called_y_is_a_channel_beside_a_label(table):
    found = data.load(str(table(header=("x", "y", "label"))), decoding=SMALL)
    assert (found.labels, found.sample.shape) == (("rest", "walk"), (2, 16))


def test_two_columns_that_may_be_the_labels_are_refused(table):
    rows = [(*row, "a") for row in rows_of()]
    source = table(rows, (*HEADER, "activity"))
    with pytest.raises(DataError, match="may be in 'label' or 'activity'; name the label column"):
        sensors.read_table(tables.read_table(source), Columns(), SMALL)


def test_labels_that_are_whole_numbers_stand_by_their_value(table):
    runs = [(label, 40) for _ in range(4) for label in ("10", "9", " 2 ", "-1")]
    assert data.load(str(table(rows_of(runs))), decoding=SMALL).labels == ("-1", "2", "9", "10")


def test_semicolons_and_lines_of_other_systems_are_read(table):
    expected = samples(data.load(str(table()), decoding=SMALL))
    source = table(separator=";", end="\r\n")
    assert samples(data.load(str(source), decoding=SMALL)) == expected


@pytest.mark.parametrize(
    "cell", ["nan", "inf", "-Infinity", "", "1e39", "-1e999", "n/a", "1,5", "0x1"]
)
def test_what_is_no_finite_number_is_refused_by_its_line(table, cell):
    rows = rows_of()
    for row in (300, 400):
        rows[row] = (rows[row][0], f'"{cell}"', rows[row][2])
    source = table(rows)
    named = repr(cell) + ", and not a finite number; correct it" if cell else "empty; fill the gap"
    with pytest.raises(DataError) as caught:
        sensors.read_table(tables.read_table(source), Columns(), SMALL)
    assert str(caught.value) == (
        f"{source}, line 302: 'right' is {named}, or leave the line out (and 1 more row)"
    )


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("", "'label' is empty"),
        ("  ", "'label' is empty"),
        ("x" * 257, "'label' is a text of 257 characters; at most 256"),
        ("a\x07", "'label' is 'a\\x07', with a control character"),
    ],
    ids=["none", "blank", "long", "bell"],
)
def test_labels_that_are_none_are_refused_by_their_line(table, label, told):
    rows = rows_of()
    rows[9] = (*rows[9][:2], label)
    assert f"arm.csv, line 11: {told}" in refusal(table(rows), columns=Columns(label="label"))


def test_a_row_without_a_group_is_refused_by_its_line(table):
    rows = rows_of(more=lambda run: ("" if run == 1 else "s1",))
    source = table(rows, (*HEADER, "who"))
    assert "arm.csv, line 22: 'who' is empty" in refusal(source, columns=Columns(group="who"))


def test_ragged_rows_are_refused_by_their_line(table):
    rows = rows_of()
    rows[5] = (*rows[5], 1)
    assert "arm.csv, line 7: 4 fields, and the first line names 3" in refusal(table(rows))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (Columns(label="lable"), "no column named 'lable'; did you mean 'label'?"),
        (Columns(label="label", group="label"), "'label' is named for the labels and the groups"),
    ],
)
def test_columns_that_cannot_be_are_refused(table, columns, told):
    with pytest.raises(DataError, match=told.replace("?", r"\?")):
        sensors.read_table(tables.read_table(table()), columns, SMALL)


def test_a_table_without_rows_or_readings_is_refused(table):
    for rows, header, told in (
        ([], HEADER, "no rows"),
        ([("1", "a")], ("t", "label"), "no column"),
    ):
        with pytest.raises(DataError, match=f"arm.csv: {told}"):
            sensors.read_table(tables.read_table(table(rows, header)), Columns(), SMALL)


def test_one_class_is_refused(table):
    assert "only one class" in refusal(table(rows_of([("rest", 400)] * 3)))


def test_twenty_thousand_rows_take_no_time_to_speak_of(table):
    steps = values(0, 20_000, channels=6).T.tolist()
    rows = [(*row, "ab"[i // 40 % 2]) for i, row in enumerate(steps)]
    read = tables.read_table(table(rows, (*"uvwxyz", "label")))
    before = time.process_time()
    found = sensors.read_table(read, Columns(), SMALL)
    assert time.process_time() - before < 1
    assert found.x.shape == (500 * 4, 6, 16)


# Folders


def fill(folder, classes=("rest", "walk"), each=8, steps=lambda i: 40 + 8 * i, seed=0, **options):
    """CSV files, every one with readings of its own; -> path -> (channels, steps)."""
    made = {}
    for i, name in enumerate(classes):
        for j in range(each):
            recording = values(1000 * seed + 100 * i + j, steps(j))
            path = write(folder / name / f"{j}.csv", HEADER[:2], recording.T.tolist(), **options)
            made[path] = recording
    return made


def windows_of(made):
    return {w: path.parent.name for path, recording in made.items() for w in whole(recording)}


def test_a_file_is_a_recording_and_its_folder_the_class(tmp_path):
    made = fill(tmp_path)
    found = data.load(str(tmp_path), decoding=SMALL)
    assert samples(found) == windows_of(made)
    assert found.sample == Sample("sensor", "float32", (2, 16), None, 8)
    assert f"16 recordings, {len(windows_of(made))} windows of 16 steps" in found.notes


def test_windows_of_one_file_never_stand_in_two_splits(tmp_path):
    made = fill(tmp_path)
    found = data.load(str(tmp_path), decoding=SMALL)
    of = {w: path for path, recording in made.items() for w in whole(recording)}
    parts = [{of[x.tobytes()] for x in getattr(found, name).x} for name in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 16


def test_files_are_cut_as_on_the_board(tmp_path):
    fill(tmp_path, steps=lambda i: 10 + 9 * i)
    found = data.load(str(tmp_path), decoding=SMALL)
    cut = {
        item.sample.tobytes(): path.parent.name
        for path in sorted(tmp_path.glob("*/*.csv"))
        for item in inputs.read_items(str(path), io.BytesIO(), found.sample)
    }
    assert samples(found) == cut
    assert "2 recordings shorter than a window, filled with zeros" in found.notes


@pytest.mark.parametrize("options", [{"end": "\r\n"}, {"end": "\n\n"}, {"end": "\r"}], ids=repr)
def test_lines_of_other_systems_and_empty_ones_are_read(tmp_path, options):
    made = fill(tmp_path, **options)
    assert samples(data.load(str(tmp_path), decoding=SMALL)) == windows_of(made)


def test_quotes_blanks_and_a_byte_order_mark_are_read(tmp_path):
    made = fill(tmp_path)
    for path, recording in made.items():
        rows = [f'"{a}", {b} ' for a, b in recording.T.tolist()]
        path.write_text("\n".join(["\ufeffleft, right", *rows]), encoding="utf-8")
    assert samples(data.load(str(tmp_path), decoding=SMALL)) == windows_of(made)


@pytest.mark.parametrize(
    ("name", "cell", "named"),
    [
        ("time", "0.5", "'time'"),
        ("Timestamp", "2026-11-24 12:00:01", "'Timestamp'"),
        ("date", "", "'date'"),
        ("", "7", "without a name"),  # which pandas writes
    ],
)
def test_columns_that_are_no_channel_may_hold_anything(tmp_path, name, cell, named):
    made = fill(tmp_path)
    for path, recording in made.items():
        write(path, (name, *HEADER[:2]), [(cell, *row) for row in recording.T.tolist()])
    found = data.load(str(tmp_path), decoding=SMALL)
    assert samples(found) == windows_of(made)
    assert f"the column {named} is no channel" in found.notes


def test_columns_may_be_named_by_their_number(tmp_path):
    made = fill(tmp_path)
    for path, recording in made.items():
        write(path, (0, 1), recording.T.tolist())
    assert samples(data.load(str(tmp_path), decoding=SMALL)) == windows_of(made)


def test_given_splits_stay_and_the_test_split_may_lack_a_class(tmp_path):
    made = fill(tmp_path / "train")
    given = fill(tmp_path / "test", classes=("walk",), each=2, seed=1)
    found = data.load(str(tmp_path), decoding=SMALL)
    tested = {x.tobytes(): found.labels[y] for x, y in zip(found.test.x, found.test.y, strict=True)}
    assert tested == windows_of(given)
    assert samples(found) == windows_of(made | given)
    assert f"18 recordings, {len(samples(found))} windows of 16 steps" in found.notes


def test_other_columns_are_refused_by_the_files_name(tmp_path):
    made = fill(tmp_path)
    path = list(made)[5]
    write(path, ("right", "left"), made[path].T.tolist())
    assert refusal(tmp_path) == (
        f"{path}: the columns are right, left, and {next(iter(made))} has left, right; all "
        "recordings have the same columns"
    )


def bad(tmp_path, content):
    path = list(fill(tmp_path))[3]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1,2,3", "3 values, and the first line names 2"),
        ("1", "1 value, and the first line names 2"),
        ("1,nan", "a reading is 'nan', and not a finite number; correct it, or leave the line out"),
        ("-inf,1", "a reading is '-inf', and not a finite number"),
        ("1e39,1", "a reading is '1e39', and not a finite number"),
        ("1,", "a reading is empty; fill the gap, or leave the line out"),
        ("1,up", "a reading is 'up', and not a finite number"),
        ('1,"2\n3"', "a reading is '2\\n3', and not"),
        ("#1,2", "a reading is '#1', and not"),
        ("1;2", "1 value, and the first line names 2"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(tmp_path, line, told):
    path = bad(tmp_path, f"left,right\n1,2\n\n{line}\n5,6\nno,7\n")
    number = 4 + line.count("\n")
    assert refusal(tmp_path).startswith(f"{path}, line {number}: {told}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "an empty file; a recording has a line of names and then numbers"),
        ("\n\n", "an empty file"),
        ("left,right\n", "no readings after the line of names"),
        ("left,right\n\n \n", None),
        ("0.1,0.2\n0.3,0.4\n", "the first line holds numbers (0.1, 0.2); it names the columns"),
        (
            "left;right\n1;2\n",
            "one column 'left;right'; columns are separated by commas, not by ';'",
        ),
        ("time,index\n1,2\n", "no column of readings (columns: time, index)"),
        ("left,right\n1,2\n".encode("utf-16"), "not UTF-8 (byte 0xff); save the file as UTF-8"),
        ("left,right\n1," + "9" * 200_000 + "\n", "not a readable CSV file (field larger than"),
        ("left,right\n1,\0\n", None),
    ],
    ids=range(10),
)
def test_a_file_that_is_no_recording_is_refused_by_its_name(tmp_path, content, told):
    path = bad(tmp_path, content)
    assert refusal(tmp_path).startswith(f"{path}: {told}" if told else str(path))


def test_a_window_longer_than_every_file_is_refused(tmp_path):
    fill(tmp_path)
    assert refusal(tmp_path, Decoding(window=97)) == (
        f"{tmp_path}: a window has 97 steps and the longest recording 96; give a smaller window"
    )


def test_one_class_and_a_class_without_files_are_refused(tmp_path):
    fill(tmp_path, classes=("rest",))
    assert "only one class" in refusal(tmp_path)
    (tmp_path / "walk").mkdir()
    assert f"{tmp_path / 'walk'}: no .csv file" in refusal(tmp_path)


# Arrays


@pytest.fixture
def array(tmp_path):
    def array(**arrays):
        path = tmp_path / "walks.npz"
        made = {"x": np.stack([values(i, 64) for i in range(40)]), "y": np.arange(40) % 2}
        np.savez(path, **made | arrays)
        return str(path)

    return array


def test_samples_of_a_file_are_cut_where_a_window_is_given(array):
    found = data.load(array(rate=50), decoding=SMALL)
    of = {w: i for i in range(40) for w in whole(values(i, 64))}
    assert samples(found) == {w: str(i % 2) for w, i in of.items()}
    assert found.sample == Sample("sensor", "float32", (2, 16), 50.0, 8)
    assert "40 recordings, 280 windows of 16 steps" in found.notes
    parts = [{of[x.tobytes()] for x in getattr(found, name).x} for name in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40


def test_groups_hold_their_samples_windows_together(array):
    found = data.load(array(group=np.arange(40) // 4), decoding=SMALL)
    of = {w: i // 4 for i in range(40) for w in whole(values(i, 64))}
    parts = [{of[x.tobytes()] for x in getattr(found, name).x} for name in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10


@pytest.mark.parametrize(("hop", "kept"), [(None, None), (32, 32), (64, None)])
def test_samples_that_are_windows_may_have_a_hop_for_the_board(array, hop, kept):
    found = data.load(array(), decoding=Decoding(hop=hop))
    assert (found.sample.shape, found.sample.hop) == ((2, 64), kept)
    assert len(samples(found)) == 40


def test_windows_and_hops_longer_than_the_samples_are_refused(array):
    assert "a window has 65 steps and the longest recording 64" in refusal(
        array(), Decoding(window=65)
    )
    assert "hop is 65 and window 64" in refusal(array(), Decoding(hop=65))


def test_what_single_precision_cannot_hold_is_refused_by_its_place(array):
    x = np.stack([values(i, 64) for i in range(40)]).astype(np.float64)
    x[7, 1, 3] = x[9, 0, 0] = 1e39
    assert "walks.npz: x[7, 1, 3] is 1e+39, which is no finite number (2 in all)" in refusal(
        array(x=x)
    )
