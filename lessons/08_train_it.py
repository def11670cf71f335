# %% [markdown]
# # 08 · Train it
#
# **The question.** Can a CLIP name combinations that it never saw? It has met many women, and many firefighters. Now
# comes a woman firefighter, for the first time.
#
# **You need** the loss (lessons 01 to 04), and to have met the two towers (00).
#
# **Afterwards you can** write the training step of CLIP, watch the matrix become diagonal, and measure what a model
# knows with pictures that it was never trained on, and say what such a figure shows.

# %%
from collections import Counter

import check
import matplotlib.pyplot as plt
import torch
from splits import without_twins

import minclip
from minclip import data, evaluate
from minclip.train import TrainConfig, learning_rate, make_optimizer

plt.style.use("lesson.mplstyle")

# %% [markdown]
# ## The data: every emoji, and two sets put aside
#
# Each emoji is a pair of a picture and its English name. Some of them are *unseen*: they are never trained on. **Every
# word** of an unseen caption stands in at least eight training captions, but no training caption has just these
# words. How new is that?

# %%
RESOLUTION = 48
GENDERS, TONES = ("man", "woman"), ("light", "medium-light", "medium", "medium-dark", "dark")
TONE_WORDS, GENDER_WORDS = {*TONES, "skin", "tone"}, {*GENDERS, "person"}
pairs, unseen = data.load_emoji(data.Preprocess(RESOLUTION), artists=[data.OPENMOJI])
unseen = without_twins(unseen, pairs)


def words_of(caption, ignored=()):
    """The words in alphabetical order, but for those that are ignored."""
    return tuple(sorted(word for word in caption.split() if word not in ignored))


for ignored, how in (((), "in all their words"), (TONE_WORDS, "in all their words but the skin tone")):
    known = {words_of(caption, ignored) for caption in pairs.captions}
    twins = sum(words_of(caption, ignored) in known for caption in unseen.captions)
    print(f"{twins:3} of the {len(unseen)} unseen captions agree with a training caption {how}")

# %% [markdown]
# (`without_twins` leaves out the few whose *drawing* the training has under another name, pixel for pixel or nearly: a
# test set must share no picture with the training.)
#
# So nearly all of them ask one thing: can it put a known drawing and a known skin tone together? For a harder
# question we put a second set aside. Many captions have three parts: *who* (man or woman), *what* (firefighter), and
# the *tone*. We take every second *what* of the alphabet, and remove all its women from the training, or all its men,
# whatever the tone. Women stay in the training, and so do firefighters, but these *drawings* become new. At least most
# of them: OpenMoji has drawn "pilot" and "man pilot" alike, and "pilot" stays in the training. So here, too, the twins
# leave the test, and the next cell prints how many that are.


# %%
def parts(caption):
    """("woman", "firefighter", "dark") of "woman firefighter dark skin tone"; None of a caption of another kind."""
    who, *what = caption.removesuffix(" skin tone").split()
    of_that_kind = caption.endswith(" skin tone") and who in GENDERS and not {*GENDERS, "facing"} & {*what}
    return (who, " ".join(what[:-1]), what[-1]) if of_that_kind and len(what) > 1 else None


def is_new(caption):
    return any(caption.startswith(drawing) for drawing in new)


three_parts = {found for caption in pairs.captions + unseen.captions if (found := parts(caption))}
WHATS = sorted({what for _, what, _ in three_parts})  # W of them
new = [f"{GENDERS[(place + 1) % 2]} {what}" for place, what in enumerate(WHATS[1::2])]
TESTS = {
    "new tone": unseen.select([i for i, c in enumerate(unseen.captions) if parts(c) and not is_new(c)]),
    "new drawing": pairs.select([i for i, c in enumerate(pairs.captions) if parts(c) and is_new(c)]),
}
pairs = pairs.select([i for i, caption in enumerate(pairs.captions) if not is_new(caption)])
with_twins = TESTS["new drawing"]
TESTS["new drawing"] = without_twins(with_twins, pairs)
print(
    f"{len(with_twins) - len(TESTS['new drawing'])} of {len(with_twins)} pictures were no new drawings, for example:",
    end=" ",
)
twins = set(with_twins.captions) - set(TESTS["new drawing"].captions)
print(", ".join(sorted({" ".join(parts(caption)[:2]) for caption in twins})))
drawings = sorted({" ".join(parts(caption)[:2]) for caption in TESTS["new drawing"].captions})
print(f"{len(pairs)} pairs are left to train on. Some of {len(drawings)} new drawings: {', '.join(drawings[3:24:6])}")
for name, test in TESTS.items():
    print(f"{name}: {len(test)} pictures of {len({parts(c)[:2] for c in test.captions})} drawings")

