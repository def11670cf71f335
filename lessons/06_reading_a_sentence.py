# %% [markdown]
# # 06 · Reading a sentence
#
# **The question.** How does a causal Transformer read a text, and why does CLIP read its feature at the end token? The
# tower makes one vector for every token and keeps a single one of them. Why that one, and not their mean
# ([openai/CLIP #217](https://github.com/openai/CLIP/issues/217))? And why is the padding not masked
# ([#183](https://github.com/openai/CLIP/issues/183))?
#
# **You need** tokens, SOT, EOT and padding (lesson 05), the softmax, and classes in Python (`nn.Module`).
#
# **Afterwards you can** write a text tower: attention with heads, the block, and the whole tower, equal to minclip's
# with the same weights. You can read an attention map, tell which of a text's vectors knows what, and prove that
# padding cannot matter.
#
# **Place.** Part II, *A CLIP of your own*; after lesson 05. About 90 minutes, 60 of them for the five exercises. The
# text tower reads the ids of lesson 05; its block becomes the image tower in lesson 07, and lesson 08 trains both.

# %%
from collections import OrderedDict
from unittest.mock import patch

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import minclip

plt.style.use("lesson.mplstyle")
torch.set_grad_enabled(False)
model, _, tokenizer = minclip.load()  # trained on emoji, their names and keywords

# %% [markdown]
# ## A batch of texts
#
# Here are three captions as the model gets them: start, text, end, and zeros up to the length of the longest. (Comments
# such as `(B, T, D)` give shapes: B texts of T places; D numbers at each place, E in a feature; H and d are explained
# below.)

# %%
captions = ["cat", "red heart", "woman firefighter medium skin tone"]
tokens = tokenizer(captions)  # (B, T)
names = [[tokenizer.symbol_of_id[i].removesuffix("</w>") for i in row] for row in tokens]
short = {"<|startoftext|>": "SOT", "<|endoftext|>": "EOT"}
names = [[short.get(name, name) for name in row] for row in names]
for ids, row in zip(tokens.tolist(), names, strict=True):
    print(ids, *row)

# %% [markdown]
# (This model has a vocabulary of its own, so the ids differ from those in lesson 05. Zero is also the id of a real "!"
# that does not end its word, such as the one in "!?", and that is how the padding prints. Keep this in mind.)
#
# ## Attention, and a mask
#
# In **attention** every position of the text makes three vectors of $d$ numbers: a *query* $q$ (what am I looking
# for?), a *key* $k$ (what do I offer?) and a *value* $v$ (what do I hand over?). Position $i$ compares its query with
# all keys and takes a weighted mean of the values. Under a **causal mask** a position may only look back: at itself and
# at what comes before it.
#
# $$a_{ij} = \frac{e^{s_{ij}}}{\sum_{j' \le i} e^{s_{ij'}}} \quad (j \le i), \qquad s_{ij} = \frac{q_i \cdot
# k_j}{\sqrt{d}}, \qquad \mathrm{out}_i = \sum_{j \le i} a_{ij} v_j$$
#
# In words: the **scores** $s$ are the dot products, divided by $\sqrt d$ so that they do not grow with the number of
# entries in a query; the **weights** $a$ are their softmax over what is allowed; everything after $i$ has weight zero.
# ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 3.2.)
#
# Here is one such reading in the trained model: three tokens, and their $q$, $k$ and $v$ in one *head* of the first
# *layer* (both words are explained below; here $d = 32$). Follow the row of *cat*: its query against the three keys
# gives a row of scores; one of them is forbidden; the softmax of the others says how much of each value goes into the
# row of *cat* on the right.


# %%
def watch(part, tokens):
    """The input and the output of a part of the model while the model reads the tokens."""
    seen = []
    handle = part.register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
    model.encode_text(tokens)
    handle.remove()
    return seen[0]


