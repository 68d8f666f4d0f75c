"""Read and write the texts that a bundle holds as references."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgedistill_runtime.errors import BundleError

MAX_BYTES = 1 << 24


def encode(texts: Sequence[str]) -> bytes:
    """The texts as a JSON list in UTF-8."""
    return json.dumps(list(texts), ensure_ascii=False).encode() + b"\n"


def decode(name: str, data: bytes, count: int) -> list[str]:
    """The list that `encode` wrote.  Raises BundleError if it is not one of `count` texts."""
    if len(data) > MAX_BYTES:
        raise BundleError(f"{name} has {len(data)} bytes; at most {MAX_BYTES}")
    try:
        texts = json.loads(data.decode())
        well = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        if well:
            "".join(texts).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name} is not a JSON list of texts ({error})") from error
    if not well or len(texts) != count:
        raise BundleError(f"{name} is not a JSON list of {count} texts")
    return list(texts)
