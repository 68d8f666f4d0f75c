"""The folder of a fit belongs to one recipe and one run, and nothing of anybody else is touched."""

from __future__ import annotations

import multiprocessing

import pytest

from edgedistill.cache import digest
from edgedistill.errors import SettingsError
from edgedistill.recipe import GivenTraining, Recipe
from edgedistill.workspace import open_workspace


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def recipe(out, **options):
    return Recipe(profile="rpi4", out=str(out), **options)


def use(made, fresh=False):
    """One run: a stage is found or made.  Returns whether it had to be made."""
    made_now = []

    def make():
        made_now.append(True)
        return b"weights"

    with open_workspace(made, fresh) as cache:
        assert cache.get("student.safetensors", digest(1), make) == b"weights"
    return bool(made_now)


def refusal(made, fresh=False):
    with pytest.raises(SettingsError) as caught, open_workspace(made, fresh):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_recipe_finds_what_an_earlier_run_finished(out):
    assert use(recipe(out))
    assert not use(recipe(out))


def test_results_lie_below_the_folder_named_by_the_recipe(out):
    use(recipe(out))
    assert [path.name for path in out.iterdir()] == ["work"]
    assert (out / "work" / "recipe.json").exists()


def test_a_folder_that_was_moved_is_still_that_of_its_recipe(out):
    use(recipe(out))
    moved = out.with_name("moved")
    out.rename(moved)
    assert not use(recipe(moved))


# Whose folder


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"seed": 7}, "seed was 0 and is 7"),
        ({"latency_ms": 2.5}, "latency_ms was None and is 2.5"),
        ({"data": "cats.npz"}, "data was 'digits' and is 'cats.npz'"),
        ({"training": GivenTraining(epochs=3)}, "training.epochs was None and is 3"),
        ({"training": GivenTraining(alpha=(0.5,))}, "training.alpha was None and is [0.5]"),
        ({"distill": "relation"}, "distill was 'soft' and is 'relation'"),
        ({"spec": {"layers": 2}}, "spec.layers was None and is 2"),
    ],
    ids=str,
)
def test_another_recipe_is_refused_with_the_key_that_differs(out, options, difference):
    use(recipe(out))
    sentence = refusal(recipe(out, **options))
    assert sentence == (
        f"{out}: belongs to another recipe ({difference}); "
        "choose another folder with --out, or start over with --fresh"
    )
    assert not use(recipe(out))  # nothing was lost


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff"])
def test_a_folder_with_an_unreadable_mark_is_refused(out, content):
    use(recipe(out))
    (out / "work" / "recipe.json").write_bytes(content)
    assert "its recipe.json is unreadable" in refusal(recipe(out))


def test_a_mark_of_another_version_with_the_same_keys_is_refused(out):
    use(recipe(out))
    mark = out / "work" / "recipe.json"
    mark.write_bytes(mark.read_bytes().replace(b"{", b'{"later": 1,', 1))
    assert "written by another version" in refusal(recipe(out))


@pytest.mark.parametrize(
    "file", ["notes.txt", "work/thesis.tex", "model.edge", "work/deep/er.txt", "work/lock.txt"]
)
def test_a_folder_of_somebody_else_is_refused_and_left_alone(out, file):
    (out / file).parent.mkdir(parents=True)
    (out / file).write_text("mine", encoding="utf-8")
    for fresh in (False, True):
        assert refusal(recipe(out), fresh) == (
            f"{out}: not empty, and not made by fit; choose another folder with --out"
        )
    found = [path for path in out.rglob("*") if path.is_file()]
    assert found == [out / file]
    assert found[0].read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_is_taken(out):
    out.mkdir()
    assert use(recipe(out))


def test_a_run_that_was_stopped_before_it_marked_the_folder_does_not_block_it(out):
    (out / "work").mkdir(parents=True)
    (out / "work" / "lock").touch()
    (out / "work" / ".recipe.json.abcd1234.tmp").touch()
    assert use(recipe(out))


def test_a_file_in_the_folders_place_is_an_error_with_its_name(out):
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(OSError) as caught, open_workspace(recipe(out), fresh=False):  # noqa: PT011
        pass
    assert str(out) in str(caught.value.filename)


def test_a_process_that_helps_neither_marks_nor_locks_the_folder(out):
    with open_workspace(recipe(out), fresh=False, owner=False) as cache:
        assert cache.folder == out / "work"
        assert not out.exists()
    with open_workspace(recipe(out), fresh=False), open_workspace(recipe(out), True, owner=False):
        assert (out / "work" / "recipe.json").exists()


# Starting over


def test_fresh_forgets_what_was_finished(out):
    use(recipe(out))
    assert use(recipe(out), fresh=True)
    assert not use(recipe(out))


def test_fresh_takes_over_the_folder_of_another_recipe(out):
    use(recipe(out))
    assert use(recipe(out, seed=7), fresh=True)
    assert not use(recipe(out, seed=7))


def test_fresh_removes_only_files_of_ours(out):
    use(recipe(out))
    work = out / "work"
    ours = ["float32-0123456789abcdef.onnx", ".int8-0123456789abcdef.onnx.a_b3cd4e.tmp"]
    ours += ["start-0123456789abcdef.bin", "by_hand_2-0123456789abcdef.checkpoint"]
    theirs = ["notes.txt", "student.safetensors", "student-best.safetensors", "a-0123.bin", "x/y"]
    (work / "x").mkdir()
    for name in ours + theirs:
        (work / name).write_text("here", encoding="utf-8")
    (out / "model.edge").write_text("here", encoding="utf-8")
    with open_workspace(recipe(out), fresh=True):
        pass
    assert not [name for name in ours if (work / name).exists()]
    assert [name for name in theirs if not (work / name).exists()] == []
    assert (out / "model.edge").exists()


# One run at a time


def test_a_second_run_is_refused_while_the_first_goes_on(out):
    with open_workspace(recipe(out), fresh=False):
        for fresh in (False, True):
            assert refusal(recipe(out), fresh) == (
                f"{out}: another fit is running in this folder; wait for it"
            )
    assert use(recipe(out))


def test_a_run_in_another_process_is_refused_as_well(out):
    with open_workspace(recipe(out), fresh=False):
        context = multiprocessing.get_context("spawn")
        receive, send = context.Pipe(duplex=False)
        other = context.Process(target=_try, args=(str(out), send))
        other.start()
        assert receive.recv().endswith("another fit is running in this folder; wait for it")
        other.join()


def _try(out, answer):
    try:
        with open_workspace(recipe(out), fresh=False):
            answer.send("it ran")
    except SettingsError as error:
        answer.send(str(error))


def test_a_run_that_fails_gives_the_folder_back(out):
    with pytest.raises(RuntimeError), open_workspace(recipe(out), fresh=False):
        raise RuntimeError("in the middle")
    assert use(recipe(out))


def test_runs_in_different_folders_do_not_disturb_one_another(out):
    with open_workspace(recipe(out), fresh=False):
        assert use(recipe(out.with_name("other")))
