import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from PIL import Image

settings.register_profile("minclip", deadline=None, derandomize=True)
settings.load_profile("minclip")

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: it decides then


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """The tests draw their own emoji, once for all processes of pytest-xdist, and leave the user's files alone."""
    with pytest.MonkeyPatch.context() as patch:
        base = tmp_path_factory.getbasetemp()
        folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
        folder.mkdir(exist_ok=True)
        patch.setattr("platformdirs.user_cache_dir", lambda *_: str(folder))
        patch.setenv("MINCLIP_MINE", str(base / "mine"))
        yield folder


@pytest.fixture(scope="session")
def interpreter():
    """Skips where Triton's interpreter does not run the kernels."""
    from minclip_kernels.custom_op import HAS_TRITON

    if torch.cuda.is_available() or not HAS_TRITON:
        pytest.skip("needs Triton's interpreter")


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(("torch", "cpu"), id="torch-cpu"),
        pytest.param(("triton", "cpu"), id="triton-interpreter"),
        pytest.param(("torch", "cuda"), id="torch-cuda", marks=pytest.mark.cuda),
        pytest.param(("triton", "cuda"), id="triton-cuda", marks=pytest.mark.cuda),
    ],
)
def where(request):
    """A back-end of the losses, and the device of the features."""
    if request.param == ("triton", "cpu"):
        request.getfixturevalue("interpreter")
    if request.param[1] == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    return request.param


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of sixty pictures with a table of captions, to train on."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = ["image,caption"]
    for i in range(60):
        Image.new("RGB", (20, 30), (4 * i, 100, 0)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,shade number {i}")
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder
