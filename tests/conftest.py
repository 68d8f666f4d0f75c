"""Options and fixtures of the whole test suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-boards",
        action="store_true",
        help="a board that cannot be had is a failure, not a skip",
    )
