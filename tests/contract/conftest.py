"""What the tests between host and device share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests run side by side, and networks as small as these gain nothing from more."""
    torch.set_num_threads(1)
