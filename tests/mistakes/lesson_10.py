"""Wrong answers to the exercises of lesson 10, Zero-shot, search, "other"."""

import torch.nn.functional as F

MISTAKES = {
    "prompt_ensemble": [
        lambda prompts: F.normalize(prompts.mean(dim=1), dim=-1),  # long prompts count more
        lambda prompts: F.normalize(prompts, dim=-1).mean(dim=1),  # shorter than 1
        lambda prompts: F.normalize(F.normalize(prompts, dim=-1).mean(dim=0), dim=-1),  # over labels
        lambda prompts: F.normalize(F.normalize(prompts, dim=1).mean(dim=1), dim=-1),
        lambda prompts: F.normalize(prompts, dim=-1)[:, 0],  # the first one
        lambda prompts: F.normalize(F.normalize(prompts, dim=-1).amax(dim=1), dim=-1),
        lambda prompts: F.normalize(F.normalize(prompts, dim=-1).mean(dim=1), dim=0),
        lambda prompts: F.normalize(F.normalize(prompts, dim=-1).mean(dim=(0, 1)), dim=-1),  # one for all labels
    ],
    "recall_at": [
        lambda s, right, k: (  # the share of right answers that were found
            right.gather(1, s.topk(k).indices).sum() / right.sum()
        ).item(),
        lambda s, right, k: right.gather(1, s.topk(k).indices).float().mean().item(),  # precision
        lambda s, right, k: (s.topk(k).indices == right.int().argmax(dim=1, keepdim=True)).any(dim=1).float().mean(),
        lambda s, right, k: right.gather(1, s.topk(k, largest=False).indices).any(dim=1).double().mean().item(),
        lambda s, right, k: right.gather(1, s.topk(k).indices).any(dim=1).sum().item(),  # no share
        lambda s, right, k: right.gather(1, s.topk(1).indices).any(dim=1).double().mean().item(),  # of the first
        lambda s, right, k: right.gather(1, s.topk(k).indices).all(dim=1).double().mean().item(),
        lambda s, right, k: right[:, :k].any(dim=1).double().mean().item(),
    ],
}
