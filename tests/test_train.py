import csv
import functools
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from minclip_kernels import custom_op, one_tile
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from minclip import CLIP, PRESETS, Tokenizer, clip_loss, loss_floor, train
from minclip.batches import Batches
from minclip.data import Emoji, Pairs
from minclip.images import to_device
from minclip.metrics import History, Measured
from minclip.teacher import resemblance_loss
from minclip.train import State, TrainConfig
from minclip.train_config import EQUAL_CAPTIONS

CONFIG = replace(PRESETS["smoke"], embed_dim=16, context_length=16, vocab_size=560)
COLOURS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
PLACES = {"left": slice(0, 12), "right": slice(12, 24)}


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Eight pictures that anything can learn: a coloured half, named; each twice."""
    images, captions = [], []
    for colour, value in COLOURS.items():
        for place, columns in PLACES.items():
            image = torch.full((3, 24, 24), 255, dtype=torch.uint8)
            image[:, :, columns] = torch.tensor(value, dtype=torch.uint8)[:, None, None]
            images += [image, image]
            captions += [f"{colour} on the {place}", f"on the {place} there is {colour}"]
    origins = [Emoji(f"{i:04X}") for i in range(len(images))]
    return Pairs(torch.stack(images), origins, captions, torch.arange(len(images)))


def new_model(pairs: Pairs, seed: int = 0) -> tuple[CLIP, Tokenizer]:
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train(pairs.captions, CONFIG.vocab_size)
    return CLIP(replace(CONFIG, vocab_size=tokenizer.vocab_size)), tokenizer


def run_training(
    model: CLIP, tokenizer: Tokenizer, pairs: Pairs, held_out: Pairs | None, config: TrainConfig, run: Path
) -> list[dict[str, float]]:
    tokens = tokenizer(pairs.captions)
    batches = Batches(pairs, tokens, model.preprocess, batch_size=config.batch_size, seed=config.seed)
    return train.train(model, tokenizer, batches, held_out, config, run)


FAST = TrainConfig(epochs=60, batch_size=8, lr=3e-3)


def test_it_learns(pairs, tmp_path):
    model, tokenizer = new_model(pairs)
    rows = run_training(model, tokenizer, pairs, pairs, FAST, tmp_path)
    assert abs(rows[0]["loss"] - math.log(8)) < 0.7
    assert sum(row["loss"] for row in rows[-5:]) / 5 < 0.5
    with (tmp_path / "metrics.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in written] == [row["loss"] for row in rows]
    assert float(written[-1]["unseen_top5"]) == rows[-1]["unseen_top5"] >= 0.9  # four captions fit each picture
    assert {row["untrained"] for row in rows} == {loss_floor(8)}
    assert (tmp_path / "model.safetensors").exists()


def test_two_runs_are_identical_and_another_seed_is_not(pairs, tmp_path):
    results = []
    for seed in (0, 0, 1):
        model, tokenizer = new_model(pairs)
        rows = run_training(model, tokenizer, pairs, None, TrainConfig(epochs=2, batch_size=8, seed=seed), tmp_path)
        results.append(([row["loss"] for row in rows], model.state_dict()))
    assert results[0][0] == results[1][0] != results[2][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1].values(), results[1][1].values(), strict=True))


def siglip_model(pairs: Pairs) -> tuple[CLIP, Tokenizer]:
    model, tokenizer = new_model(pairs)
    torch.manual_seed(0)
    return CLIP(replace(model.config, logit_bias=True)), tokenizer


@pytest.mark.parametrize("setting", [{}, {"loss": "siglip"}, {"equal_captions": "drop"}, {"equal_captions": "all"}])
def test_both_backends_give_the_same_training_curve(pairs, tmp_path, setting):
    curves = []
    if "equal_captions" in setting:
        pairs = named_in_twos(pairs)
    for backend in ("fused", "naive"):
        model, tokenizer = siglip_model(pairs) if "loss" in setting else new_model(pairs)
        config = replace(TrainConfig(epochs=8, batch_size=8, backend=backend), **setting)
        curves.append([row["loss"] for row in run_training(model, tokenizer, pairs, None, config, tmp_path)])
    assert len(curves[0]) == 16
    assert curves[0][-1] < curves[0][0] - 0.5
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


def named_in_twos(pairs: Pairs) -> Pairs:
    """Every second picture takes the caption of the one before it."""
    return replace(pairs, captions=[pairs.captions[i // 2 * 2] for i in range(len(pairs.captions))])


@pytest.mark.parametrize("equal", EQUAL_CAPTIONS)
def test_equal_captions_cost_nothing_where_they_are_left_out(pairs, tmp_path, equal):
    """No training gets under its floor, and one that leaves equal captions out gets under that of the others."""
    pairs = named_in_twos(pairs)
    model, tokenizer = new_model(pairs)
    config = replace(FAST, epochs=120, equal_captions=equal)
    rows = run_training(model, tokenizer, pairs, None, config, tmp_path)
    assert all(row["loss"] > row["floor"] - 1e-5 for row in rows)
    last, floor = (sum(row[name] for row in rows[-20:]) / 20 for name in ("loss", "floor"))
    if equal == "drop":
        assert floor == 0
        assert last < 0.1
    else:
        assert 0.2 < floor < last < floor + 0.2


def test_siglip_learns_from_its_own_level_of_knowing_nothing(pairs, tmp_path):
    model, tokenizer = siglip_model(pairs)
    rows = run_training(model, tokenizer, pairs, None, replace(FAST, loss="siglip"), tmp_path)
    assert rows[0]["loss"] > rows[0]["untrained"] == pytest.approx(math.log(8) + 7 * math.log(8 / 7))
    assert sum(row["loss"] for row in rows[-5:]) / 5 < rows[0]["untrained"] - 1
    loaded = CLIP(model.config)
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert loaded.logit_bias.item() != -10


def test_every_caption_is_used_once_an_epoch(pairs, tmp_path, monkeypatch):
    model, tokenizer = new_model(pairs)
    batches = []

    update = train.update

    def spy(state, parts, *others):
        batches.extend(tuple(caption) for _, tokens in parts for caption in tokens.tolist())
        return update(state, parts, *others)

    monkeypatch.setattr(train, "update", spy)
    run_training(model, tokenizer, pairs, None, TrainConfig(epochs=2, batch_size=8), tmp_path)
    expected = sorted(map(tuple, tokenizer(pairs.captions).tolist()))
    assert sorted(batches[:16]) == sorted(batches[16:]) == expected
    assert batches[:16] != batches[16:]


def test_epochs_are_counted_in_pairs(pairs, tmp_path):
    """Two epochs of 16 pairs in batches of 7 are 5 steps, in which the learning rate falls to its end."""
    model, tokenizer = new_model(pairs)
    rows = run_training(model, tokenizer, pairs, None, TrainConfig(epochs=2, batch_size=7, warmup=0.2), tmp_path)
    assert [row["epoch"] for row in rows] == [7 * step / 16 for step in range(1, 6)]
    shares = [1, 1, *(0.5 * (1 + math.cos(math.pi * done / 4)) for done in (1, 2, 3))]
    assert [row["lr"] for row in rows] == pytest.approx([1e-3 * share for share in shares])
    assert {row["untrained"] for row in rows} == {loss_floor(7)}


def test_a_loss_that_is_not_finite_is_placed_in_the_epoch_in_which_its_batch_begins():
    history = History(pairs=16, batch_size=7, untrained=2.0)
    history.add(4, Measured(*torch.tensor([math.nan, 1.0, 1.0])), floor=0.0, lr=1e-3)
    with pytest.raises(FloatingPointError, match=r"step 4, batch 1 of epoch 2: the loss is nan"):
        history.read_back()


def test_encoding_by_length_changes_nothing(pairs):
    model, tokenizer = new_model(pairs)
    tokens = tokenizer([*pairs.captions, "red", "blue on the left and red on the right"])
    expected = model.double().encode_text(tokens)
    for groups in (1, 2, 3, 50):
        for multiple in (1, 5, 8, 64):
            features = train.encode_by_length(model.encode_text, tokens, model.device, groups, multiple)
            torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)


def test_a_step_clips_the_gradient_and_clamps_the_scale(pairs):
    model, tokenizer = new_model(pairs)
    model.logit_scale.data.fill_(math.log(100) - 1e-6)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = State(model, torch.optim.SGD(model.parameters(), lr=1.0))
    images = torch.randn(16, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    measured = train.train_step(state, images, tokenizer(pairs.captions), TrainConfig(max_grad_norm=0.01))
    moved = math.sqrt(sum((p - before[name]).square().sum().item() for name, p in model.named_parameters()))
    assert moved == pytest.approx(0.01, rel=1e-3)
    assert model.logit_scale.item() <= math.log(100) + 1e-6
    scale = model.logit_scale.exp().item()
    model.load_state_dict(before)
    texts = model.encode_text(tokenizer(pairs.captions))
    expected = clip_loss(model.encode_image(images), texts, model.logit_scale.exp())
    assert measured.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert measured.gradient_norm.item() > 0.01
    assert measured.logit_scale.item() == pytest.approx(scale, rel=1e-6)
    assert state.step == 1


def test_a_teacher_adds_its_gradient_and_not_its_loss(pairs):
    model, tokenizer = new_model(pairs)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    images = torch.randn(16, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    tokens = tokenizer(pairs.captions)
    config = TrainConfig(max_grad_norm=1e9, distill=0.5)
    state = State(model, torch.optim.SGD(model.parameters(), lr=1.0), seen=seen)
    measured = train.update(state, [(images, tokens)], config, torch.arange(16))
    moved = {name: before[name] - p.detach() for name, p in model.named_parameters()}
    model.load_state_dict(before)
    model.zero_grad()
    image_features = model.encode_image(images)
    loss = clip_loss(image_features, model.encode_text(tokens), model.logit_scale.exp())
    (loss + 0.5 * resemblance_loss(image_features, seen)).backward()
    assert measured.loss.item() == pytest.approx(loss.item(), rel=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(moved[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_only_matrices_decay(pairs):
    model, _ = new_model(pairs)
    decayed, free = train.make_optimizer(model, FAST).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert free["weight_decay"] == 0 < decayed["weight_decay"]
    free_names = {names[id(parameter)] for parameter in free["params"]}
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    assert {"logit_scale", "token_embedding.weight", "positional_embedding", "visual.class_embedding"} <= free_names
    assert all("ln_" in name or "bias" in name or "embedding" in name or name == "logit_scale" for name in free_names)
    assert {"visual.proj", "text_projection", "visual.conv1.weight"} <= decayed_names
    assert free_names | decayed_names == set(names.values())


def test_learning_rate_rises_linearly_and_falls_as_half_a_cosine():
    config = TrainConfig(warmup=0.1)
    rates = [train.learning_rate(step, 100, config) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert train.learning_rate(0, 1, config) == 1


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_last_weights(pairs, tmp_path, monkeypatch):
    model, tokenizer = new_model(pairs)
    update = train.update
    count = iter(range(100))

    def break_at_16(state, parts, *others):
        images, tokens = parts[0]
        images = images * math.nan if next(count) == 15 else images
        return update(state, [(images, tokens)], *others)

    monkeypatch.setattr(train, "update", break_at_16)
    with pytest.raises(FloatingPointError, match=r"step 16, batch 2 of epoch 8: the loss is nan.*lower learning rate"):
        run_training(model, tokenizer, pairs, None, TrainConfig(epochs=10, batch_size=8), tmp_path)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    saved = load_file(tmp_path / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())
    with (tmp_path / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 14  # 20 steps, 10 reports


def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(pairs):
    model, tokenizer = new_model(pairs)
    state = State(model, train.make_optimizer(model, FAST))
    images, tokens = torch.randn(16, 3, 24, 24), tokenizer(pairs.captions)
    train.train_step(state, images, tokens, FAST)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured = train.train_step(state, images * math.inf, tokens, FAST)
    assert not math.isfinite(measured.gradient_norm.item())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    train.train_step(state, images, tokens, FAST)
    assert not torch.equal(model.text_projection, before["text_projection"])


READS = {"item", "tolist", "numpy", "cpu", "nonzero", "unique", "masked_select"}
READS |= {"__bool__", "__int__", "__float__", "__index__", "__contains__", "is_nonzero", "equal", "allclose"}


class DeviceReads(TorchFunctionMode):
    """Counts how often Python looks at a number that would be on the device, or copies to it, and would wait for it.

    On a GPU these are the parameters, whatever is moved by `to`, and all that is computed from them; here everything
    is on the CPU, so tensors are marked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        inputs = tree_leaves((args, kwargs))
        on_device = any(isinstance(x, torch.nn.Parameter) or getattr(x, "on_device", False) for x in inputs)
        name = getattr(function, "__name__", "")
        if on_device and (name in READS or self._reads_index(name, args)):
            self.count += 1
        moves = name in ("to", "tensor") and "cpu" in map(str, (*args[1:], *(kwargs or {}).values()))
        if moves and not on_device and not (kwargs or {}).get("non_blocking"):
            self.count += 1
        output = function(*args, **(kwargs or {}))
        if on_device or moves:
            for tensor in tree_leaves(output):
                if isinstance(tensor, torch.Tensor):
                    setattr(tensor, "on_device", True)  # noqa: B010
        return output

    @staticmethod
    def _reads_index(name: str, args) -> bool:
        """Whether rows are chosen by booleans, which are counted first, or by indices that are not on the device."""
        if name != "__getitem__" or not isinstance(args[1], torch.Tensor):
            return False
        return args[1].dtype == torch.bool or not getattr(args[1], "on_device", False)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """On the CPU the tiles look at their numbers; on a GPU they do not."""

    class Tiles(custom_op.TorchTiles):
        def __init__(self, problem):
            super().__init__(problem)
            self.is_on_cpu, self.kept = False, 0

    monkeypatch.setattr(custom_op, "TorchTiles", Tiles)
    monkeypatch.setattr(one_tile, "MOST_PAIRS", 0)