attn = model.transformer.resblocks[0].attn
x, _ = watch(attn, tokenizer(["cat"]))  # (1, T, D)
qkv = F.linear(x[0], attn.in_proj_weight, attn.in_proj_bias)  # (T, 3D)
q, k, v = (part[:, :32] for part in qkv.chunk(3, dim=1))  # (T, d) each, of the first head
scores = q @ k.T / q.shape[1] ** 0.5  # (T, T)
one_hot = torch.eye(3)[None]  # with these values, attention returns its weights
weights = F.scaled_dot_product_attention(q[None], k[None], one_hot, is_causal=True)[0]  # (T, T)
print("scores:\n", scores)
print("weights:\n", weights)

# %% jupyter={"source_hidden": true}
parts = {"q": q, "k": k, "scores\n(q·k / √d)": scores, "weights": weights, "v": v, "out\n(weights @ v)": weights @ v}
ratios = [3 if part.shape[1] > 3 else 1.1 for part in parts.values()]
figure, row = plt.subplots(1, len(parts), figsize=(11, 1.9), width_ratios=ratios)
for axes, (title, part) in zip(row, parts.items(), strict=True):
    is_weight = title == "weights"
    limit = 1 if is_weight else part.abs().max()
    axes.imshow(
        part, vmin=0 if is_weight else -limit, vmax=limit, cmap="Blues" if is_weight else "RdBu_r", aspect="auto"
    )
    axes.set_title(title, fontsize=9)
    axes.set(xticks=range(3) if part.shape[1] == 3 else [], yticks=range(3), yticklabels=["SOT", "cat", "EOT"])
    axes.tick_params(labelsize=8, labelleft=axes is row[0] or part.shape[1] == 3)
    if part.shape[1] == 3:
        axes.set_xticklabels(["SOT", "cat", "EOT"], rotation=45)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            axes.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="white", edgecolor="0.6", hatch="////"))
        for i, j in torch.tril_indices(3, 3).T.tolist():
            colour = "white" if part[i, j].abs() > 0.6 * limit else "black"
            axes.text(j, i, f"{part[i, j]:.1f}", ha="center", va="center", fontsize=7, color=colour)

# %% [markdown]
# (Red is positive, blue negative, and the weights go from white, 0, to dark, 1. Hatched squares are forbidden.)
#
# **Exercise 1.** Write the function that computes the weights. It is tempting to take the softmax first and put zeros
# over the future afterwards. Then the rows no longer add up to 1, and worse, the future is still in the denominator, so
# it still has a say. (Dividing each row by its new sum removes it again, until one future score is so high that this
# sum rounds to 0.)


# %%
def causal_weights(scores):
    """scores (…, T, T) -> weights (…, T, T): every row adds up to 1 and is zero after its own position."""
    raise NotImplementedError


# %%
causal_weights = check.causal_weights(causal_weights)

# %% [markdown]
# A head can look for only one thing. So a position has several **heads**, H of them, each with its own $q$, $k$ and $v$
# of $d = D/H$ numbers, and each with its own weights. All the queries, keys and values come from one matrix, of shape
# (3D, D): its first D rows make the queries (the first $d$ of them those of the first head, and so on), the next D rows
# the keys, the last D rows the values. At the end the heads' results, laid side by side, are D numbers again, and
# `out_proj` mixes them.
#
# **Exercise 2.** Write the whole of attention. The parameters have OpenAI's names for a reason: weights are copied from
# one model to another by name. So the check can give yours the weights of minclip's `Attention` and expect the same
# result, to 1e-5, and the same gradients. The trap: the heads must be *split*, not only reshaped. Which axes are
# neighbours in memory, and which ones do you need side by side?


# %%
class Attention(nn.Module):
    """Self-attention with `heads` heads on vectors of `width` numbers."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))  # rows: all of q, all of k, all of v
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x, causal):
        """x (B, T, D), whether a position may only look back -> (B, T, D)."""
        raise NotImplementedError


# %%
Attention = check.Attention(Attention)

# %% [markdown]
# ## Who attends to whom?
#
# The tower around attention works like this: each token's id picks a learned vector (`token_embedding`), and a learned
# vector for its place, 0, 1, 2 …, is added (`positional_embedding`). Then come some **blocks** (or *layers*), one after
# the other.
#
# minclip computes attention with one function of PyTorch, `F.scaled_dot_product_attention`. While the trained model
# reads a caption, we replace it with a function that uses your `causal_weights`. If your function is right, the feature
# must stay the same, and we can keep the weights and look at them.

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
# Here are the weights: one map for each layer and each head. A row is a token that reads, and its squares say where it
# looks: the darker the square, the more. Hatched squares are forbidden by the mask. The framed row is EOT. In which
# head of layer 1 does EOT look most at *firefighter*? (The cell below the figure has the answer.)

# %% jupyter={"source_hidden": true}
figure, grid = plt.subplots(len(maps), maps[0].shape[1], figsize=(10, 5.8), sharex=True, sharey=True)
places, T = range(len(names[2])), len(names[2])
for layer, weights in enumerate(maps):
    for head, axes in enumerate(grid[layer]):
        shown = weights[0, head].masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), torch.nan)  # (T, T)
        image = axes.imshow(shown, vmin=0, vmax=1, cmap="Blues")
        axes.patch.set(hatch="////", edgecolor="0.75")
        axes.add_patch(plt.Rectangle((-0.5, T - 1.5), T, 1, fill=False, edgecolor="red", linewidth=2, clip_on=False))
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
        axes.set_xticks(places, names[2], rotation=90, fontsize=8)
        axes.set_yticks(places, names[2], fontsize=8)
figure.supxlabel("token that is read", fontsize=10)
figure.supylabel("token that reads", fontsize=10)
colours = figure.colorbar(image, ax=grid, label="weight", shrink=0.7)

# %% jupyter={"source_hidden": true}
for layer, weights in enumerate(maps):
    print(f"EOT looks most at, in layer {layer + 1}:")
    for head, row in enumerate(weights[0, :, -1].tolist()):
        best = sorted(places, key=lambda place: -row[place])[:3]
        print(f"  head {head + 1}:", ", ".join(f"{names[2][place]} {row[place]:.0%}" for place in best))
at_firefighter = maps[0][0, :, -1, names[2].index("firefighter")]  # (H,)
print(f"at firefighter most, in layer 1: head {at_firefighter.argmax() + 1}")

# %% [markdown]
# Every map is a triangle. SOT, the first row, can look at nothing but itself. Each word knows what came before it and
# nothing about what follows. Only the last row spans the whole width: **EOT is the one token that may read
# everything.**
#
# Do not read more into a map than it says: it shows where a head looks, not what it takes from there, and in the last
# layer "tone" is no longer only the word *tone* but everything that its position has collected by then.
#
# ## The block
#
# Attention moves things between positions and does little else. So a block has a second part, a small network that
# treats each position by itself: the **MLP** (two linear layers, from D to 4D numbers and back, with a nonlinearity
# between them). Before each part comes a **LayerNorm**, which brings the D numbers of a position to mean 0 and standard
# deviation 1, times a gain, plus a bias. And each part *adds* its result to what the position had, so that nothing gets
# lost on the way, neither the vector on the way up nor its gradient on the way down:
#
# $$x \leftarrow x + \mathrm{attn}(\mathrm{ln}_1(x)), \qquad x \leftarrow x + \mathrm{mlp}(\mathrm{ln}_2(x))$$
#
# This order, used by GPT-2 and CLIP, is called **pre-norm**. (The Transformer of 2017 had the LayerNorm after the sum.)
# *Attention is the only place where positions meet.*
#
# **Exercise 3.** Write the block, with these parts:
#
# | name | what it is |
# |---|---|
# | `ln_1`, `ln_2` | `nn.LayerNorm(width)` |
# | `attn` | your `Attention` |
# | `mlp.c_fc`, `mlp.c_proj` | `nn.Linear`, from `width` to `4 * width` and back; between them `nn.GELU()` |
#
# (An `nn.Sequential` takes names as `nn.Sequential(OrderedDict(c_fc=…, gelu=…, c_proj=…))`. OpenAI's own weights were
# trained with another nonlinearity, x · σ(1.702 x), called QuickGELU; ours with GELU itself.)


# %%
class Block(nn.Module):
    """One layer of a Transformer; `causal`: whether its positions may only look back."""

    def __init__(self, width, heads, causal):
        super().__init__()
        raise NotImplementedError

    def forward(self, x):
        """x (B, T, D) -> (B, T, D)."""
        raise NotImplementedError


# %%
Block = check.Block(Block)

# %% [markdown]
# ## Which vector knows what?
#
# In the next cells, `vectors` returns the vector at every position after the tower's last block, and `feature` turns
# one of these vectors into a feature by the tower's last two steps, a LayerNorm and a matrix. Suppose that CLIP read
# its feature at the *first* position, SOT. How similar would "cat" and "red heart" be then? Guess a cosine before you
# go on.

# %%
check.predict("cosine of cat and red heart, read at SOT", None)


# %%
def vectors(tokens):
    """Token ids (B, T) -> the text tower's vector at each position, (B, T, D)."""
    embedded, _ = watch(model.transformer, tokens)
    return model.transformer(embedded)  # encode_text itself finishes the last block for EOT only


