"""Imports run in one direction: commands, then training, then data and formats, then the core, then the kernels."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up; a module may import those of its own floor, in one direction, and of the floors below.
FLOORS = [
    ["minclip_kernels"],
    [
        "files",
        "tensors",
        "images",
        "augmentation",
        "tokenizer",
        "transformer",
        "vision",
        "text",
        "frozen",
        "model",
        "loss",
    ],
    [
        *("data", "formats", "batches", "prompts", "metrics", "teacher"),
        *("interruption", "distributed", "gradient_cache"),
    ],
    [
        *("evaluate", "features", "finetune", "naming", "queries", "reach", "diagnosis", "zero_shot"),
        *("checkpoints", "train_config", "train", "plots", "probe"),
    ],
    ["commands", "cli", "__main__"],
]
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}


def modules() -> dict[str, Path]:
    """Every module of minclip without the package's own name, such as `data.emoji`, and its file."""
    package = ROOT / "minclip"
    found = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in found.items() if name != "__init__"}


def imported(path: Path) -> Iterator[str]:
    """The modules of this project that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "minclip_kernels":
                yield package
            elif package == "minclip":
                yield module_of(rest)
            assert package not in ("tests", "lessons"), f"{path} imports {name}"


def module_of(name: str) -> str:
    """`data.emoji.Emoji` -> `data.emoji`; the package itself, for its version, is the ground."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


def test_no_import_runs_upwards():
    upwards = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in imported(path)
        if other and FLOOR[other.split(".")[0]] > FLOOR[name.split(".")[0]]
    ]
    assert not upwards


def test_no_two_modules_import_each_other():
    ahead = {name: {other for other in imported(path) if other in modules()} for name, path in modules().items()}
    while free := [name for name, others in ahead.items() if not others & ahead.keys() - {name}]:
        for name in free:
            del ahead[name]
    assert not ahead, "these import each other in a circle"


def test_the_kernels_know_nothing_of_minclip():
    for path in (ROOT / "kernels" / "minclip_kernels").rglob("*.py"):
        assert not [name for name in imported(path) if name != "minclip_kernels"], path


def loaded_by(*arguments: str) -> set[str]:
    """The modules that a command has loaded when it ends, in a process of its own."""
    code = (
        "import sys\nfrom minclip.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print('loaded', *sys.modules)"
    )
    command = [sys.executable, "-c", code, *arguments]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return set(lines[-1].split())


def test_help_waits_for_no_library():
    assert not loaded_by("--help") & {"torch", "numpy", "PIL", "matplotlib", "minclip_kernels", "emoji"}


def test_classify_loads_neither_the_benchmark_nor_matplotlib(tmp_path):
    from minclip.data import OPENMOJI

    OPENMOJI.draw("1F408", 48).save(tmp_path / "cat.png")
    model = str(ROOT / "minclip" / "weights" / "emoji.safetensors")
    loaded = loaded_by("classify", str(tmp_path / "cat.png"), "--labels", "cat", "dog", "--run", model)
    assert "minclip.evaluate" in loaded
    assert not [name for name in loaded if name.startswith(("matplotlib", "minclip_kernels.bench", "minclip.train"))]


@pytest.mark.parametrize("name", ["load", "CLIP", "Tokenizer", "clip_loss"])
def test_names_of_the_package_are_found_when_they_are_used(name):
    import minclip

    assert callable(getattr(minclip, name))
    assert name in dir(minclip)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        minclip.nothing  # noqa: B018
