"""Classify one image file with a bundle, and say how long it took.

On the board:  pip install 'edgedistill-runtime[onnx,image]'
               python classify.py model.edge digit.png
"""

from __future__ import annotations

import sys

from edgedistill_runtime import EdgeDistillError, load
from edgedistill_runtime.inputs import read_items


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: classify.py BUNDLE IMAGE", file=sys.stderr)  # noqa: T201
        return 2
    try:
        model = load(sys.argv[1])
    except (EdgeDistillError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    for item in read_items(sys.argv[2], sys.stdin, model.manifest.sample):
        if item.sample is None:
            print(item.error, file=sys.stderr)  # noqa: T201
            return 2
        answer = model.predict(item.sample)
        print(f"{answer.label} ({answer.score:.0%}) in {answer.latency_ms:.2f} ms")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
