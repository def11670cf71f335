"""The checks of lesson 06, Reading a sentence."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.cases import expect, features, pairs_of_features
from check.modules import expect_same, with_random_weights
from check.verdict import exercise
from minclip.text import TextTransformer
from minclip.transformer import Attention as Reference
from minclip.transformer import Block as ReferenceBlock


@exercise(
    "put −infinity wherever the column comes after the row, before you take the softmax, which runs along each row.",
    steps=(
        "which entries of a row of scores belong to positions that come later? What must exp make of them?",
        "torch.ones(T, T, dtype=torch.bool).triu(1) is True in the future, and masked_fill puts a number there",
        "exp(−infinity) is 0: scores.masked_fill(future, -torch.inf), then the softmax along a row",
    ),
)
def causal_weights(attempt, draw):
    query, key = pairs_of_features(draw)
    T, D = query.shape
    scores = query @ key.T / D**0.5  # (T, T)
    values = torch.eye(T)  # so that attention returns its weights
    wanted = F.scaled_dot_product_attention(query[None], key[None], values[None], is_causal=True)[0]
    expect(attempt(scores.clone()), wanted, scores=scores)
    expect(attempt(torch.stack([scores, scores - 3])), torch.stack([wanted, wanted]), scores="a batch of two")
    low = scores - 100  # changes no weight, and puts every score far below any moderate number in the future
    finite = "a finite number in the future keeps a share if all other scores are lower: only -torch.inf keeps none"
    expect(attempt(low.clone()), wanted, hint=finite, scores=low)
    high = scores + 200 * torch.ones(T, T).triu(1)  # scores that are masked may be anything
    late = "a high score in the future makes the others round to 0, and their sum as well: mask before the softmax"
    expect(attempt(high.clone()), wanted, hint=late, scores=high)


@exercise(
    "follow one number: in_proj gives 3 · width of them for each position, in the order q, k, v, each head by head.",
    cases=20,
    steps=(
        "what shape must q, k and v have, so that q @ k.transpose(-2, -1) compares the positions of one head?",
        "F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1) are q, k and v, each (B, T, D); the "
        "heads are consecutive stretches of D: view(B, T, heads, d), then transpose(1, 2)",
        "at the end: out.transpose(1, 2).reshape(B, T, D), then out_proj",
    ),
)
def Attention(attempt, draw):
    heads, width_of_head = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    reference = with_random_weights(Reference(heads * width_of_head, heads))
    causal, x = draw(st.booleans()), draw(_vectors(heads * width_of_head))  # (B, T, D)
    mistakes = _mistakes_of_attention(reference, x, causal)
    case = {"width": heads * width_of_head, "heads": heads, "causal": causal, "x": x}
    expect_same(attempt(heads * width_of_head, heads), reference, (x, causal), mistakes, **case)


@st.composite
def _vectors(draw: st.DrawFn, width: int) -> Tensor:
    B, T, seed = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(0, 99))
    return torch.randn(B, T, width, generator=torch.Generator().manual_seed(seed))


def _mistakes_of_attention(attn: Any, x: Tensor, causal: bool) -> dict[str, Callable[[], Tensor]]:
    D = x.shape[-1]
    d = D // attn.heads
    root = "the scores are divided by √d, where d = width / heads is the width of one head"
    mask = "causal=True: mask the scores before the softmax; causal=False: no mask at all"
    split = "view(B, T, heads, d) first, then transpose(1, 2): a plain view(B, heads, T, d) mixes positions and heads"
    across = "transpose(1, 2) after view(B, T, heads, d): here the heads of one position attend to each other"
    parts = "in_proj's rows are all of q, all of k, all of v: chunk(3, dim=-1) first, then each of them into heads"
    join = "(B, heads, T, d) must become (B, T, heads, d) again, by transpose(1, 2), before reshape(B, T, D)"
    late = "the mask comes before the softmax: zeros put there afterwards leave the future in the denominator"
    return {
        root: lambda: _attend(attn, x, causal, scale=1 / d),
        root + " (not that of all heads together)": lambda: _attend(attn, x, causal, scale=D**-0.5),
        root + " (here they were not divided)": lambda: _attend(attn, x, causal, scale=1.0),
        mask: lambda: _attend(attn, x, not causal),
        split: lambda: _attend(attn, x, causal, split=False),
        split + " (and back)": lambda: _attend(attn, x, causal, split=False, join=False),
        across: lambda: _attend_across_heads(attn, x, causal),
        parts: lambda: _attend(_with_rows_by_head(attn), x, causal),
        join: lambda: _attend(attn, x, causal, join=False),
        late: lambda: _attend(attn, x, causal, late=True),
        "out_proj comes last": lambda: _attend(attn, x, causal, project=False),
        "in_proj_bias must be added as well": lambda: _attend(attn, x, causal, bias=False),
        "each head attends by itself: split q, k and v into heads": lambda: _attend(attn, x, causal, heads=1),
    }


def _attend(
    attn: Any, x: Tensor, causal: bool, scale: float = 0.0, heads: int = 0, split: bool = True, join: bool = True,
    late: bool = False, project: bool = True, bias: bool = True,
) -> Tensor:  # fmt: skip
    """Attention with one mistake."""
    B, T, D = x.shape
    heads = heads or attn.heads
    parts = F.linear(x, attn.in_proj_weight, attn.in_proj_bias if bias else None).chunk(3, dim=-1)
    q, k, v = (part.view(B, T, heads, -1).transpose(1, 2) if split else part.reshape(B, heads, T, -1) for part in parts)
    scores = q @ k.mT * (scale or q.shape[-1] ** -0.5)  # (B, H, T, T)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    if late and causal:
        weights = scores.softmax(dim=-1).tril()
    else:
        weights = (scores.masked_fill(future, -torch.inf) if causal else scores).softmax(dim=-1)
    out = weights @ v
    out = (out.transpose(1, 2) if join else out).reshape(B, T, D)
    return attn.out_proj(out) if project else out


def _attend_across_heads(attn: Any, x: Tensor, causal: bool) -> Tensor:
    """Attention with its axes in the wrong order: (B, T, heads, d) without a transpose."""
    q, k, v = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).unflatten(-1, (3, attn.heads, -1)).unbind(2)
    return attn.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=causal).flatten(2))


def _with_rows_by_head(attn: Any) -> Any:
    """An attention that takes the rows of in_proj to be q, k and v of head 1, then those of head 2, and so on."""
    by_head = copy.deepcopy(attn)
    for ours, given in ((by_head.in_proj_weight, attn.in_proj_weight), (by_head.in_proj_bias, attn.in_proj_bias)):
        ours.data = given.detach().unflatten(0, (attn.heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    return by_head


@exercise(
    "x = x + attn(ln_1(x)), then x + mlp(ln_2(x)).",
    cases=20,
    steps=(
        "what does a position keep if attention has nothing to give it? What comes before each part?",
        "each part reads a normalised copy and adds its result to x, which itself is never normalised",
        "x = x + self.attn(self.ln_1(x), self.causal); then the same with ln_2 and mlp",
    ),
)
def Block(attempt, draw):
    heads, causal = draw(st.integers(1, 2)), draw(st.booleans())
    width = heads * draw(st.integers(3, 4))  # a LayerNorm turns any two numbers into ±1
    reference = with_random_weights(ReferenceBlock(width, heads, causal, quick_gelu=False))
    x = draw(_vectors(width))  # (B, T, D)
    case = {"width": width, "heads": heads, "causal": causal, "x": x}
    expect_same(attempt(width, heads, causal), reference, (x,), _mistakes_of_block(reference, x), **case)


def _mistakes_of_block(block: Any, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    ln_1, ln_2, mlp = block.ln_1, block.ln_2, block.mlp

    def attn(x: Tensor, causal: bool = block.causal) -> Tensor:
        return block.attn(x, causal)

    def with_gelu(gelu: Callable[[Tensor], Tensor]) -> Tensor:
        middle = x + attn(ln_1(x))
        return middle + mlp.c_proj(gelu(mlp.c_fc(ln_2(middle))))

    def after(attention: Tensor) -> Tensor:
        return attention + mlp(ln_2(attention))

    residual = "each part adds its result to what the position had: x + …"
    pre_norm = "pre-norm: the LayerNorm comes before each part, and x itself goes on without it"
    two_steps = "one after the other: the MLP reads what attention has left behind, not the block's input"
    return {
        residual: lambda: mlp(ln_2(attn(ln_1(x)))),
        residual + " (attention's)": lambda: after(attn(ln_1(x))),
        residual + " (the MLP's)": lambda: mlp(ln_2(x + attn(ln_1(x)))),
        residual + ", not to its normalised copy": lambda: after(ln_1(x) + attn(ln_1(x))),
        pre_norm: lambda: ln_2(ln_1(x + attn(x)) + mlp(ln_1(x + attn(x)))),
        pre_norm + " (here there is none)": lambda: x + attn(x) + mlp(x + attn(x)),
        two_steps: lambda: x + attn(ln_1(x)) + mlp(ln_2(x)),
        "plain GELU, nn.GELU(): QuickGELU is what OpenAI's weights need": lambda: with_gelu(
            lambda y: y * torch.sigmoid(1.702 * y)
        ),
        "nn.GELU() goes between the two layers of the MLP": lambda: with_gelu(F.relu),
        "nn.GELU() goes between the two layers of the MLP (here there is nothing)": lambda: with_gelu(lambda y: y),
        "pass self.causal on to attention": lambda: after(x + attn(ln_1(x), not block.causal)),
    }


@exercise(
    "argmax of True and False (as integers) is the first True's place; index x with a row and a place for each text.",
    steps=(
        "how do you find the first place where a row of truth values is True?",
        "(tokens == end_id).int().argmax(dim=1) is that place, for every text",
        "x[torch.arange(len(x)), places] takes one vector from every text",
    ),
)
def pool_at_end(attempt, draw):
    T, end_id = draw(st.integers(2, 5)), draw(st.sampled_from([9, 5]))
    padding = draw(st.sampled_from([0, end_id]))
    others = st.sampled_from([0, 1, 2, 3, 4, 6, 7])  # 0 is a real token, and EOT may have any number
    bodies = draw(st.lists(st.lists(others, max_size=T - 2), min_size=1, max_size=3))
    tokens = torch.tensor([[8, *body, end_id] + [padding] * (T - 2 - len(body)) for body in bodies])  # (B, T)
    x = draw(features(len(bodies) * T, 2)).view(len(bodies), T, 2)
    wanted = torch.stack([x[i, 1 + len(body)] for i, body in enumerate(bodies)])
    higher = "here other tokens have higher ids than end_id: compare with end_id first" if end_id == 5 else ""
    expect(attempt(x.clone(), tokens.clone(), end_id), wanted, hint=higher, x=x, tokens=tokens, end_id=end_id)


VOCAB_SIZE = 9  # 7 is the start of a text, 8 its end


class _ReferenceTower(TextTransformer):
    forward = TextTransformer.encode_text


@exercise(
    "embedding + positions of the first T places, blocks, the vector at EOT, ln_final, projection.",
    cases=20,
    steps=(
        "what is a position's vector before the first block? Which of the vectors is read at the end?",
        "self.token_embedding(tokens) is (B, T, D); only the first T rows of positional_embedding are needed",
        "pool_at_end(x, tokens, end_id), where the end token has the highest id: then ln_final, then @ text_projection",
    ),
)
def TextTower(attempt, draw):
    context_length, heads, layers = draw(st.integers(3, 6)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    width = 4 * heads
    embed_dim = draw(st.sampled_from([width, 3]))
    sizes = context_length, VOCAB_SIZE, width, layers, heads, embed_dim
    reference = with_random_weights(_ReferenceTower(*sizes, quick_gelu=False))
    T = draw(st.integers(2, context_length))
    bodies = draw(st.lists(st.lists(st.integers(0, 6), max_size=T - 2), min_size=1, max_size=3))
    tokens = torch.tensor([[7, *body, 8] + [0] * (T - 2 - len(body)) for body in bodies])  # (B, T)
    case = {"context_length": context_length, "width": width, "layers": layers, "tokens": tokens}
    expect_same(attempt(*sizes), reference, (tokens,), _mistakes_of_text_tower(reference, tokens), **case)


def _mistakes_of_text_tower(tower: Any, tokens: Tensor) -> dict[str, Callable[[], Tensor]]:
    T, end = tokens.shape[1], tokens.argmax(dim=1)
    rows, positions = torch.arange(len(tokens)), tower.positional_embedding

    def finish(x: Tensor, norm: bool = True) -> Tensor:
        return (tower.ln_final(x) if norm else x) @ tower.text_projection

    def read(added: Tensor) -> Tensor:
        return tower.transformer(tower.token_embedding(tokens) + added)  # (B, T, D)

    at_end = "one vector for each text, the one at its first EOT: pool_at_end"
    return {
        "the learned vectors of the places are added": lambda: finish(read(torch.tensor(0))[rows, end]),
        "place t of a text gets row t of positional_embedding: the first T rows": lambda: finish(
            read(positions[-T:])[rows, end]
        ),
        at_end: lambda: finish(read(positions[:T])[:, -1]),
        at_end + ", not at SOT (the end token's id is the highest, vocab_size - 1)": lambda: finish(
            read(positions[:T])[:, 0]
        ),
        at_end + ", not their mean": lambda: finish(read(positions[:T]).mean(dim=1)),
        "ln_final comes before the projection": lambda: finish(read(positions[:T])[rows, end], norm=False),
        "the last step is the projection: @ self.text_projection": lambda: tower.ln_final(
            read(positions[:T])[rows, end]
        ),
        "not normalised: bringing the features to length 1 is the loss's business": lambda: F.normalize(
            finish(read(positions[:T])[rows, end]), dim=-1
        ),
    }
