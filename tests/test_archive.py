"""Tensors from archives, and files that are made to do harm: nothing of them runs, and memory stays bounded."""

import contextlib
import gzip
import json
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from minclip import CLIP, PRESETS, Tokenizer, cli, formats
from minclip.formats.archive import read_archive
from minclip.formats.saved import Saved
from minclip.images import Preprocess

NESTED = {
    "a": torch.arange(6.0).view(2, 3).t(),
    "b": {"c": torch.ones(2, dtype=torch.float16), "d": [torch.ones(1)], "n": torch.tensor(7)},
    "e": torch.nn.Parameter(torch.zeros(2, 2)),
}


def test_tensors_have_dotted_names_and_everything_else_is_left_out(tmp_path):
    torch.save(NESTED | {"f": "text", "g": 1.5, "h": None, "i": (torch.ones(1),)}, tmp_path / "a.pt")
    found = read_archive(tmp_path / "a.pt")
    expected = {"a": NESTED["a"], "b.c": NESTED["b"]["c"], "b.n": NESTED["b"]["n"], "e": NESTED["e"].detach()}
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_every_dtype_and_views_of_one_storage(tmp_path, dtype):
    whole = torch.arange(12).to(dtype).view(3, 4)
    content = {"whole": whole, "row": whole[1], "column": whole[:, 2], "turned": whole.t()}
    torch.save(content, tmp_path / "a.pt")
    torch.testing.assert_close(read_archive(tmp_path / "a.pt"), content, rtol=0, atol=0)


# --- files that are made to do harm -----------------------------------------------------------------------------------


class Evil:
    """What pickle calls when it reads this creates the file EVIL."""

    def __reduce__(self):
        return open, ("EVIL", "w")