def feature(x):
    """(B, D), the vectors at one place of each text -> (B, E)."""
    return model.ln_final(x) @ model.text_projection


def cosines(x):
    """(B, D) -> (B, B)."""
    x = F.normalize(x, dim=1)
    return x @ x.T


at_start = vectors(tokens)[:, 0]  # (B, D)
check.reveal("cosine of cat and red heart, read at SOT", cosines(feature(at_start))[0, 1].item(), within=0.05)
print("cosines between the three captions, read at SOT:\n", cosines(feature(at_start)))
print("read at EOT, as CLIP does:\n", cosines(model.encode_text(tokens)))

# %% [markdown]
# The first position sees only itself, so its vector is the same for every text in the world: at SOT a cat is a heart is
# a firefighter. (BERT and CLIP's image tower read their feature at the *first* token. They can, because they have no
# causal mask.)
#
# **Exercise 4.** Pick the right vectors. Three ways go wrong: taking the last position (which is padding in every text
# but the longest), counting the ids that are not zero (a real "!" may also have id 0), and picking every EOT (some
# tokenizers pad *with* EOT; only the first one counts).


# %%
def pool_at_end(x, tokens, end_id):
    """x (B, T, D), token ids (B, T) -> (B, D): for every text the vector at its first token that is end_id."""
    raise NotImplementedError


# %%
pool_at_end = check.pool_at_end(pool_at_end)

# %% [markdown]
# OpenAI's code and ours find the place of EOT with `tokens.argmax(dim=-1)`: in these vocabularies EOT has the highest
# id, and argmax takes the first of several equal maxima. (If you add tokens with higher ids, that breaks; a comparison
# with `end_id` does not.)
#
# ## The tower
#
# **Exercise 5.** Put the tower together. The parts are there; `forward` says how a text goes through them: the vectors
# of the tokens and of their places, all blocks, the vector at EOT, the last LayerNorm, the projection into the space
# that texts and pictures share. A batch may be shorter than the context: its T places are the first T. The end token
# has the highest id in the vocabulary.


# %%
class TextTower(nn.Module):
    def __init__(self, context_length, vocab_size, width, layers, heads, embed_dim):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.zeros(context_length, width))
        blocks = nn.Sequential(*[Block(width, heads, causal=True) for _ in range(layers)])
        self.transformer = nn.Sequential(OrderedDict(resblocks=blocks))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, embed_dim))

    def forward(self, tokens):
        """Token ids (B, T), T at most context_length -> features (B, E), not normalised."""
        raise NotImplementedError


