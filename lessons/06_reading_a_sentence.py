# %% [markdown]
# # 06 · Reading a sentence
#
# **The question.** The text tower makes one vector for every token of a text, and CLIP wants one vector for the whole
# text. It takes the one at the EOT token and throws the others away. Why that one, and not their mean
# ([openai/CLIP #217](https://github.com/openai/CLIP/issues/217))? And why does nobody mask the padding
# ([#183](https://github.com/openai/CLIP/issues/183))?
#
# **You need** tokens, SOT, EOT and padding (lesson 05), and the softmax.
#
# **Afterwards you can** write attention under a causal mask, read an attention map, say which of a text's vectors
# knows what, and prove that padding cannot matter.

# %%
from unittest.mock import patch

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import minclip

plt.style.use("lesson.mplstyle")
torch.set_grad_enabled(False)
model, _, tokenizer = minclip.load()  # trained on emoji, their names and keywords

# %% [markdown]
# ## A batch of texts
#
# Three captions as the model gets them: start, text, end, and zeros up to the longest. (Letters in comments such as
# `(B, T, D)`: B texts of T places; D numbers at each place, E in a feature; H and d are explained below.)

# %%
captions = ["cat", "red heart", "woman firefighter medium skin tone"]
tokens = tokenizer(captions)  # (B, T)
names = [[tokenizer.symbol_of_id[i].removesuffix("</w>") for i in row] for row in tokens]
short = {"<|startoftext|>": "SOT", "<|endoftext|>": "EOT"}
names = [[short.get(name, name) for name in row] for row in names]
for ids, row in zip(tokens.tolist(), names, strict=True):
    print(ids, *row)

# %% [markdown]
# (Zero is also the id of a real exclamation mark, and that is how it prints. Keep it in mind.)
#
# ## Attention, and a mask
#
# In **attention** every position of the text makes three vectors: a *query* $q$ (what am I looking for?), a *key* $k$
# (what do I offer?) and a *value* $v$ (what do I hand over?). Position $i$ compares its query with the keys and takes
# a weighted mean of the values. It does so in several **heads** side by side, H of them, each with its own $q$, $k$
# and $v$ of $d$ numbers. With a **causal mask** a position may only look back: at itself and at what stands before
# it.
#
# $$a_{ij} = \frac{e^{s_{ij}}}{\sum_{j' \le i} e^{s_{ij'}}} \quad (j \le i), \qquad s_{ij} = \frac{q_i \cdot
# k_j}{\sqrt{d}}, \qquad \mathrm{out}_i = \sum_{j \le i} a_{ij} v_j$$
#
# In words: the **scores** $s$ are the dot products, divided by $\sqrt d$ so that they do not grow with the number of
# entries of a query; the **weights** $a$ are their softmax over what is allowed; everything after $i$ has weight
# zero. ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 3.2.)
#
# **Exercise 1.** The mask, as a table of truth values: row = the position that reads, column = the position that is
# read.


# %%
def causal_mask(length):
    """-> (length, length) bool: True where the position of the row may look at the position of the column."""
    raise NotImplementedError


# %%
causal_mask = check.causal_mask(causal_mask)

# %% [markdown]
# **Exercise 2.** The weights. It is tempting to take the softmax first and put zeros over the future afterwards. Then
# the rows no longer add up to 1, and worse: the future still stands in the denominator, so it still has a say. (It
# would have to be divided out again, by each row's new sum.)


# %%
def causal_weights(scores):
    """scores (…, T, T) -> weights (…, T, T): every row adds up to 1 and is zero after its own position."""
    raise NotImplementedError


# %%
causal_weights = check.causal_weights(causal_weights)

# %% [markdown]
# ## Put it into the model
#
# The tower around it: each token's id picks a learned vector (`token_embedding`), and a learned vector for its place,
# 0, 1, 2 …, is added (`positional_embedding`). Then come some **blocks** (or *layers*), one after the other. A block
# is attention, then a small network that treats each position by itself (the MLP), each behind a LayerNorm that does
# so, too; both add their result to what the position had. *Attention is the only place where positions meet.*
#
# minclip computes attention with one function of PyTorch, `F.scaled_dot_product_attention`. We put ours in its place
# while the trained model reads a caption. If yours is right, the feature must be the same; and we can keep the
# weights and look at them.

# %%
maps = []


def our_attention(query, key, value, is_causal):
    """query, key, value (B, H, T, d), of all heads at once -> (B, H, T, d)."""
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5  # (B, H, T, T)
    weights = causal_weights(scores) if is_causal else scores.softmax(dim=-1)
    maps.append(weights)
    return weights @ value  # (B, H, T, d)


text = tokens[2:]  # (1, T), the longest
before = model.encode_text(text)  # (1, E)
with patch.object(F, "scaled_dot_product_attention", our_attention):
    after = model.encode_text(text)
print(f"largest difference of the features: {(after - before).abs().max():.0e}, their size {before.abs().mean():.1f}")