# %% [markdown]
# ## What would count as a yes?
#
# The usual figure is the *unseen top-1*: the share of the unseen pictures whose own caption is the nearest of all
# unseen captions. Chance is one in as many, but much more than chance is no proof. Think of a model that knows
# everything, except that it is *blind* to some words. It guesses among the captions that look alike to it, and is right
# once in each such group:

# %%
BLIND = {"tone": TONE_WORDS, "gender": GENDER_WORDS, "both": TONE_WORDS | GENDER_WORDS}
BLIND = {name: len({words_of(c, ignored) for c in unseen.captions}) / len(unseen) for name, ignored in BLIND.items()}
for name, reached in BLIND.items():
    print(f"blind to {name}: up to {100 * reached:.0f} %")

# %% [markdown]
# So top-1 alone says little about combinations, and we ask for the parts one by one. Exchange one part of the right
# caption: is "woman firefighter dark skin tone" nearer to its picture than "*man* firefighter dark skin tone"? Nearer
# than with any other tone? Nearer than with any other *what*? A model that is blind to a part can only guess it,
# whatever else it knows; and one that has learned whole captions by heart prefers the *man* firefighter, whom it has
# met.
#
# A **bar** for each part, fixed before we start: two standard errors above guessing, which luck alone passes about
# once in forty times. (The pictures of one drawing are no independent tries. So we count each drawing as one.)

# %%
GUESS = {"who": 1 / len(GENDERS), "what": 1 / len(WHATS), "tone": 1 / len(TONES)}
BARS = {}
for name, test in TESTS.items():
    tries = len({parts(caption)[:2] for caption in test.captions})
    BARS[name] = {part: p + 2 * (p * (1 - p) / tries) ** 0.5 for part, p in GUESS.items()}
    print(f"{name + ':':12}", ", ".join(f"{part} above {100 * bar:.0f} %" for part, bar in BARS[name].items()))

# %% [markdown]
# ## The step
#
# Training repeats one step. It takes a batch of B pictures and their B captions, and
#
# 1. sends the pictures through one tower and the captions through the other: features of E numbers, (B, E) each
#    (`model.encode_image`, `model.encode_text`);
# 2. computes the contrastive *loss* of the batch: how badly the pairs are told apart, one number (lesson 02;
#    `minclip.clip_loss(image_features, text_features, scale)`, which brings the features to length 1 itself);
# 3. forgets the old gradients: `optimizer.zero_grad()`, because PyTorch *adds* new gradients to those that are there;
# 4. computes the gradient of the loss for every parameter of both towers: `loss.backward()`;
# 5. moves every parameter a little, against its gradient: `optimizer.step()`;
# 6. keeps the scale of the logits at 100 or less: `model.clamp_logit_scale()` ("clipped to prevent scaling the logits
#    by more than 100", [Radford et al. 2021](https://arxiv.org/abs/2103.00020), section 2.5; lesson 04 shows why).
#    It comes last, because step 5 may have moved the scale above 100.
#
# The model stores the *logarithm* of the scale, in `model.logit_scale`, so the loss wants `model.logit_scale.exp()`.
# In the comments R is the side of a picture in pixels and T the places of a text.
#
# **Exercise.** Write the step. The check lets your step and the library's train the same tiny model, twice in a row,
# and compares all parameters.


# %%
def training_step(model, optimizer, images, tokens):
    """Pictures (B, 3, R, R), token ids (B, T): updates `model` once; returns the loss before, as a Python float."""
    raise NotImplementedError


# %%
training_step = check.training_step(training_step)

# %% [markdown]
# ## A model, an optimizer, a tokenizer
#
# The tokenizer learns its vocabulary from the training captions (lesson 05). The towers are small transformers
# (lessons 06 and 07). The optimizer is AdamW; its learning rate rises over the first tenth of the steps and falls to
# zero along a cosine.

# %%
preset = minclip.PRESETS[check.pick("emoji", "smoke")]
EPOCHS = check.pick(8, 1)  # how often every pair is seen
config = TrainConfig(epochs=EPOCHS, batch_size=check.pick(128, 64), lr=1e-3)
if check.FAST:
    pairs = pairs.select(range(640))

