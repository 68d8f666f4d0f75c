"""A small task of each kind, as the files a user would have."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SEED = 20_261_124
RATE_HZ = 8000
SPECS = {
    "image": {"block": "dense", "width": 8, "growth": 1.0, "stages": 2, "depth": 1},
    "audio": {"block": "dense", "width": 8, "growth": 1.5, "stages": 4, "depth": 1},
    "sensor": {"block": "dense", "width": 8, "growth": 1.0, "stages": 2, "depth": 1},
}
TRAINING = """
[training]
epochs = 12
batch_size = 16
views = [2]
alpha = [0.5]
gate = [false]

[teacher_training]
epochs = 6
batch_size = 16
views = 2
"""


def folder_of_images(folder: Path, count: int = 120) -> Path:
    """Photos of different sizes: a red disc, a green bar or a blue frame on grey noise."""
    random = np.random.default_rng(SEED)
    for i in range(count):
        label = ("a disc", "ein Balken", "рамка")[i % 3]
        height, width = (int(n) for n in random.integers(20, 60, 2))
        pixels = random.integers(60, 140, (height, width, 3), np.uint8)
        y, x = np.mgrid[:height, :width]
        if i % 3 == 0:
            inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 3) ** 2
        elif i % 3 == 1:
            inside = abs(y - height / 2) < height / 8
        else:
            inside = np.minimum.reduce([x, y, width - 1 - x, height - 1 - y]) < 4
        pixels[inside, i % 3] = 230
        path = folder / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def tone(label: int, random: np.random.Generator, seconds: float = 0.5) -> NDArray[np.int16]:
    """A low, a middle or a high tone in noise."""
    times = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    hertz = (300, 800, 2000)[label] * random.uniform(0.9, 1.1)
    sound = random.uniform(2000, 8000) * np.sin(2 * np.pi * hertz * times)
    return np.rint(sound + random.normal(0, 500, len(times))).astype(np.int16)


def write_wav(path: Path, sound: NDArray[np.int16], rate_hz: int = RATE_HZ) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(sound.tobytes())
    return path


def folder_of_sounds(folder: Path, count: int = 150) -> Path:
    random = np.random.default_rng(SEED)
    for i in range(count):
        label = ("low", "middle", "high")[i % 3]
        write_wav(folder / label / f"{i}.wav", tone(i % 3, random))
    return folder


def table_of_readings(path: Path, subjects: int = 12, steps: int = 96) -> Path:
    """Rows of two channels; each subject rests, swings one arm, and swings both."""
    random = np.random.default_rng(SEED)
    lines = ["left,right,activity,subject"]
    for subject in range(subjects):
        for label in ("rest", "one arm", "both arms"):
            swing = 3 * np.sin(np.arange(steps) / 2 + random.uniform(0, 6))
            left = random.normal(0, 0.4, steps) + (swing if label != "rest" else 0)
            right = random.normal(0, 0.4, steps) + (swing if label == "both arms" else 0)
            lines += [
                f"{a:.4f},{b:.4f},{label},s{subject}" for a, b in zip(left, right, strict=True)
            ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def recipe(folder: Path, kind: str, **more: object) -> Path:
    """Data and a recipe of that kind in the folder; its path."""
    lines = {
        "image": lambda: [f'data = "{folder_of_images(folder / "photos")}"', "image_size = 24"],
        "audio": lambda: [
            f'data = "{folder_of_sounds(folder / "sounds")}"',
            "sample_rate_hz = 8000",
        ],
        "sensor": lambda: [
            f'data = "{table_of_readings(folder / "readings.csv")}"',
            'label_column = "activity"',
            'group_column = "subject"',
            "window = 32",
        ],
    }[kind]()
    fields = ", ".join(f"{k} = {_toml(v)}" for k, v in SPECS[kind].items())
    lines += [f"spec = {{ {fields} }}", "min_retention = 0.5"]
    lines += [f"{key} = {_toml(value)}" for key, value in more.items()]
    path = folder / "recipe.toml"
    path.write_text("\n".join(lines) + "\n" + TRAINING, encoding="utf-8")
    return path


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