def rebuild(size: str = "(K\x02t", key: str = "0") -> bytes:
    """A pickle of {"visual.conv1.weight": a float32 tensor of 2 numbers}, with any size."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + key.encode() + b"X\x03\0\0\0cpuK\x02tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + size.encode("latin-1") + b"(K\x01t\x89Nt"
    return b"\x80\x02}X\x13\0\0\0visual.conv1.weight" + tensor + b"Rs."


def archive(path: Path, program: bytes, data: bytes = bytes(8), compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/data/0", data)


def test_the_pickle_of_this_file_is_one_of_torchs(tmp_path):
    """The control: without the harm, these bytes are read."""
    archive(tmp_path / "a.pt", rebuild())
    assert torch.equal(read_archive(tmp_path / "a.pt")["visual.conv1.weight"], torch.zeros(2))


def hugging_face(path: Path, **changes) -> None:
    config, tokenizer = PRESETS["smoke"], Tokenizer.train(["red heart"], 768)
    config = type(config)(**{**vars(config), "vocab_size": tokenizer.vocab_size})
    formats.write_hugging_face(Saved(config, CLIP(config).state_dict(), tokenizer, Preprocess(24), {}), path)
    content = json.loads((path / "config.json").read_text())
    for name, value in changes.items():
        content[f"{name.split('_', 1)[0]}_config"][name.split("_", 1)[1]] = value
    (path / "config.json").write_text(json.dumps(content))


def open_clip(path: Path, **vision) -> None:
    path.mkdir()
    model = {"embed_dim": 8, "quick_gelu": True, "text_cfg": {"vocab_size": 514}}
    model["vision_cfg"] = {"layers": 1, "width": 64, "patch_size": 12, "image_size": 24} | vision
    Tokenizer([]).save(path / "merges.txt.gz")
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    save_file({"visual.proj": torch.zeros(64, 8)}, path / "open_clip_model.safetensors")


def safetensors(path: Path, header: bytes, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + bytes(16))


def run_folder(path: Path, merges: bytes) -> None:
    path.mkdir()
    formats.save_setup(path, CLIP(PRESETS["smoke"]), Tokenizer([]), {"data": None, "language": "en", "skip_bad": False})
    save_file({"a": torch.zeros(1)}, path / "model.safetensors")
    (path / "merges.txt.gz").write_bytes(merges)


def bomb(path: Path) -> None:
    archive(path, rebuild("(K\x02t"), bytes(2**28), zipfile.ZIP_DEFLATED)


GIANT = "(J\x00\x00\x00\x40J\x00\x00\x00\x40t"  # 2^30 × 2^30
HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle.pt": (lambda p: p.write_bytes(pickle.dumps(Evil())), "older pickles can run code and are not opened"),
    "legacy.bin": (
        lambda p: torch.save({"a": torch.ones(2)}, p, _use_new_zipfile_serialization=False),
        "older pickles can run code and are not opened",
    ),
    "calls.pt": (lambda p: archive(p, pickle.dumps({"a": Evil()}, protocol=2)), "has no weights of a CLIP"),
    "calls4.pt": (lambda p: archive(p, pickle.dumps({"a": Evil()}, protocol=4)), "no archive of weights"),
    "compressed.pt": (bomb, "compressed or overlap"),
    "giant.pt": (lambda p: archive(p, rebuild(GIANT)), "more than the file"),
    "outside.pt": (lambda p: archive(p, rebuild(), bytes(4)), "damaged or no archive"),
    "elsewhere.pt": (lambda p: archive(p, rebuild(key="9")), "damaged or no archive"),
    "memo.pt": (lambda p: archive(p, b"\x80\x02Nr\xff\xff\xff\x7f."), "has no weights of a CLIP"),
    "long.pt": (lambda p: archive(p, b"\x80\x02X\xff\xff\xff\x7fa."), "damaged or no archive"),
    "itself.pt": (lambda p: archive(p, b"\x80\x02}q\x00X\x01\0\0\0ah\x00s."), "has no weights of a CLIP"),
    "stack.pt": (lambda p: archive(p, b"\x80\x02ttt."), "damaged or no archive"),
    "layers": (lambda p: hugging_face(p, vision_num_hidden_layers=10**9), "vision_layers is 1000000000"),
    "width": (lambda p: hugging_face(p, text_max_position_embeddings=10**12), "do not fit"),
    "heads": (lambda p: hugging_face(p, text_num_attention_heads=10**9), "do not fit"),
    "wide": (lambda p: open_clip(p, width=64 * 10**8), "do not fit|vision_layers"),
    "deep": (lambda p: open_clip(p, layers=10**9), "vision_layers is 1000000000"),
    "length.safetensors": (lambda p: safetensors(p, b"{}", 2**60), "is damaged"),
    "header.safetensors": (lambda p: safetensors(p, b"{}", 90 * 2**20), "is damaged"),
    "offsets.safetensors": (
        lambda p: safetensors(p, b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'),
        "is damaged",
    ),
    "shape.safetensors": (
        lambda p: safetensors(p, b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,16]}}'),
        "is damaged",
    ),
    "merges": (lambda p: run_folder(p, gzip.compress(b"#version: 0.2\n" + bytes(2**27))), "more than 8388608 bytes"),
}


def place(name: str, folder: Path) -> Path:
    path = folder / name
    HARMS[name][0](path)
    return path


MEASURE = """
import resource, sys
from minclip import formats
for name in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        formats.read(name, quick_gelu=True).build()
    except (ValueError, OSError) as error:
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(name, more, " ".join(str(error).split()), sep="\\t")
"""


def test_harm_is_refused_with_a_message_and_little_memory_and_nothing_runs(tmp_path):
    """In a process of its own, whose peak memory can be measured. The largest file here has 1 MB."""
    if sys.platform != "linux":
        pytest.skip("ru_maxrss has another unit elsewhere")
    paths = [place(name, tmp_path) for name in HARMS]
    command = [sys.executable, "-c", MEASURE, *(path.name for path in paths)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.stderr == ""
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[0] for line in lines] == list(HARMS)
    for name, kilobytes, message in lines:
        assert re.search(HARMS[name][1], message), message
        assert name in message
        assert int(kilobytes) < 64 * 1024, f"{name} took {kilobytes} kB"
    assert not (tmp_path / "EVIL").exists()


@pytest.mark.parametrize("name", ["pickle.pt", "giant.pt", "layers", "offsets.safetensors"])
@pytest.mark.parametrize(
    "command", [["search", "cat"], ["eval"], ["classify", "a.png", "--labels", "a"], ["export", "x"]]
)
def test_every_command_refuses_before_it_computes_anything(name, command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(CLIP, "encode_image", None)
    monkeypatch.setattr(CLIP, "encode_text", None)
    path = place(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command, "--run", str(path), "--quick-gelu", "yes"]) == 1
    error = capsys.readouterr().err
    assert error.count("minclip: error: ") == 1
    assert str(path) in error
    assert "Traceback" not in error
    assert not (tmp_path / "EVIL").exists()


@given(st.binary(max_size=200), st.integers(0, 10_000), st.booleans())
def test_an_archive_with_any_damage_is_read_or_refused(tmp_path_factory, noise, position, in_the_pickle):
    folder = tmp_path_factory.mktemp("noise", numbered=True)
    torch.save(NESTED, folder / "a.pt")
    content = bytearray((folder / "a.pt").read_bytes())
    start = content.find(b"\x80\x02}") if in_the_pickle else 0
    position = start + position % (600 if in_the_pickle else len(content))
    content[position : position + len(noise)] = noise
    (folder / "a.pt").write_bytes(content)
    with contextlib.suppress(ValueError):
        read_archive(folder / "a.pt")
