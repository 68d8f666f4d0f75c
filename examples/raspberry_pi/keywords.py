"""Turn answers to overlapping windows of sound into one JSON line a spoken word.

    edgedistill-run predict keywords --source-cmd "arecord -q -t raw -f S16_LE -r 16000 -c 1" \\
        | python keywords.py --ignore other,silence

A word is heard in several windows, none of which need be sure: their mean decides.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

Row = dict[str, Any]


def answers(lines: Iterable[str]) -> Iterator[Row]:
    """Those of `predict`; other lines, such as the journal's own, are passed over."""
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "error" in row:
            print(row["error"], file=sys.stderr)  # noqa: T201
        elif isinstance(row, dict) and "scores" in row:
            yield row


def spot(
    rows: Iterable[Row], smooth: int, threshold: float, pause: int, ignore: Iterable[str] = ()
) -> Iterator[Row]:
    """A row for each word whose mean score over `smooth` windows reaches the threshold.

    After one, the next `pause` windows are not listened to: they still hold the same word.
    """
    last: deque[dict[str, float]] = deque(maxlen=smooth)
    deaf = 0
    for row in rows:
        if deaf:
            deaf -= 1
            continue
        last.append(row["scores"])
        means = {label: sum(scores[label] for scores in last) / smooth for label in last[-1]}
        label = max(means, key=means.__getitem__)
        if len(last) == smooth and label not in ignore and means[label] >= threshold:
            yield {"label": label, "score": means[label]}
            last.clear()
            deaf = pause


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smooth", type=int, default=2, help="windows whose mean counts (2)")
    parser.add_argument("--threshold", type=float, default=0.6, help="least mean score (0.6)")
    parser.add_argument("--pause", type=int, default=4, help="windows passed over after one (4)")
    parser.add_argument("--ignore", default="", help="labels that are no keyword: a,b")
    options = parser.parse_args()
    if options.smooth < 1 or options.pause < 0:
        parser.error("--smooth is at least 1, and --pause at least 0")
    ignore = options.ignore.split(",")
    heard = spot(answers(sys.stdin), options.smooth, options.threshold, options.pause, ignore)
    for word in heard:
        print(json.dumps(word), flush=True)  # noqa: T201


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGPIPE):  # ends without a word, as other filters do
        signal.signal(number, signal.SIG_DFL)
    main()