tokenizer = minclip.Tokenizer.train(pairs.captions, check.pick(preset.vocab_size, 600))
sizes = vars(preset) | {"image_resolution": RESOLUTION, "vocab_size": tokenizer.vocab_size}
torch.manual_seed(config.seed)
model = minclip.CLIP(minclip.CLIPConfig(**sizes))
optimizer = make_optimizer(model, config)
tokens = tokenizer(pairs.captions, model.config.context_length)  # (N, T)
steps = EPOCHS * (len(pairs) // config.batch_size)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps, config))
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.vocab_size} tokens, {steps} steps")

# %% [markdown]
# On the way we look at it a few times: all cosines of the unseen pairs, and the unseen top-1.

# %%
LOOKS = sorted({round(steps * share) for share in (0, 0.03, 0.08, 0.2, 0.4, 0.6, 0.8, 1)})
sixteen = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(3))[:16].tolist()


def look(step):
    """What the model knows of the unseen pairs after so many steps."""
    model.eval()
    pictures = evaluate.image_features(model, unseen.images)  # (P, E), each of length 1
    captions = evaluate.text_features(model, tokenizer, unseen.captions)  # (P, E)
    model.train()
    cosine = pictures @ captions.T  # (P, P)
    top1 = (cosine.argmax(dim=1) == torch.arange(len(cosine))).double().mean().item()
    return {"step": step, "top1": top1, "cosine": cosine}


# %% [markdown]
# ## The loop
#
# On two free cores this takes about a minute. Every step draws a batch of pairs that has not been used in this epoch.
# `augment` shifts, turns and brightens the pictures a little, so that the model does not learn single pixels by
# heart. The captions of a batch are cut at the longest of them (lesson 06 says why that changes nothing). And it is
# *your* step that trains, if you have solved the exercise.