# %% [markdown]
# Here are the weights: one map for each layer and each head. A row is a token that reads, and its squares say where
# it looks: the darker, the more. Hatched: forbidden by the mask. The framed row is EOT. In which head of layer 1 does
# EOT look most at *firefighter*? (The cell below the figure has the answer.)

# %%
figure, grid = plt.subplots(len(maps), maps[0].shape[1], figsize=(10, 5.8), sharex=True, sharey=True)
places, T = range(len(names[2])), len(names[2])
for layer, weights in enumerate(maps):
    for head, axes in enumerate(grid[layer]):
        shown = weights[0, head].masked_fill(~causal_mask(T), torch.nan)  # (T, T)
        image = axes.imshow(shown, vmin=0, vmax=1, cmap="Blues")
        axes.patch.set(hatch="////", edgecolor="0.75")
        axes.add_patch(plt.Rectangle((-0.5, T - 1.5), T, 1, fill=False, edgecolor="red", linewidth=2, clip_on=False))
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
        axes.set_xticks(places, names[2], rotation=90, fontsize=8)
        axes.set_yticks(places, names[2], fontsize=8)
figure.supxlabel("is read", fontsize=10)
figure.supylabel("reads", fontsize=10)
colours = figure.colorbar(image, ax=grid, label="weight", shrink=0.7)

# %%
for layer, weights in enumerate(maps):
    print(f"EOT looks most at, in layer {layer + 1}:")
    for head, row in enumerate(weights[0, :, -1].tolist()):
        best = sorted(places, key=lambda place: -row[place])[:3]
        print(f"  head {head + 1}:", ", ".join(f"{names[2][place]} {row[place]:.0%}" for place in best))
at_firefighter = maps[0][0, :, -1, names[2].index("firefighter")]  # (H,)
print(f"at firefighter most, in layer 1: head {at_firefighter.argmax() + 1}")

# %% [markdown]
# Every map is a triangle. SOT, the first row, can look at nothing but itself. Each word knows what came before it and
# nothing of what follows. Only the last row runs the whole width: **EOT is the one token that may read everything.**
#
# Do not read more into a map than it says: it shows where a head looks, not what it takes from there, and in the last
# layer "tone" is no longer only the word *tone* but everything that its position has collected by then.
#
# ## Which vector knows what?
#
# If the first position sees only itself, then its vector must be the same for every text in the world: SOT, at place
# 0. Let us see: `vectors` holds what the tower has at every position after its last block, and `feature` makes a
# feature of one of them, in the tower's last two steps: a LayerNorm (it brings every vector to the same scale) and a
# matrix.


# %%
def vectors(tokens):
    """Token ids (B, T) -> what the text tower has at each position, (B, T, D)."""
    return model.transformer(model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]])


def feature(x):
    """(B, D), the vectors at one place of each text -> (B, E)."""
    return model.ln_final(x) @ model.text_projection


def cosines(x):
    """(B, D) -> (B, B)."""
    x = F.normalize(x, dim=1)
    return x @ x.T


at_start = vectors(tokens)[:, 0]  # (B, D)
print("cosines between the three captions, read at SOT:\n", cosines(feature(at_start)))
print("read at EOT, as CLIP does:\n", cosines(model.encode_text(tokens)))

# %% [markdown]
# At SOT a cat is a heart is a firefighter. (BERT and the picture tower read their feature at the *first* token. They
# may: they have no causal mask.)
#
# **Exercise 3.** Pick the right vectors. Three ways lead astray: taking the last position (which is padding in every
# text but the longest), counting the ids that are not zero (a real "!" is zero, too), and picking every EOT (some
# tokenizers pad *with* EOT; only the first one counts).


# %%
def pool_at_end(x, tokens, end_id):
    """x (B, T, D), token ids (B, T) -> (B, D): for every text the vector at its first token that is end_id."""
    raise NotImplementedError


# %%
pool_at_end = check.pool_at_end(pool_at_end)

# %% [markdown]
# With it the text tower is complete. OpenAI's code and ours write the place of EOT as `tokens.argmax(dim=-1)`: in
# these vocabularies EOT has the highest id, and argmax takes the first of equals. (Put new tokens behind it, and that
# breaks; `end_id` does not.)

# %%
pooled = pool_at_end(vectors(tokens), tokens, tokenizer.end_id)  # (B, D)
print("the same as model.encode_text:", torch.allclose(feature(pooled), model.encode_text(tokens), atol=1e-5))
print("the same places as argmax:", bool((tokens.argmax(dim=-1) == (tokens == tokenizer.end_id).int().argmax(1)).all()))

# %% [markdown]
# ## Why padding cannot matter
#
# Padding stands behind EOT. Under a causal mask attention never looks at what is behind a position, and the rest of a
# block looks at no other position at all. So nothing of the padding can reach EOT: not through one block and not
# through twelve. That is a proof; here is the experiment. First we put *anything* behind EOT, random words instead of
# zeros; then the same with the mask applied too late, as in the trap of Exercise 2:

# %%
generator = torch.Generator().manual_seed(0)
padded = F.pad(tokenizer(["red heart"]), (0, 20))  # (1, T)
garbage = torch.randint(0, tokenizer.start_id, padded.shape, generator=generator)
end = (padded[0] == tokenizer.end_id).int().argmax()
replaced = torch.cat([padded[:, : end + 1], garbage[:, end + 1 :]], dim=1)  # (1, T)
print("ids:", *replaced[0].tolist())


def masked_too_late(query, key, value, is_causal):
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5  # (B, H, T, T)
    return scores.softmax(dim=-1).tril() @ value  # (B, H, T, d)


def largest_change():
    return (model.encode_text(replaced) - model.encode_text(padded)).abs().max()


print(f"largest change of the feature: {largest_change()}")
with patch.object(F, "scaled_dot_product_attention", masked_too_late):
    print(f"masked after the softmax:      {largest_change():.2f}")

# %% [markdown]
# With the mask in its place the change is not small: it is nothing at all. So the padding's id can be that of a real
# "!" without harm. Softmax first and zeros afterwards lets the padding in, through the denominator.
#
# Now more and more padding, and four ways to read one vector off the text. One keeps to the argument. Two read
# somewhere else than at EOT, and one takes the mask away.

# %%
text = tokenizer(["red heart"])  # (1, T)
amounts = range(0, model.config.context_length - text.shape[1] + 1, check.pick(2, 7))
attention = F.scaled_dot_product_attention


def without_mask(query, key, value, is_causal):
    return attention(query, key, value)


ways = {
    "at EOT, causal mask (CLIP)": (lambda x, ids: pool_at_end(x, ids, tokenizer.end_id), attention, "o-"),
    "mean over all positions, causal mask": (lambda x, ids: x.mean(dim=1), attention, "s--"),
    "at the last position, causal mask": (lambda x, ids: x[:, -1], attention, "^:"),
    "at EOT, no mask": (lambda x, ids: pool_at_end(x, ids, tokenizer.end_id), without_mask, "D-."),
}
figure, axes = plt.subplots(figsize=(9, 3.6))
print(f"{'':40} largest change   lowest cosine with the unpadded feature")
for name, (pool, function, style) in ways.items():
    with patch.object(F, "scaled_dot_product_attention", function):
        batches = [F.pad(text, (0, amount)) for amount in amounts]
        x = torch.cat([pool(vectors(ids), ids) for ids in batches])  # (amounts, D)
    x = feature(x)  # (amounts, E)
    change = (x - x[0]).norm(dim=1) / x[0].norm()
    axes.plot(amounts, change, style, label=name)
    print(f"{name:40} {change.max():14.1e}   {F.cosine_similarity(x, x[:1]).min():.2f}")
axes.set(xlabel="places of padding", ylabel="change of the feature\n(relative to its length)")
axes.set_title('"red heart", padded: what changes?')
legend = axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))

# %% [markdown]
# One line lies on zero (what is left is rounding: matrices of another shape are summed in another order). The others
# mean that the feature of a text depends on *which other texts are in its batch*, since the longest of them decides
# how much padding there is. That is a bug which no error message reports.
#
# Two things follow from the argument, and the flat line agrees. No padding mask is needed. And a batch may be cut at
# its longest text instead of being padded to the model's full context, with the same result for less work:

# %%
full = model.config.context_length  # of our model; OpenAI's have 77
print(
    f"this batch: {tokens.shape[1]} positions instead of {full}; attention compares {tokens.shape[1] ** 2} pairs",
    end=" ",
)
print(f"instead of {full**2} in each head")

# %% [markdown]
# ## Why a causal mask at all?
#
# CLIP does not predict the next word, so nothing forces it to look only backwards
# ([#488](https://github.com/openai/CLIP/issues/488)). The paper gives its reason in section 2.4: the mask keeps open
# the ways to start from a pretrained language model and to add language modelling as a second task. Both were left
# for later ([Radford et al. 2021](https://arxiv.org/abs/2103.00020)). The price: "woman" is read without knowing that
# a "firefighter" follows. What comes free with it: an exact answer to padding.
#
# ## What this lesson does not show
#
# That the causal mask is better or worse than none: these weights were *trained* under it, so taking it away
# afterwards breaks them. A model trained without it would have to look after its padding in some other way. The same
# holds for the mean and for the last position: they can be trained, with care for the padding. (The answer in #217 is
# that reading at a special token is known to work better than a mean. Nothing here tests that.) And one caption is
# one caption: the claim "padding cannot matter" rests on the argument about the mask, not on the curve.
#
# ## What you take away
#
# - Under a causal mask, a position knows what stands up to it. SOT knows nothing of the text, EOT can know all of
#   it: so CLIP reads at EOT.
# - What stands behind EOT cannot reach it. Padding needs no mask, and a batch can be cut at its longest text.
# - Mask before the softmax (or divide by the new sums). Look for EOT by its id, never at the last position.
#
# Stuck? `from solutions.lesson_06 import pool_at_end`, or read [solutions/lesson_06.py](solutions/lesson_06.py).
