"""The environments that TFLite files are made and checked in; `make litert` builds them."""

from __future__ import annotations

import pytest

from edgedistill.environments import LITERT, TFLITE_RUNTIME
from edgedistill.errors import SettingsError


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-litert",
        action="store_true",
        help="a missing environment of litert-torch or tflite-runtime is a failure, not a skip",
    )


@pytest.fixture(scope="session", autouse=True)
def environments(request: pytest.FixtureRequest) -> None:
    try:
        LITERT.python()
        TFLITE_RUNTIME.python()
    except SettingsError as error:
        if request.config.getoption("--require-litert"):
            raise
        pytest.skip(str(error))
