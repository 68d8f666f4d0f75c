"""Every test of the host has a user's folders of its own: nothing of this user's is touched."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("home")
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests run side by side, and networks as small as these gain nothing from more."""
    torch.set_num_threads(1)
