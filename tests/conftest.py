import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("minclip", deadline=None, derandomize=True)
settings.load_profile("minclip")

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: it decides then


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """The tests draw their own emoji, once for all processes of pytest-xdist, and leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        base = tmp_path_factory.getbasetemp()
        folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
        folder.mkdir(exist_ok=True)
        patch.setattr("platformdirs.user_cache_dir", lambda *_: str(folder))
        yield folder