def test_reads_are_noticed():
    weight = torch.nn.Parameter(torch.ones(3))
    with DeviceReads() as reads:
        float(weight.detach().sum())
        (weight > 0).any().item()
        bool(weight.exp().max() > 2)
        _ = weight[weight > 1]
        torch.ones(3).to("cpu", non_blocking=True).exp().tolist()
        weight[torch.arange(2)].sum()
        torch.ones(3).to(weight.device)
        torch.tensor([1.0], device="cpu")
        torch.ones(3).to(torch.float64).sum().item()
        weight[torch.arange(2).to("cpu", non_blocking=True)].sum()
    assert reads.count == 8


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(
    "options", [{}, {"micro_batch": 3}, {"grad_checkpoint": True, "loss": "siglip"}, {"distill": 0.5}]
)
def test_the_device_is_read_once_in_ten_steps(pairs, tmp_path, monkeypatch, options):
    model, tokenizer = siglip_model(pairs) if options.get("loss") == "siglip" else new_model(pairs)
    counts, reads = {}, DeviceReads()
    next_step, report = train._next_step, train._report

    def step(state, *arguments):
        next_step(state, *arguments)
        counts[state.step] = reads.count

    def end(*arguments):
        counts["end"] = reads.count
        return report(*arguments)

    monkeypatch.setattr(train, "teacher_features", lambda images, device: to_device(torch.randn(16, 5), device))
    monkeypatch.setattr(train, "REPORTS", 1)
    monkeypatch.setattr(train, "_next_step", step)
    monkeypatch.setattr(train, "_report", end)
    with reads:
        run_training(model, tokenizer, pairs, None, TrainConfig(epochs=16, batch_size=8, **options), tmp_path)
    assert counts == {step: (step - 1) // train.READ_BACK_EVERY for step in range(1, 33)} | {"end": 4}


def test_configurations_take_keywords_only():
    with pytest.raises(TypeError):
        TrainConfig(2, 8)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"loss": "triplet"}, "loss is 'triplet'; it must be one of clip, siglip"),
        ({"backend": "fast"}, "backend is 'fast'; it must be one of fused, naive"),
        ({"batch_size": 1}, "batch_size is 1;.* always 0"),
        ({"batch_size": -4}, "batch_size is -4"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"warmup": 1.5}, "warmup is 1.5; it must be from 0 to 1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0"),
        ({"equal_captions": "positives"}, "equal_captions is 'positives'; it must be one of negatives, drop, all"),
        ({"equal_captions": "drop", "loss": "siglip"}, "with loss 'siglip' it must be 'negatives'"),
    ],
)
def test_a_bad_configuration_says_so_itself(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


# --- precision, compilation, checkpoints of blocks --------------------------------------------------------------------


def curve(pairs: Pairs, tmp_path: Path, config: TrainConfig) -> list[float]:
    model, tokenizer = new_model(pairs)
    return [row["loss"] for row in run_training(model, tokenizer, pairs, None, config, tmp_path)]


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"grad_checkpoint": True}, 1e-6),
        ({"micro_batch": 3}, 1e-3),
        ({"micro_batch": 3, "grad_checkpoint": True}, 1e-3),
        ({"precision": "bf16"}, 3e-2),
        ({"precision": "bf16", "micro_batch": 3, "grad_checkpoint": True}, 3e-2),
    ],
)
def test_what_saves_memory_or_time_changes_roundings_only(pairs, tmp_path, options, tolerance):
    plain = TrainConfig(epochs=8, batch_size=8)
    expected = curve(pairs, tmp_path, plain)
    assert expected[-1] < expected[0] - 0.5
    assert curve(pairs, tmp_path, replace(plain, **options)) == pytest.approx(expected, rel=tolerance)