# %%
TextTower = check.TextTower(TextTower)

# %% [markdown]
# Does it read as the trained model does? With the model's weights, the tower must know what the model knows. In
# minclip's CLIP, the names of the image tower's parameters begin with `visual.`, and the text tower's parameters have
# the same names as yours:

# %%
sizes = model.config
tower = TextTower(
    sizes.context_length,
    sizes.vocab_size,
    sizes.transformer_width,
    sizes.transformer_layers,
    sizes.transformer_heads,
    sizes.embed_dim,
)
weights = model.state_dict()
tower.load_state_dict({name: weights[name] for name, _ in tower.named_parameters()}, strict=False)
difference = (tower(tokens) - model.encode_text(tokens)).abs().max()
print(f"{sum(p.numel() for p in tower.parameters()):,} parameters")
print(f"largest difference from minclip's features: {difference:.0e}; their size: {tower(tokens).abs().mean():.1f}")

# %% [markdown]
# ## Why padding cannot matter
#
# Padding comes after EOT. Under a causal mask, attention never looks at what comes after a position, and the rest of a
# block looks at no other position at all. So nothing in the padding can reach EOT, whether through one block or through
# twelve. That is a proof; here is the experiment. First we put *anything* after EOT, random words instead of zeros;
# then we do the same with the mask applied too late, as in the trap of Exercise 1:

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
# With the mask the change is not small but exactly zero. So the padding's id can be that of a real "!" without harm.
# Taking the softmax first and putting zeros afterwards lets the padding in, through the denominator.
#
# Now we add more and more padding and compare four ways to read one vector from the text. One fits the argument. Two
# read somewhere other than at EOT, and one takes the mask away.

# %% jupyter={"source_hidden": true}
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
# One line lies on zero (what is left is rounding: matrices of a different shape are summed in a different order). The
# others mean that the feature of a text depends on *which other texts are in its batch*, since the longest of them
# decides how much padding there is. No error message reports such a bug.
#
# Two things follow from the argument, and the flat line agrees. No padding mask is needed. And a batch may be cut to
# the length of its longest text instead of being padded to the model's full context, with the same result for less
# work:

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
# ([#488](https://github.com/openai/CLIP/issues/488)). The paper gives its reason in section 2.4: the mask leaves open
# the possibility of starting from a pretrained language model and of adding language modelling as a second task. Both
# were left for later ([Radford et al. 2021](https://arxiv.org/abs/2103.00020)). The price: "woman" is read without
# knowing that a "firefighter" follows. The gain, which the paper does not mention: padding cannot matter.
#
# ## The answer
#
# A causal Transformer reads from left to right: each position mixes what comes before it into its own vector, and
# attention is the only place where that happens. EOT is the one position that has seen the whole text and nothing after
# it, so CLIP reads there, and padding cannot matter.
#
# ## What this lesson does not show
#
# That the causal mask is better or worse than none: these weights were *trained* under it, so taking it away afterwards
# breaks them. A model trained without it would have to deal with its padding in some other way. The same holds for the
# mean and for the last position: they can be trained, with care for the padding. (The answer in #217 is that reading at
# a special token is known to work better than a mean. Nothing here tests that.) And the curve shows only one caption:
# the claim "padding cannot matter" rests on the argument about the mask, not on the curve.
#
# ## Harder, and without a solution
#
# - Build your tower with a context of 77. Let it read 77 texts of one token each, then one text of 77 tokens. Which
#   takes longer, and beyond what length does attention cost more than the MLP? Count the multiplications first.
# - Load OpenAI's ViT-B/32 into your tower, if you have its file (`minclip.load` reads it). What must you change?
# - Generate text: put a matrix from D to the vocabulary after your tower, and train both to guess the next token of a
#   caption. The causal mask is there already.
#
# Stuck? `check.hint("Block")` gives hints, one after the other; all solutions are in
# [solutions/lesson_06.py](solutions/lesson_06.py).
