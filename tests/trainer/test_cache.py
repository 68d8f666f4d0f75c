"""Finished work on disk: whole or not there, and never that of other inputs."""

from __future__ import annotations

import os
import time

import pytest

from edgedistill.cache import Cache, digest, user_cache


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "work")


def refuse():
    raise AssertionError("made again")


# Digests


def test_equal_parts_have_equal_digests_whatever_the_order_of_keys():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    assert digest("text", b"bytes", 1) == digest("text", b"bytes", 1)


def test_parts_do_not_run_into_one_another():
    digests = {
        digest("ab", "c"),
        digest("a", "bc"),
        digest("abc"),
        digest(["ab", "c"]),
        digest(b"ab", b"c"),
        digest(b"abc"),
        digest("ab", "c", ""),
        digest(),
    }
    assert len(digests) == 8


def test_types_that_look_alike_have_different_digests():
    assert len({digest(x) for x in (1, 1.0, "1", True, None, [1])}) == 6


# Results


def test_a_result_is_made_once_and_found_afterwards(cache):
    assert cache.get("student.safetensors", digest(1), lambda: b"weights") == b"weights"
    assert cache.get("student.safetensors", digest(1), refuse) == b"weights"
    again = Cache(cache.folder)  # another process
    assert again.get("student.safetensors", digest(1), refuse) == b"weights"


def test_another_key_or_another_name_is_another_result(cache):
    assert cache.get("a.bin", digest(1), lambda: b"one") == b"one"
    assert cache.get("a.bin", digest(2), lambda: b"two") == b"two"
    assert cache.get("b.bin", digest(1), lambda: b"three") == b"three"
    assert cache.get("a.bin", digest(1), refuse) == b"one"


def test_an_empty_result_is_a_result(cache):
    assert cache.get("a.bin", digest(1), bytes) == b""
    assert cache.get("a.bin", digest(1), refuse) == b""


def test_work_that_was_interrupted_leaves_nothing_and_is_done_again(cache):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get("a.bin", digest(1), interrupted)
    assert not cache.folder.exists() or not list(cache.folder.iterdir())
    assert cache.get("a.bin", digest(1), lambda: b"whole") == b"whole"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_while_writing_leaves_nothing(cache, monkeypatch, step):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, full)
        with pytest.raises(OSError, match="No space left"):
            cache.get("a.bin", digest(1), lambda: b"half")
    assert list(cache.folder.iterdir()) == []
    assert cache.get("a.bin", digest(1), lambda: b"whole") == b"whole"


def test_what_another_run_finished_meanwhile_is_only_replaced_by_a_whole_result(cache):
    def while_another_finishes():
        cache.get("a.bin", digest(1), lambda: b"same")
        return b"same"

    assert cache.get("a.bin", digest(1), while_another_finishes) == b"same"
    assert [path.name for path in cache.folder.iterdir()] == [cache.path("a.bin", digest(1)).name]


# Eviction

DAY = 86_400


def aged(cache, name, key, days):
    """A result that was last used so many days ago."""
    cache.get(name, key, lambda: b"made")
    path = cache.path(name, key)
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def test_results_that_nobody_used_for_so_long_are_removed(cache):
    old = aged(cache, "teacher.safetensors", digest(1), 61)
    young = aged(cache, "logits.npy", digest(2), 59)
    half = cache.folder / f".{old.name}.a1b2c3.tmp"
    half.write_bytes(b"half")
    os.utime(half, (0, 0))
    cache.evict(60)
    assert list(cache.folder.iterdir()) == [young]


def test_a_result_that_is_used_stays(cache):
    path = aged(cache, "features.f16", digest(1), 100)
    cache.get("features.f16", digest(1), refuse)
    cache.evict(60)
    assert path.exists()


def test_only_names_of_results_are_removed(cache):
    kept = ["notes.txt", "student-best.safetensors", "a-0123.bin", "model.onnx"]
    cache.folder.mkdir()
    for name in kept:
        (cache.folder / name).write_bytes(b"theirs")
        os.utime(cache.folder / name, (0, 0))
    cache.evict(60)
    assert sorted(path.name for path in cache.folder.iterdir()) == sorted(kept)


def test_a_cache_that_is_not_there_has_nothing_to_remove(cache):
    cache.evict(60)
    assert not cache.folder.exists()


def test_the_users_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert user_cache() == tmp_path / "elsewhere" / "edgedistill"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache" / "edgedistill"