def test_bf16_is_used_where_it_is_asked_for(pairs):
    model, tokenizer = new_model(pairs)
    images, tokens = torch.randn(4, 3, 24, 24), tokenizer(pairs.captions[:4])
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        encode = train.make_encoder(model, TrainConfig(precision=precision))
        assert {features.dtype for features in encode(images, tokens)} == {dtype}


def test_checkpoints_of_blocks_keep_less():
    """Fewer bytes are saved for the gradient, and the gradient has the same bits."""
    model = CLIP(replace(CONFIG, vision_layers=3))
    images = torch.randn(8, 3, 24, 24)
    kept, gradients = [], []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.nbytes) or x, lambda x: x):
            features = model.encode_image(images)
        gradients.append(torch.autograd.grad(features.square().sum(), model.get_parameter("visual.conv1.weight"))[0])
        kept.append(sum(saved))
    assert torch.equal(*gradients)
    assert kept[1] < kept[0] / 2


def count_compilations(monkeypatch, backend: str) -> list[int]:
    """Let torch.compile use a backend that is quick, and append to the list whenever it is called."""
    calls: list[int] = []
    compile_graph = torch._dynamo.lookup_backend(backend)

    def counting(graph, inputs):
        calls.append(1)
        return compile_graph(graph, inputs)

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counting))
    return calls


