"""Wrong answers to the exercises of the lessons, as someone would give them: a check must refuse each of them."""

import importlib
import importlib.util
import math
from pathlib import Path

import caching_mistakes
import sharded_mistakes
import torch
import torch.nn.functional as F

import minclip
from minclip.tokenizer import CHAR_TO_BYTE, learn_merges

LESSONS = Path(__file__).resolve().parent.parent / "lessons"


def scale_of(cosines, scale):
    return importlib.import_module("solutions.lesson_04").scale_gradient(cosines, scale)


def glued(symbols, pair):
    return importlib.import_module("solutions.lesson_05").glue(symbols, pair)


def text(symbols: tuple[str, ...]) -> str:
    return "".join(symbols).removesuffix("</w>")


# Wrong answers that someone would give: each must be refused. Solutions take what the exercise takes.
MISTAKES = {
    # --- 00
    "nearest_label": [
        lambda images, labels: (images @ labels.T).argmax(dim=1),  # long features win
        lambda images, labels: (F.normalize(images, dim=1) @ F.normalize(labels, dim=1).T).argmax(dim=0),
        lambda images, labels: (F.normalize(images, dim=0) @ F.normalize(labels, dim=0).T).argmax(dim=1),
        lambda images, labels: torch.cdist(images, labels).argmin(dim=1),
        lambda images, labels: (images @ F.normalize(labels, dim=0).T).argmax(dim=1),
        lambda images, labels: (F.normalize(images, dim=1) @ F.normalize(labels, dim=1).T).max(dim=1).values,
        lambda images, labels: (F.normalize(images, dim=1) @ F.normalize(labels, dim=1).T).argmin(dim=1),
        lambda images, labels: (F.normalize(images, dim=1) @ F.normalize(labels, dim=1)).argmax(dim=1),  # no .T
    ],
    # --- 01
    "cosine_matrix": [
        lambda image, text: image @ text.T,
        lambda image, text: F.normalize(image, dim=0) @ F.normalize(text, dim=0).T,  # along the wrong dimension
        lambda image, text: F.normalize(image) @ text.T,  # one side only
        lambda image, text: F.normalize(text) @ F.normalize(image).T,  # rows and columns exchanged
        lambda image, text: F.cosine_similarity(image, text[: len(image)]),  # pair by pair
        lambda image, text: (image @ text.T) / (image.norm() * text.norm()),  # of the whole matrices
        lambda image, text: (image @ text.T) / (image.norm(dim=1)[:, None] * text.norm(dim=1)[:, None]),
        lambda image, text: F.normalize(image, p=1) @ F.normalize(text, p=1).T,
        lambda image, text: F.normalize(image @ text.T, dim=1),
    ],
    "n_pair_loss": [
        lambda z: (z - z.diagonal()[:, None]).exp().sum(dim=1).log1p().mean(),  # the right one counted twice
        lambda z: F.softplus(z - z.diagonal()[:, None]).fill_diagonal_(0).sum(dim=1).mean(),  # a sum of logarithms
        lambda z: F.cross_entropy(z.T, torch.arange(len(z))),
        lambda z: F.cross_entropy(z, torch.arange(len(z)), reduction="sum"),
        lambda z: ((z - z.diagonal()).exp().sum(dim=1) - 1).log1p().mean(),  # z_jj of the column
        lambda z: (z - z.diagonal()[:, None]).fill_diagonal_(-torch.inf).logsumexp(dim=1).mean(),  # without the 1
        lambda z: (z.diagonal()[:, None] - z).exp().fill_diagonal_(0).sum(dim=1).log1p().mean(),  # the sign
    ],
    # --- 02
    "onehot_loss": [
        lambda logits: -(torch.eye(len(logits)) * logits.log_softmax(dim=0)).sum(dim=1).mean(),  # columns
        lambda logits: -(torch.eye(len(logits)) * logits.log_softmax(dim=1)).mean(),  # over N² instead of N
        lambda logits: (torch.eye(len(logits)) * logits.log_softmax(dim=1)).sum(dim=1).mean(),  # the sign
        lambda logits: -(torch.eye(len(logits)) @ logits.log_softmax(dim=1)).sum(dim=1).mean(),  # a matrix product
        lambda logits: -(torch.eye(len(logits)) * logits.softmax(dim=1)).sum(dim=1).mean(),  # no logarithm
        lambda logits: -(torch.eye(len(logits)) * logits.log_softmax(dim=1)).sum(),
        lambda logits: F.mse_loss(logits.softmax(dim=1), torch.eye(len(logits))),
    ],
    "arange_loss": [
        lambda logits: F.cross_entropy(logits.T, torch.arange(len(logits))),
        lambda logits: F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)),
        lambda logits: F.cross_entropy(logits.softmax(dim=1), torch.arange(len(logits))),  # the softmax twice
        lambda logits: F.cross_entropy(logits, torch.arange(len(logits)), reduction="sum"),
        lambda logits: F.nll_loss(logits, torch.arange(len(logits))),  # no softmax
        lambda logits: F.cross_entropy(logits, torch.arange(1, len(logits) + 1)),  # counts from 1
        lambda logits: F.cross_entropy(logits, torch.arange(len(logits), dtype=torch.float32)),
    ],
    "logit_gradient": [
        lambda z: (z.softmax(dim=1) + z.softmax(dim=0) - torch.eye(len(z))) / (2 * len(z)),
        lambda z: (z.softmax(dim=1) - torch.eye(len(z))) / len(z),  # one direction only
        lambda z: (z.softmax(dim=1) + z.softmax(dim=0) - 2 * torch.eye(len(z))) / len(z),  # without the half
        lambda z: (z.softmax(dim=1) + z.softmax(dim=0) - 2 * torch.eye(len(z))) / 2,  # without the mean
        lambda z: (2 * torch.eye(len(z)) - z.softmax(dim=1) - z.softmax(dim=0)) / (2 * len(z)),  # uphill
        lambda z: (z.softmax(dim=1) + z.T.softmax(dim=1) - 2 * torch.eye(len(z))) / (2 * len(z)),  # not turned back
    ],
    # --- 03
    "batch_floor": [
        lambda captions: math.log(len(captions) / len(set(captions))),
        lambda captions: math.log(max(captions.count(caption) for caption in captions)),
        # over the different captions instead of the pairs
        lambda captions: sum(math.log(captions.count(c)) for c in set(captions)) / len(set(captions)),
        lambda captions: sum(math.log(captions.count(c)) for c in captions),  # no mean
        lambda captions: math.log(sum(captions.count(c) for c in captions) / len(captions)),  # the logarithm last
        lambda captions: sum(math.log2(captions.count(c)) for c in captions) / len(captions),  # bits
        lambda captions: math.log(len(captions)),
    ],
    "expected_floor": [
        lambda B, C: max(0.0, math.log(B / C)),
        lambda B, C: math.log(1 + (B - 1) / C),  # the logarithm of the mean
        lambda B, C: sum(math.comb(B, k) * C**-k * (1 - 1 / C) ** (B - k) * math.log(1 + k) for k in range(B + 1)),
        lambda B, C: math.log(max(1, B // C)),
        lambda B, C: sum(math.comb(B - 1, k) * C**-k * math.log(1 + k) for k in range(B)),  # the others may be equal
        lambda B, C: sum(  # ln of the others, without one's own
            math.comb(B - 1, k) * C**-k * (1 - 1 / C) ** (B - 1 - k) * math.log(max(1, k)) for k in range(B)
        ),
        lambda B, C: sum(  # up to B − 2
            math.comb(B - 1, k) * C**-k * (1 - 1 / C) ** (B - 1 - k) * math.log(1 + k) for k in range(B - 1)
        ),
    ],
    # --- 04
    "scale_gradient": [
        lambda c, s: (((s * c).softmax(dim=1) * c).sum(dim=1) - c.diagonal()).mean(),  # rows only
        lambda c, s: (((s * c).softmax(dim=0) * c).sum(dim=0) - c.diagonal()).mean(),  # columns only
        lambda c, s: ((s * c).flatten().softmax(dim=0) * c.flatten()).sum() - c.diagonal().mean(),  # over everything
        lambda c, s: (
            sum(  # exp without a maximum: nan in float32
                ((e := (s * half).exp()) / e.sum(dim=1, keepdim=True) * half).sum(dim=1).mean() - c.diagonal().mean()
                for half in (c, c.T)
            )
            / 2
        ),
        lambda c, s: (((s * c).softmax(dim=1) + (s * c).softmax(dim=0)) * c).sum(dim=1) / 2 - c.diagonal(),  # N numbers
        lambda c, s: 2 * scale_of(c, s),  # the sum of the halves
        lambda c, s: len(c) * scale_of(c, s),
        lambda c, s: -scale_of(c, s),
        lambda c, s: s * scale_of(c, s),  # that of the logarithm
        lambda c, s: scale_of(c, s) / s,
        lambda c, s: scale_of(c, 1.0),
        lambda c, s: None,
    ],
    "step_log_scale": [
        ("learning_rate * gradient,", "learning_rate * gradient_of_scale,"),
        ("learning_rate * gradient,", "learning_rate * log_scale * gradient_of_scale,"),  # t taken for s
        ("log_scale - learning_rate", "log_scale + learning_rate"),  # uphill
        ("math.log(100))", "math.inf)"),  # no clamp
        ("math.log(100))", "100.0)"),
        (
            "min(log_scale - learning_rate * gradient, math.log(100))",
            "min(log_scale, math.log(100)) - learning_rate * gradient",  # the clamp before the step
        ),
        ("return min", "return math.e ** min"),  # s
        ("return min", "min"),
    ],
    # --- 05
    "glue": [
        lambda symbols, pair: tuple("".join(symbols).replace("".join(pair), f" {''.join(pair)} ").split()),
        lambda symbols, pair: tuple(  # glues without stepping over: a a a -> aa aa a
            "".join(pair) if symbols[i : i + 2] == pair else symbols[i] for i in range(len(symbols))
        ),
        lambda symbols, pair: list(glued(symbols, pair)),  # a list
        lambda symbols, pair: glued(symbols, pair)[:-1],  # the last one is lost
        lambda symbols, pair: glued(symbols, pair) if symbols[:2] == pair else symbols,  # at the beginning only
        lambda symbols, pair: glued(symbols[::-1], pair[::-1])[::-1],  # from the right
        lambda symbols, pair: tuple("".join(symbols).replace("".join(pair), "".join(pair))),
        ("            i += 1\n", ""),  # never ends
    ],
    "learn_bpe": [
        lambda words, n: learn_merges({text(word): 1 for word in words}, n),  # every word once
        lambda words, n: learn_merges({text(word): 2 * count for word, count in words.items()}, n),  # stops too late
        lambda words, n: learn_merges({text(word): count for word, count in words.items()}, n + 1),
        ("(-pair_counts[pair], pair)", "-pair_counts[pair]"),  # of equals the first that was met
        ("-pair_counts[pair], pair)", "-pair_counts[pair], pair[::-1])"),
        (" or pair_counts[best] < 2", ""),  # a pair that occurs once is merged, too
        ("words = {glue(symbols, best): count for symbols, count in words.items()}", "pass"),
        ("pair_counts[pair] += count", "pair_counts[pair] = count"),
        ("(-pair_counts[pair], pair)", "(pair_counts[pair], pair)"),  # the rarest
    ],
    "symbols_to_text": [
        lambda symbols: "".join(  # each symbol on its own
            bytes(CHAR_TO_BYTE[char] for char in symbol.removesuffix("</w>")).decode(errors="replace")
            + " " * symbol.endswith("</w>")
            for symbol in symbols
        ),
        lambda symbols: "".join(symbols).replace("</w>", " "),  # the printable characters taken for letters
        lambda symbols: bytes(CHAR_TO_BYTE[c] for c in "".join(symbols).replace("</w>", "")).decode(),  # no blanks
        ('"".join(symbols)', '" ".join(symbols)'),  # a blank between any two symbols
        (".decode().strip()", '.decode("latin-1").strip()'),
        ('bytes(ord(" ") if char == " " else CHAR_TO_BYTE[char]', "bytes(CHAR_TO_BYTE[char]"),  # a KeyError
        ("CHAR_TO_BYTE[char] for", "ord(char) for"),
        (".decode().strip()", '.decode(errors="ignore").strip().lower().replace(" ", "")'),
    ],
    "fit_to_context": [
        lambda ids, start, end, length: ([start, *ids, end] + [0] * length)[:length],  # cuts EOT off
        lambda ids, start, end, length: [start, *ids[: length - 2], end],  # no padding
        lambda ids, start, end, length: [start, *(ids + [0] * length)[: length - 2], end],  # EOT behind the padding
        lambda ids, start, end, length: (ids + [0] * length)[:length],  # neither start nor end
        lambda ids, start, end, length: [start, *ids[: length - 2], end] + [end] * (length - 2 - len(ids)),
        lambda ids, start, end, length: [0] * (length - 2 - len(ids)) + [start, *ids[: length - 2], end],
        lambda ids, start, end, length: [start, *ids[: length - 1], end] + [0] * (length - 2 - len(ids)),
        lambda ids, start, end, length: [start, *ids[-(length - 2) :], end] + [0] * (length - 2 - len(ids)),
    ],
    # --- 06
    "causal_mask": [
        lambda length: torch.ones(length, length).triu().bool(),  # looks forward
        lambda length: torch.ones(length, length).tril(-1).bool(),  # does not see itself
        lambda length: torch.zeros(length, length).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf),
        lambda length: torch.ones(length, length).tril(),  # numbers
        lambda length: torch.ones(length, length).triu(1).bool(),  # True where it is forbidden
        lambda length: torch.ones(length, dtype=torch.bool).diag(),  # itself alone
        lambda length: torch.ones(length, length, dtype=torch.bool),
        lambda length: torch.ones(length, length).tril(1).bool(),  # one too far
    ],
    "causal_weights": [
        lambda scores: scores.softmax(dim=-1).tril(),  # masked after the softmax
        lambda scores: scores.tril().softmax(dim=-1),  # a score of zero is a score
        lambda scores: scores.masked_fill(torch.ones_like(scores).tril(-1).bool(), -torch.inf).softmax(dim=-1),
        lambda scores: scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(dim=-2),
        lambda scores: scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -30.0).softmax(dim=-1),
        lambda scores: scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -100.0).softmax(dim=-1),
        lambda scores: scores.masked_fill(torch.ones_like(scores).triu().bool(), -torch.inf).softmax(dim=-1),  # nan
        lambda scores: (scores - torch.ones_like(scores).triu(1)).softmax(dim=-1),
        lambda scores: (scores.tril().exp() / scores.exp().sum(dim=-1, keepdim=True)).tril(),
    ],
    "pool_at_end": [
        lambda x, tokens, end_id: x[:, -1],
        lambda x, tokens, end_id: x[:, 0],
        lambda x, tokens, end_id: x[torch.arange(len(x)), (tokens != 0).sum(dim=1) - 1],  # a real 0, or padding by EOT
        lambda x, tokens, end_id: x[tokens == end_id],
        lambda x, tokens, end_id: x[torch.arange(len(x)), tokens.argmax(dim=1)],  # the highest id
        lambda x, tokens, end_id: x[:, (tokens == end_id).int().argmax(dim=1)],  # every text at every place
        lambda x, tokens, end_id: x.mean(dim=1),
        lambda x, tokens, end_id: x[torch.arange(len(x)), (tokens == end_id).int().argmax(dim=1) - 1],  # before it
        lambda x, tokens, end_id: x[torch.arange(len(x)), (tokens == end_id).int().argmax(dim=0)[: len(x)]],
        lambda x, tokens, end_id: x[
            torch.arange(len(x)), tokens.shape[1] - 1 - (tokens.flip(1) == end_id).int().argmax(1)
        ],
    ],
    # --- 07
    "patchify": [
        lambda images, size: images.reshape(len(images), -1, 3 * size**2),
        lambda images, size: F.unfold(images.mT, size, stride=size).transpose(1, 2),  # down the columns
        lambda images, size: (
            F.unfold(images, size, stride=size)  # the channel last
            .transpose(1, 2)
            .unflatten(2, (3, -1))
            .transpose(2, 3)
            .flatten(2)
        ),
        lambda images, size: F.unfold(images, size, stride=size),  # (B, 3·size·size, P)
        lambda images, size: F.unfold(images, size).transpose(1, 2),  # stride 1
        lambda images, size: images.unfold(2, size, size).unfold(3, size, size).flatten(1, 3).flatten(2),
        lambda images, size: torch.cat([F.unfold(c, size, stride=size).mT for c in images.split(1, 1)], dim=1),
    ],
    "unpatchify": [
        lambda patches, size: patches.reshape(len(patches), 3, round(patches.shape[1] ** 0.5) * size, -1),
        lambda patches, size: (
            F.fold(patches.transpose(1, 2), round(patches.shape[1] ** 0.5) * size, size, stride=size).mT
        ),
        lambda patches, size: F.fold(patches, round(patches.shape[1] ** 0.5) * size, size, stride=size),
        lambda patches, size: F.fold(patches.transpose(1, 2), patches.shape[1] * size, size, stride=size),
        lambda patches, size: F.fold(patches.mT, round(patches.shape[1] ** 0.5) * size, size, stride=size)[0],
        lambda patches, size: F.fold(patches.mT, round(patches.shape[1] ** 0.5) * size, size, stride=size).flip(1),
        ("permute(0, 3, 1, 4, 2, 5)", "permute(0, 3, 1, 2, 4, 5)"),
        ("permute(0, 3, 1, 4, 2, 5)", "permute(0, 3, 4, 1, 2, 5)"),
    ],
    "embed_patches": [
        lambda images, weight: F.conv2d(images, weight, stride=weight.shape[-1]).flatten(2),  # (B, D, P)
        lambda images, weight: F.conv2d(images, weight).flatten(2).transpose(1, 2),  # stride 1
        lambda images, weight: (
            F.unfold(images, weight.shape[-1], stride=weight.shape[-1]).transpose(1, 2)
            @ weight.reshape(-1, len(weight))  # not the transpose
        ),
        ("patches @ weight.flatten(1).T", "patches @ weight.flatten(1)"),
        ("patches @ weight.flatten(1).T", "patches @ weight.transpose(2, 3).flatten(1).T"),  # down the columns
        ("patches @ weight.flatten(1).T", "F.normalize(patches, dim=-1) @ weight.flatten(1).T"),
        ("patches @ weight.flatten(1).T", "patches @ weight.permute(0, 2, 3, 1).flatten(1).T"),  # the channel last
    ],
    # --- 08
    "training_step": [
        lambda *case: _step_with("no zero_grad", *case),
        lambda *case: _step_with("zero_grad after backward", *case),
        lambda *case: _step_with("no clamp", *case),
        lambda *case: _step_with("no step", *case),
        lambda *case: _step_with("scale without exp", *case),
        lambda *case: _step_with("one direction", *case),
        lambda *case: _step_with("a tensor", *case),
    ],
    # --- 09
    "grouped_loss": [
        lambda x, y, scale, group: minclip.clip_loss(x, y, scale),  # one group
        lambda x, y, scale, group: minclip.clip_loss(x[:group], y[:group], scale),  # the first alone
        lambda x, y, scale, group: sum(map(minclip.clip_loss, x.split(group), y.split(group), [scale] * len(x))),
        ("(-1, group)", "(group, -1)"),
        (".unflatten(0, (-1, group))", ".unflatten(0, (group, -1)).transpose(0, 1)"),  # every n-th pair
        ("(of_pictures + of_texts) / 2", "of_pictures"),
        ("(of_pictures + of_texts) / 2", "((of_pictures + of_texts) / 2).detach()"),
        ("F.normalize(image_features, dim=1)", "image_features"),
        ("logits = scale * ", "logits = "),
    ],
    # --- 10
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
    # --- 15
    "online_logsumexp": [
        lambda parts: torch.stack([part.exp().sum(dim=1) for part in parts]).sum(dim=0).log(),  # overflows
        lambda parts: torch.cat(list(parts), dim=1).logsumexp(dim=1),  # keeps everything
        lambda parts: torch.stack([part.logsumexp(dim=1) for part in parts]).sum(dim=0),
        lambda parts: torch.stack([part.amax(dim=1) for part in parts]).amax(dim=0),
        lambda parts: (
            torch.stack([part.double().exp().sum(dim=1) for part in parts]).sum(dim=0).log().float()
        ),  # a larger format
        lambda parts: (
            150 + torch.stack([(part - 150).exp().sum(dim=1) for part in parts]).sum(dim=0).log()
        ),  # a fixed maximum
        lambda parts: 900 + torch.stack([(part.double() - 900).exp().sum(1) for part in parts]).sum(0).log().float(),
        ("total * (largest - new).exp() + ", "total + "),  # the sum so far not corrected
        ("(largest - new).exp()", "(new - largest).exp()"),
        ("torch.maximum(largest, part.amax(dim=1))", "part.amax(dim=1)"),  # the largest of this part
        ("part.amax(dim=1))", "part.amax())"),  # of all rows: where they lie far apart, one is lost
    ],
    "chunked_loss": [
        lambda image, text, scale, chunk: minclip.clip_loss(image, text, scale),  # the whole matrix
        lambda image, text, scale, chunk: torch.cat(  # one direction only
            [
                F.cross_entropy(
                    scale * F.normalize(part) @ F.normalize(text).T,
                    torch.arange(k * chunk, k * chunk + len(part)),
                    reduction="none",
                )
                for k, part in enumerate(image.split(chunk))
            ]
        ).mean(),
        lambda image, text, scale, chunk: (
            sum(  # a chunk is no batch
                minclip.clip_loss(*pieces, scale) * len(pieces[0])
                for pieces in zip(image.split(chunk), text.split(chunk), strict=True)
            )
            / len(image)
        ),
        ("for start in range(0, N, chunk)", "chunk = N - 1\n    for start in range(0, N, chunk)"),  # ignores it
        ("for start in range(0, N, chunk)", "chunk = 4\n    for start in range(0, N, chunk)"),
        (".mean() / 2", ".mean().item() / 2"),  # without a gradient
        (
            "row_lse.append(logits.logsumexp(dim=1))",
            "strips = [logits] if start == 0 else [*strips, logits]\n        row_lse.append(logits.logsumexp(dim=1))",
        ),
        (
            "row_lse.append(logits.logsumexp(dim=1))  # finished",
            "row_lse.append(logits)\n    row_lse = [strip.logsumexp(dim=1) for strip in row_lse]\n    for _ in ():",
        ),
        ("- 2 * pairs", "- pairs"),
        (".mean() / 2", ".mean()"),
    ],
    # --- 16
    "squared_lengths_kernel": [
        ("mask=inside", "mask=(rows < N)[:, None]"),  # the next row's columns
        ("mask=inside", "mask=(columns < D)[None, :]"),  # rows behind the matrix
        (", axis=1), mask=rows < N)", ", axis=1))"),  # writes behind the vector
        ("rows[:, None] * D", "rows[:, None] * BLOCK_D"),
        ("tl.sum(tile * tile", "tl.sum(tile"),
        ("mask=inside, other=0.0", "mask=inside"),  # right in the interpreter alone
    ],
    "product_kernel": [
        ("mask=(rows < N)[:, None] & (ks < D)[None, :]", "mask=(rows < N)[:, None]"),
        ("mask=(rows < N)[:, None] & (ks < D)[None, :]", "mask=(ks < D)[None, :]"),
        ("mask=(columns < M)[None, :] & (ks < D)[:, None]", "mask=(ks < D)[:, None]"),
        ("inside = (rows < N)[:, None] & (columns < M)[None, :]", "inside = (rows < N)[:, None]"),
        ("range(0, D, BLOCK_D)", "range(0, BLOCK_D, BLOCK_D)"),  # the first step only
        ("tile = tl.dot(a, b, tile,", "tile = tl.dot(a, b,"),  # the last step only
        ("rows[:, None] * M", "rows[:, None] * N"),
        ('tile = tl.dot(a, b, tile, input_precision="ieee")', "tile = tl.dot(a, b, tile)"),  # TF32
        ('tile = tl.dot(a, b, tile, input_precision="ieee")', "tile += tl.dot(a, b)"),
    ],
    # --- 17
    "loss_from_others": [
        lambda others, pairs: torch.logaddexp(others, pairs) - pairs,  # small losses are lost
        lambda others, pairs: (1 + (others - pairs).exp()).log(),  # these, and large ones overflow
        lambda others, pairs: (others - pairs).exp(),
        lambda others, pairs: F.softplus(pairs - others),  # the sign
        lambda others, pairs: -(pairs - torch.logaddexp(others, pairs)),
        lambda others, pairs: F.relu(others - pairs),
        lambda others, pairs: torch.log1p((others - pairs).exp()).mean(),
        lambda others, pairs: -F.sigmoid(pairs - others).log(),
    ],
    "sums_kernel": [
        (" & (rows[:, None] != columns[None, :])", ""),  # the pair kept
        ('tl.where(largest == -float("inf"), 0.0, largest)', "largest"),
        ("counted = (rows < N)[:, None] & (columns < N)[None, :]", "counted = (rows < N)[:, None]"),
        ("counted = (rows < N)[:, None] & (columns < N)[None, :]", "counted = (columns < N)[None, :]"),
        ("tl.constexpr(0)", "tl.constexpr(1)"),
        ("column_lse + i * N", "column_lse + j * N"),
        ("tl.constexpr(0)), mask=columns < N)", "tl.constexpr(0)))"),
        ("tl.sum(tl.exp2(logits", "tl.sum(tl.exp(logits"),
        ("largest = tl.max(logits, axis)", "largest = tl.zeros_like(tl.max(logits, axis))"),  # overflows
    ],
    "coefficients_kernel": [
        ("rows[:, None] == columns[None, :], on", "rows[:, None] - first == columns[None, :], on"),
        (" + tl.exp2(scale * cosines - of_columns[None, :])", ""),
        ("of_columns[None, :])", "of_rows[:, None])"),
        ("on_diagonal[:, None], G)", "G - 2.0, G)"),
        ("out + (rows - first)[:, None]", "out + rows[:, None]"),
        ("tl.where(inside, G * cosines, 0.0)", "G * cosines"),
        ("tl.where(inside, G * cosines, 0.0)", "tl.where(inside, G * scale * cosines, 0.0)"),
        ("i * tl.num_programs(1) + j", "i * tl.num_programs(0) + j"),
        ("mask=rows < last, other=0.0)  # (BLOCK,)", "other=0.0)  # (BLOCK,)"),
    ],
    # --- 19
    "sharded_loss": sharded_mistakes.functions(),
}

