"""Classify what a camera sees, cut to the shape that the model takes: a JSON line a picture.

python camera.py pets                                          # with Picamera2
python camera.py pets --command "rpicam-jpeg -n -t 500 -o -"   # or any program that takes one
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import json
import shlex
import signal
import subprocess
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgedistill_runtime import EdgeDistillError, Model, images, load
from edgedistill_runtime.errors import InputError

Pixels = NDArray[np.uint8]  # (height, width, 3)


def picamera() -> Callable[[], Pixels]:
    from picamera2 import Picamera2

    camera = Picamera2()
    frame = {"size": (640, 480), "format": "BGR888"}  # its word for red, green, blue
    camera.configure(camera.create_video_configuration(main=frame, queue=False))
    camera.start()
    return camera.capture_array


def shot(command: list[str]) -> Pixels:
    taken = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True)
    return images.decode(io.BytesIO(taken.stdout), "the picture", 3)


def classify(model: Model, pixels: Pixels) -> dict[str, object]:
    sample = model.manifest.sample
    height, width, channels = sample.shape
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    if not sample.any_size:
        image = ImageOps.fit(image, (width, height))
    answer = model.predict(np.asarray(image).reshape(image.height, image.width, channels))
    return {"label": answer.label, "score": answer.score, "latency_ms": answer.latency_ms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", help="an installed bundle's name, or a file")
    parser.add_argument("--command", type=shlex.split, help="takes a picture, to its stdout")
    parser.add_argument("--every-s", type=float, default=1.0, help="pause after each (1)")
    parser.add_argument("--count", type=int, help="end after so many pictures")
    options = parser.parse_args()
    try:
        model = load(options.bundle)
        if model.manifest.sample.kind != "image":
            raise InputError(f"{options.bundle} takes no images; give a bundle that does")
        take = functools.partial(shot, options.command) if options.command else picamera()
        for _ in itertools.islice(itertools.count(), options.count):
            try:
                row = classify(model, take())
            except InputError as error:  # the next picture may be better
                row = {"error": str(error)}
            print(json.dumps(row), flush=True)  # noqa: T201
            time.sleep(max(0.0, options.every_s))
    except ImportError as error:
        parser.exit(2, f"camera.py: {error}; see README.md, or give a --command\n")
    except (EdgeDistillError, OSError, subprocess.SubprocessError) as error:
        parser.exit(2, f"camera.py: {error}\n")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGPIPE):  # ends without a word, as other filters do
        signal.signal(number, signal.SIG_DFL)
    main()