def test_the_compiled_towers_train_alike_and_are_compiled_a_handful_of_times(pairs, tmp_path, monkeypatch):
    """Captions of 7 to 16 tokens in groups of 2 and 3, in ten steps, also in evaluation."""
    torch._dynamo.reset()
    plain = TrainConfig(epochs=5, batch_size=7)
    expected = curve(pairs, tmp_path, plain)
    calls = count_compilations(monkeypatch, "aot_eager")
    assert curve(pairs, tmp_path, replace(plain, compile=True)) == pytest.approx(expected, rel=1e-3)
    assert 2 <= len(calls) <= 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # Inductor itself calls it.
def test_the_towers_compiled_by_inductor_train_alike(pairs, tmp_path):
    torch._dynamo.reset()
    plain = TrainConfig(epochs=8, batch_size=8)
    expected = curve(pairs, tmp_path, plain)
    assert curve(pairs, tmp_path, replace(plain, compile=True)) == pytest.approx(expected, rel=1e-3)


def test_tensorboard_gets_what_metrics_csv_gets(pairs, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model, tokenizer = new_model(pairs)
    config = TrainConfig(epochs=5, batch_size=8, log="tensorboard")
    rows = run_training(model, tokenizer, pairs, pairs, config, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {name for row in rows for name in row} - {"step"}
    for name in ("loss", "lr", "unseen_top1"):
        wanted = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows if name in row]
        assert [(event.step, event.value) for event in events.Scalars(name)] == wanted


def test_without_tensorboard_it_says_what_to_install(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    model, tokenizer = new_model(pairs)
    config = TrainConfig(epochs=1, batch_size=8, log="tensorboard")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'minclip\[tensorboard\]'"):
        run_training(model, tokenizer, pairs, None, config, tmp_path)
