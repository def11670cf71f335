"""How to train: the settings of a run, which check themselves."""

import math
from dataclasses import dataclass

from minclip.augmentation import AUGMENTATIONS
from minclip.finetune import TOWERS

LOSSES, BACKENDS, PRECISIONS = ("clip", "siglip"), ("fused", "naive"), ("fp32", "bf16")
EQUAL_CAPTIONS = ("negatives", "drop", "all")
LOGS = ("tensorboard",)
# Settings that may change when a run is resumed.
FREE = ("early_stopping", "log", "micro_batch", "grad_checkpoint", "compile")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. Raises ValueError, with the name and the value, for a setting that would waste the run.

    `loss` "siglip" needs a model with a logit_bias; `backend` "naive" is the readable formula with its B×B matrix.
    `micro_batch` is the number of pairs that are encoded at a time (None: the whole batch). A smaller one takes less
    memory and more time, and so does `grad_checkpoint`, which recomputes the activations inside the blocks for the
    gradient; neither changes more than rounding. `precision` is that of the towers: "bf16" needs hardware that supports
    it. `lock` names a tower that does not learn, except for its last `unlock_last` blocks; each layer further from the
    features learns at `layer_decay` times the rate of the one above it. `augmentation` is a name in `AUGMENTATIONS`,
    `rephrase` the share of captions that are rephrased, if there are other phrasings. `equal_captions` says how two
    pairs of a batch with equal captions are treated: as "negatives" of each other, as in CLIP; left out of each other's
    sums ("drop"); or both as right answers ("all"). `distill` is the weight of a teacher's view of the pictures
    (`teacher.py`). `warmup` is a share of all steps. `early_stopping` is the number of reports, of ten, without a
    better score on the held-out pictures after which the training ends.
    """

    epochs: int = 40
    batch_size: int = 128
    micro_batch: int | None = None
    lr: float = 1e-3
    seed: int = 0
    loss: str = "clip"
    backend: str = "fused"
    precision: str = "fp32"
    compile: bool = False
    grad_checkpoint: bool = False
    weight_decay: float = 0.1
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    lock: str | None = None
    unlock_last: int = 0
    layer_decay: float = 1.0
    augmentation: str = "gentle"
    rephrase: float = 0.5
    equal_captions: str = "negatives"
    distill: float = 0.0
    early_stopping: int | None = None
    log: str | None = None

    def __post_init__(self) -> None:
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2: one pair has no negatives, and its loss is always 0"),
            "micro_batch": (self.micro_batch is None or self.micro_batch >= 1, "at least 1"),
            "lr": (math.isfinite(self.lr) and self.lr > 0, "a positive number"),
            "seed": (0 <= self.seed < 2**63, "from 0 to 2^63 − 1"),
            "loss": (self.loss in LOSSES, f"one of {', '.join(LOSSES)}"),
            "backend": (self.backend in BACKENDS, f"one of {', '.join(BACKENDS)}"),
            "precision": (self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "lock": (self.lock is None or self.lock in TOWERS, f"one of {', '.join(TOWERS)}"),
            "unlock_last": (self.unlock_last >= 0, "at least 0"),
            "layer_decay": (0 < self.layer_decay <= 1, "more than 0, at most 1"),
            "warmup": (0 <= self.warmup <= 1, "from 0 to 1"),
            "max_grad_norm": (self.max_grad_norm > 0, "more than 0"),
            "log": (self.log is None or self.log in LOGS, f"one of {', '.join(LOGS)}"),
            "augmentation": (self.augmentation in AUGMENTATIONS, f"one of {', '.join(AUGMENTATIONS)}"),
            "rephrase": (0 <= self.rephrase <= 1, "from 0 to 1"),
            "equal_captions": (self.equal_captions in EQUAL_CAPTIONS, f"one of {', '.join(EQUAL_CAPTIONS)}"),
            "distill": (self.distill >= 0, "at least 0"),
            "early_stopping": (self.early_stopping is None or self.early_stopping >= 1, "at least 1"),
        }
        for name, (is_kept, rule) in rules.items():
            if not is_kept:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {rule}")
        if self.unlock_last and not self.lock:
            raise ValueError(f"unlock_last is {self.unlock_last}; it needs lock, the tower whose last blocks these are")
        if self.loss == "siglip" and self.equal_captions != "negatives":
            raise ValueError(f"equal_captions is {self.equal_captions!r}; with loss 'siglip' it must be 'negatives'")