MISTAKES |= {name: [wrong for wrong, _ in mistakes] for name, mistakes in caching_mistakes.MISTAKES.items()}


def mistake(number: str, name: str, k: int, folder: Path):
    """The k-th wrong answer to an exercise of a lesson; `folder` gets the file of one that changes our solution."""
    wrong = MISTAKES[name][k]
    if not isinstance(wrong, tuple):
        return wrong
    text = (LESSONS / "solutions" / f"lesson_{number}.py").read_text()
    assert wrong[0] in text, f"{wrong[0]!r} is not in the solutions of lesson {number}"
    return getattr(load(text.replace(*wrong), folder / f"{name}_{k}.py"), name)


def load(text: str, path: Path):
    """A module of this text; a file, since Triton reads the source of its kernels from there."""
    path.write_text(text)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _step_with(mistake: str, model, optimizer, images, tokens):
    features = model.encode_image(images), model.encode_text(tokens)
    scale = model.logit_scale if mistake == "scale without exp" else model.logit_scale.exp()
    loss = minclip.clip_loss(*features, scale)
    if mistake == "one direction":
        logits = scale * F.normalize(features[0], dim=1) @ F.normalize(features[1], dim=1).T
        loss = F.cross_entropy(logits, torch.arange(len(logits)))
    if mistake not in ("no zero_grad", "zero_grad after backward"):
        optimizer.zero_grad()
    loss.backward()
    if mistake == "zero_grad after backward":
        optimizer.zero_grad()
    if mistake != "no step":
        optimizer.step()
    if mistake != "no clamp":
        model.clamp_logit_scale()
    return loss if mistake == "a tensor" else loss.item()