# %%
generator = torch.Generator().manual_seed(config.seed)
losses, looks = [], [look(0)]
for step in range(1, steps + 1):
    place = (step - 1) * config.batch_size % (len(pairs) // config.batch_size * config.batch_size)
    if place == 0:
        order = torch.randperm(len(pairs), generator=generator)
    batch = order[place : place + config.batch_size]  # (B,)
    changes = data.draw_augmentation(len(batch), generator)  # (B, 19)
    images = data.normalize(data.augment(pairs.images[batch], changes))  # (B, 3, R, R)
    longest = tokens[batch].argmax(dim=1).max() + 1  # the end token has the largest number
    losses.append(training_step(model, optimizer, images, tokens[batch, :longest]))
    schedule.step()
    if step in LOOKS:
        looks.append(look(step))
print(f"{steps} steps of {config.batch_size} pairs; loss {losses[0]:.2f} at the start, {losses[-1]:.2f} at the end")

# %% [markdown]
# ## The matrix turns diagonal
#
# The cosines of the sixteen unseen pairs (rows: pictures, columns: captions), from before the first step to after the
# last. Bright squares on the diagonal are right; bright ones elsewhere are pairs that the model confuses, or that are
# alike. On the way everything grows a little lighter, before the wrong pairs fall away.

# %%
shown = [looks[i] for i in (0, 2, 3, 4, 5, -1)] if len(looks) > 6 else looks
figure, row = plt.subplots(1, len(shown), figsize=(10.5, 2.6))
for axes, seen in zip(row, shown, strict=True):
    squares = axes.imshow(seen["cosine"][sixteen][:, sixteen], vmin=-1, vmax=1)
    axes.set(xticks=[], yticks=[], xlabel="caption")
    axes.set_title(f"step {seen['step']}\ntop-1 {100 * seen['top1']:.1f} %", fontsize=9)
row[0].set_ylabel("picture")
figure.colorbar(squares, ax=row, label="cosine", shrink=0.8)
for seen in (looks[0], looks[-1]):
    own = seen["cosine"].diagonal().mean()
    others = (seen["cosine"].sum() - seen["cosine"].diagonal().sum()) / (len(unseen) * (len(unseen) - 1))
    print(f"step {seen['step']:4}: mean cosine with the own caption {own:5.2f}, with another's {others:5.2f}")

# %% [markdown]
# ## Does it learn?
#
# On the left the loss on the training batches. It starts a little above $\ln B$, the loss of a model that tells
# nothing apart (lesson 03): its guesses are not equal, but wrong. On the right the unseen top-1, and what the blind
# could reach.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
left.plot(range(1, steps + 1), losses, linewidth=1)
floor = minclip.loss_floor(config.batch_size)
left.axhline(floor, color="0.3", linestyle="--")
left.text(
    steps, floor, f"ln {config.batch_size} = {floor:.2f}: tells nothing apart", ha="right", va="bottom", fontsize=8
)
left.set(xlabel="step", ylabel="loss (nats)", title="on the batches of training", ylim=(0, None))
right.plot([seen["step"] for seen in looks], [100 * seen["top1"] for seen in looks], "o-")
for name, reached in BLIND.items():
    right.axhline(100 * reached, color="0.3", linestyle="--", linewidth=1)
    right.text(0, 100 * reached, f"knows all, but blind to {name}", va="bottom", fontsize=8)
right.set(xlabel="step", ylabel="unseen top-1 (%)", title=f"on the {len(unseen)} unseen pairs", ylim=(-3, 103))
print(f"unseen top-1 at the end: {100 * looks[-1]['top1']:.1f} %, by chance {100 / len(unseen):.2f} %")

# %% [markdown]
# ## Did it pass the bars?
#
# Now the parts, for pictures where only the tone is new, and for new drawings. A black line is guessing, a dashed one
# the bar.

# %%
model.eval()
grid = [(who, what, tone) for who in GENDERS for what in WHATS for tone in TONES]  # 2 * W * 5 captions
choices = evaluate.text_features(
    model, tokenizer, [" ".join((*names, "skin tone")) for names in grid]
)  # (2 * W * 5, E)
figure, both = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
short = " (in the short version, which only shows that the lesson runs)" if check.FAST else ""
faults = {}
for axes, (name, test) in zip(both, TESTS.items(), strict=True):
    cosine = evaluate.image_features(model, test.images) @ choices.T  # (Q, 2 * W * 5)
    named = [parts(caption) for caption in test.captions]  # Q times (who, what, tone)
    own = torch.tensor([grid.index(names) for names in named])  # (Q,)
    scores = {}
    for k, part in enumerate(GUESS):  # the rivals are equal in the two other parts
        rival = [[names[:k] + names[k + 1 :] == y[:k] + y[k + 1 :] for y in grid] for names in named]
        best = cosine.masked_fill(~torch.tensor(rival), -1).argmax(dim=1)  # (Q,)
        scores[part] = (best == own).double().mean().item()
    answers = [grid[place] for place in cosine.argmax(dim=1).tolist()]
    faults[name] = Counter(
        " and ".join(part for part, a, b in zip(GUESS, answer, names, strict=True) if a != b)
        for answer, names in zip(answers, named, strict=True)
    )
    axes.bar(list(scores), [100 * score for score in scores.values()], width=0.6, color="0.8")
    for k, part in enumerate(scores):
        axes.hlines(100 * GUESS[part], k - 0.4, k + 0.4, color="black")
        axes.hlines(100 * BARS[name][part], k - 0.4, k + 0.4, color="black", linestyle="--")
    axes.set_xticks(range(len(scores)), [f"{part}\n{100 * score:.0f} %" for part, score in scores.items()])
    axes.set(title=f"{name} ({len(test)} pictures)", xlabel="part that was exchanged", ylim=(0, 103))
    passed = [part for part in GUESS if scores[part] > BARS[name][part]]
    print(f"{name + ':':12} above the bar: {', '.join(passed) or 'none'} ({len(passed)} of 3){short}")
_ = both[0].set_ylabel("right one ahead (%)")

# %% [markdown]
# A bar that is passed says that the model looks at that part, in combinations that it never saw. Where one is missed,
# as it may be for *who* in the new drawings, a model that guesses would have done as well. (Where it was a near thing,
# another seed may decide otherwise: this is one training.) A passed bar does not say that the model gets all three
# parts right at once. For that it must choose among all the captions of three parts. Which of them is wrong?

# %%
for name, counts in faults.items():
    print(f"{name}, among {len(grid)} captions:")
    for fault, count in counts.most_common():
        what = f"wrong: {fault}" if fault else "all three right"
        print(f"  {what:26}{count:4}, {100 * count / counts.total():3.0f} %")

# %% [markdown]
# Is that more than looking? The plainest rival compares pixels: it answers with the caption of the *nearest training
# picture*. It can never have all three parts right, for no training caption has them. Part by part it can:

# %%
print(f"{'parts that are right':22}{'who':>8}{'what':>8}{'tone':>8}")
for name, test in TESTS.items():
    named = [parts(caption) for caption in test.captions]
    flat = [pictures.images.flatten(1).float() for pictures in (test, pairs)]  # (Q, 3·R·R), (N, 3·R·R)
    nearest = [pairs.captions[place] for place in torch.cdist(*flat).argmin(dim=1).tolist()]  # Q captions
    cosine = evaluate.image_features(model, test.images) @ choices.T  # (Q, 2 * W * 5)
    ours = [" ".join((*grid[place], "skin tone")) for place in cosine.argmax(dim=1).tolist()]
    for who_answers, answers in (("model", ours), ("pixels", nearest)):
        padded = [f" {answer.removesuffix(' skin tone')} " for answer in answers]  # " man pilot dark "
        shares = [sum(f" {names[k]} " in answer for names, answer in zip(named, padded, strict=True)) for k in range(3)]
        print(f"{f'{name}, {who_answers}':22}" + "".join(f"{100 * share / len(test):6.0f} %" for share in shares))

# %% [markdown]
# The nearest training picture is usually the same drawing in another tone, or the same *what* with another *who*. So it
# knows most of what a new picture shares with an old one, better than our model after its short training, and fails at
# the part that is new: the tone in the first case, the *who* in the second. (A neutral name, such as "pilot", counts as
# a wrong *who*.) The model gives some of that away, and can put together what no training picture shows together.
#
# ## What it answers
#
# Eight unseen pictures, and for each the three nearest of the unseen captions, with their cosines; the right one is
# marked. The woman firefighter is one of the new drawings, and the black heart and the black cat have no twin of
# another tone.

# %%
eight = [unseen.captions.index(caption) for caption in ("woman firefighter", "black heart", "black cat")] + sixteen[:5]
cosine = looks[-1]["cosine"]
best, captions = cosine[eight].topk(3, dim=1)  # (8, 3) each
figure, places = plt.subplots(4, 4, figsize=(10.5, 5.6), width_ratios=[1, 3, 1, 3])
figure.supxlabel(data.OPENMOJI.credit, fontsize=7)
for i, picture in enumerate(eight):
    drawing, answers = places[i // 2][i % 2 * 2 : i % 2 * 2 + 2]
    drawing.imshow(unseen.origins[picture].open(144))
    for axes in (drawing, answers):
        axes.axis("off")
    for line, (caption, value) in enumerate(zip(captions[i].tolist(), best[i].tolist(), strict=True)):
        is_right = caption == picture
        said = f"{value:5.2f}  {'✓ ' if is_right else ''}{unseen.captions[caption]}"
        weight = "bold" if is_right else "normal"
        answers.text(0, 0.85 - 0.35 * line, said, fontsize=9, va="center", weight=weight)

# %% [markdown]
# Some of all the wrong answers:

# %%
wrong = [
    (unseen.captions[i], unseen.captions[said]) for i, said in enumerate(cosine.argmax(dim=1).tolist()) if said != i
]
for right, said in wrong[:: max(1, len(wrong) // 6)][:6]:
    print(f"is: {right:45} said: {said}")

# %% [markdown]
# **So can it name combinations that it never saw?** Partly. Where only the tone is new, it gets all three parts right
# far more often than a guess among all the captions would, and looks at each of the three. Where the drawing is new, it
# gets the tone and often the *what*, but of the *who* it knows no more than a coin. And that is after a minute of
# training, when the unseen top-1 was still rising.
#
# Nobody told the model which part of a picture shows which word. The words came to it as tokens, a whole caption at a
# time, and what it knows of the parts it found by itself. Perhaps it did since the captions of a batch share so many
# of their words; that is not tested here. And the answer depends on how new the combination is: a known drawing in
# another tone, or a drawing of its own. A top-1 over all the unseen does not tell you that.
#
# ## What this lesson does not show
#
# - That it would name *any* combination. The unseen captions are of the same kind as the training captions (a person,
#   an activity, a skin tone); nothing here asks for a word order or a relation, such as "a cat on a dog".
# - How good it could get: the same towers, trained for longer and with the drawings of a second artist,
#   [ship with minclip](../minclip/weights/MODEL_CARD.md).
# - How sure the figures are. With a few hundred pictures, chance alone moves the top-1 by two or three points, and
#   more, since many are variants of one drawing; another seed gives another model. The sizes and the augmentation of
#   the project were chosen by looking at these same pictures, so they flatter it a little.
#
# ## What you take away
#
# - The step: two towers forward, one loss, `zero_grad`, `backward`, `step`, clamp. Leave one out and it may still
#   seem to work, which is why a check compares the parameters.
# - Falling loss is not the aim. Measure on pairs that were held out, against what a model could reach that does
#   *not* have the ability in question.
# - From whole captions a model can learn parts, and find them again in new company: how well depends on which part,
#   and on how new the company is.
#
# Stuck? `from solutions.lesson_08 import training_step`, or read
# [solutions/lesson_08.py](solutions/lesson_08.py).
