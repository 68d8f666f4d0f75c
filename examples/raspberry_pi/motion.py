"""Watch a machine or a movement: a JSON line each time that its state changes.

    edgedistill-run predict pump --source-cmd "python iio.py …" | python motion.py --agree 3

A single window that differs is no change: so many in a row have to agree.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
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
        elif isinstance(row, dict) and "label" in row:
            yield row


def changes(rows: Iterable[Row], agree: int) -> Iterator[Row]:
    """A row for the first state, and for each that `agree` windows in a row say after another.

    "unknown", the answer to what the model does not recognise, is a state like any other.
    """
    state = candidate = None
    count = 0
    for row in rows:
        count = count + 1 if row["label"] == candidate else 1
        candidate = row["label"]
        if candidate != state and count >= agree:
            yield {"label": candidate, "score": row["score"], "before": state}
            state = candidate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agree", type=int, default=3, help="windows that make a change (3)")
    options = parser.parse_args()
    if options.agree < 1:
        parser.error("--agree is at least 1")
    for change in changes(answers(sys.stdin), options.agree):
        print(json.dumps(change), flush=True)  # noqa: T201


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGPIPE):  # ends without a word, as other filters do
        signal.signal(number, signal.SIG_DFL)
    main()
