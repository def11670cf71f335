"""Wrong answers to the exercises of lesson 10, What does 0.25 mean?"""

import torch
import torch.nn.functional as F

from mistakes import Hinted


def by_columns(similarity, is_right, k):
    """The nearest queries of each candidate."""
    return is_right.gather(0, similarity.topk(k, dim=0).indices).any(dim=0).double().mean().item()


MISTAKES = {
    "prompt_ensemble": [
        Hinted(lambda prompts: F.normalize(prompts.mean(dim=1), dim=-1), "a long prompt counts more"),
        Hinted(lambda prompts: F.normalize(prompts, dim=-1).mean(dim=1), "normalise once more, at the end"),
        lambda prompts: F.normalize(F.normalize(prompts, dim=-1).mean(dim=0), dim=-1),  # over labels
        Hinted(lambda prompts: F.normalize(F.normalize(prompts, dim=1).mean(dim=1), dim=-1), "dim=-1"),
        Hinted(lambda prompts: F.normalize(prompts, dim=-1)[:, 0], "all of them count"),
        lambda prompts: F.normalize(F.normalize(prompts, dim=-1).amax(dim=1), dim=-1),
        lambda prompts: F.normalize(F.normalize(prompts, dim=-1).mean(dim=1), dim=0),
        Hinted(
            lambda prompts: F.normalize(F.normalize(prompts, dim=-1).mean(dim=(0, 1)), dim=-1).expand(len(prompts), -1),
            "never over the labels",
        ),
    ],
    "recall_at": [
        Hinted(
            lambda s, right, k: (right.gather(1, s.topk(k).indices).sum() / right.sum()).item(),
            "another recall",
        ),
        Hinted(lambda s, right, k: right.gather(1, s.topk(k).indices).float().mean().item(), "whether there is one"),
        lambda s, right, k: (s.topk(k).indices == right.int().argmax(dim=1, keepdim=True)).any(dim=1).float().mean(),
        Hinted(
            lambda s, right, k: right.gather(1, s.topk(k, largest=False).indices).any(dim=1).double().mean().item(),
            "smallest",
        ),
        Hinted(lambda s, right, k: by_columns(s, right, min(k, len(s))), "along dim=1"),
        Hinted(
            lambda s, right, k: (s.topk(k).indices == torch.arange(len(s))[:, None]).any(dim=1).double().mean().item(),
            "not always on the diagonal",
        ),
        Hinted(lambda s, right, k: right.gather(1, s.topk(k).indices).any(dim=1).sum().item(), "the mean"),
        lambda s, right, k: right.gather(1, s.topk(1).indices).any(dim=1).double().mean().item(),  # of the first
        Hinted(lambda s, right, k: right.gather(1, s.topk(k).indices).all(dim=1).double().mean().item(), "any"),
        lambda s, right, k: right[:, :k].any(dim=1).double().mean().item(),
    ],
}
