"""The exhibits of lesson 20 and `check.diagnose`: what is wrong with the training behind a plot or a log?"""

import textwrap
from typing import NamedTuple

from check import predictions


class Exhibit(NamedTuple):
    """A bug, and what else it might be. `why` says of each wrong choice what it does not explain."""

    cause: str
    story: str
    source: str
    why: dict[str, str]  # other choices -> why they do not explain what is seen
    place: int  # of the cause among the choices

    def choices(self) -> dict[str, str]:
        """Letter -> choice."""
        texts = list(self.why)
        texts.insert(self.place, self.cause)
        return dict(zip("abcdef", texts, strict=False))


EXHIBITS = {
    "suddenly nan": Exhibit(
        "exp without subtracting a maximum",
        "The log-sum-exp was written as logits.exp().sum().log(), under mixed precision. The largest number in "
        "float16 is 65,504 = exp(11.09), and the loss overflows in the step in which the largest logit passes that. "
        "In float32 and bfloat16 the same happens at 88.7, which a scale of 100 reaches. Subtract each row's maximum "
        "first, or let logsumexp or cross_entropy do it.",
        "https://github.com/lucidrains/x-clip/issues/16, https://github.com/lucidrains/DALLE2-pytorch/issues/310, "
        "https://github.com/leeesangwon/PyTorch-Image-Retrieval/pull/16",
        {
            "the learning rate is too high": (
                "then the loss would jump or climb before it breaks. It falls until the end"
            ),
            "the scale has no upper limit": "the scale is 16 when it happens, far below the limit of 100",
            "a feature of length 0 is normalised": (
                "a bad picture fails whenever it comes, and all pictures came in every step. This fails when the "
                "largest logit passes a certain number"
            ),
        },
        2,
    ),
    "sure of itself": Exhibit(
        "the scale has no upper limit",
        "Once every training pair is found, a larger scale still lowers the training loss, so the scale grows as far "
        "as it can. On new pictures it multiplies every mistake: as many are right as before, but each wrong one "
        "costs more. The paper clamps the scale at 100. That limits the damage: with the clamp the held-out loss of "
        "this exhibit still rises, but less than half as far. The code that OpenAI published is for inference and has "
        "no clamp, which people noticed.",
        "https://github.com/openai/CLIP/issues/46, https://github.com/openai/CLIP/pull/530",
        {
            "the towers over-fit": (
                "they do, a little, as the top-1 says. But the top-1 hardly moves while the held-out loss more than "
                "doubles: what gets worse is not the order of the captions, it is the confidence"
            ),
            "the held-out captions are shuffled": "then the top-1 would be at chance, 1 of 64",
            "the learning rate is too high": "then the training loss would not stay at zero",
        },
        1,
    ),
    "a high floor": Exhibit(
        "the scale is used without exp",
        "logit_scale stores a logarithm, 2.66 at the start. Used as it is, and clamped at ln 100 = 4.6, it limits how "
        "far apart a softmax can put two captions: even with perfect features the N − 1 wrong captions keep much of "
        "the probability. That is the floor. The order of the captions is not affected, so the top-1 looks good.",
        "https://github.com/BAAI-DCAI/M3D/issues/52",
        {
            "many captions are equal": (
                "equal captions would also keep the top-1 below 100 %, as no model can choose between them; and here "
                "each of the 64 concepts has its own caption"
            ),
            "the learning rate is too low": "then the top-1 would be low as well. It is 100 %: the towers have learned",
            "the labels are wrong": "then the top-1 would be low. It is measured with the right labels",
        },
        0,
    ),
    "a slow start": Exhibit(
        "the logarithm of the scale starts at 1",
        "torch.ones([]) looks like a natural start for a parameter. But it is a logarithm: the scale is e = 2.7 and "
        "not 14.3, all probabilities are alike, and so the gradients are small until the scale has grown. Nothing is "
        "broken, it only takes longer. It was like this in transformers until somebody noticed.",
        "https://github.com/huggingface/transformers/issues/13430, "
        "https://github.com/huggingface/transformers/pull/13436",
        {
            "the scale is used without exp": (
                "then the curve of what multiplies the cosines could not pass ln 100 = 4.6, and it does"
            ),
            "the batches are smaller": "both losses start at ln 64, so both have 64 pairs in a batch",
            "the pictures are harder": "in the end both losses are equally low",
        },
        3,
    ),
    "flat at ln N": Exhibit(
        "the targets are made of the features that are trained",
        "Soft targets are taken from the similarities of the features themselves. If all features are equal, all "
        "targets are 1/N, all predictions are 1/N, and the two agree: a loss of ln N, and no gradient that leads away. "
        "It looks like convergence because the loss fell to get there. But ln N is what guessing costs. The columns "
        "give it away: with one-hot targets the entropy is 0.",
        "https://github.com/moein-shariatnia/OpenAI-CLIP/issues/27 (where the loss of the collapse is thought to be 0)",
        {
            "nothing: it has converged": "4.16 is ln 64, the loss of a model that guesses among 64",
            "many captions are equal": (
                "that leaves a floor below ln N (lesson 03), and does not make all pictures alike"
            ),
            "the captions are shuffled": "then the targets would still be one-hot, and their entropy would be 0",
        },
        1,
    ),
    "two equal losses": Exhibit(
        "both softmaxes run over the same axis",
        "The matrix was transposed *and* dim was changed: z.T.log_softmax(dim=0) is again the softmax over the rows "
        "of z. So one direction is trained twice and the other not at all. Two different sums that are equal in every "
        "step, to five digits, are too good to be true.",
        "https://github.com/openai/CLIP/issues/83 (where it is claimed that they must be equal), "
        "https://github.com/lucidrains/DALLE-pytorch/issues/32 (one direction only)",
        {
            "nothing: the matrix is symmetric": (
                "it is not. Row i, column j is picture i with text j; row j, column i is picture j with text i"
            ),
            "nothing: in the end both are zero": "they are equal in the first step, too, where they are far from zero",
            "the two towers share their weights": (
                "then a picture would have to be a text. The matrix has pictures in its rows and texts in its "
                "columns, whatever made them, and its rows and columns have different sums"
            ),
        },
        1,
    ),
    "bright columns": Exhibit(
        "each worker counts its labels from 0",
        "The batch of 64 is shared by four workers with 16 rows each. Worker w has rows 16 w … 16 w + 15 of the "
        "matrix, so its labels are arange(16) + 16 w. Without the offset, all four pull their pictures to the first "
        "16 texts: four short diagonals, one below the other.",
        "https://github.com/mlfoundations/open_clip/blob/00aa464/src/open_clip/loss.py "
        "(labels + num_logits * rank: with the offset); lesson 19",
        {
            "the captions of three quarters are missing": (
                "then their pictures would choose among the other captions in no order. Here every group is in order"
            ),
            "the batch was shuffled after the labels were made": (
                "then the bright cells would be scattered. They are in order"
            ),
            "the model over-fits": "these pictures were not trained on, and over-fitting does not move a diagonal",
        },
        2,
    ),
    "an easy start": Exhibit(
        "batches of 16, of which four are accumulated",
        "An untrained model guesses among the N captions of its batch and pays about ln N. 2.8 is ln 16, and not ln "
        "64 = 4.2. Adding up the gradients of four batches gives every pair the negatives of its own 16 (lesson 14). "
        "The two losses are therefore not comparable, and being lower says nothing.",
        "https://github.com/huggingface/sentence-transformers/pull/1822",
        {
            "the towers have been trained before": "then a first loss so close to ln 16 would be a coincidence",
            "the scale is higher": "with all features alike the scale changes nothing: every caption gets 1/N",
            "only one direction is in the loss": "each direction starts at ln N, and so does any mean of the two",
        },
        0,
    ),
    "stairs": Exhibit(
        "the probability is rounded before 1 is subtracted",
        "The gradient of a pair's logit is p − 1. Just below 1, the numbers of bfloat16 are 1/256 apart, and a p that "
        "is nearer to 1 than half of that becomes 1. So p − 1 comes in steps, and from a p of 0.998 on it is 0: a "
        "pair that is found is never pulled again. Compute 1 − p as a sum over the other captions, and round that.",
        'found in this project: tests/test_mutants.py, "pair from the softmax, rounded"; lesson 17',
        {
            "exp underflows": "then small gradients would vanish smoothly, at 1e-38. These vanish at 2e-3, in stairs",
            "the gradient is clipped": "clipping limits large gradients, and these are right",
            "the scale is clamped": "a clamp changes the logits, and the horizontal axis is computed after them",
        },
        3,
    ),
    "a second machine": Exhibit(
        "the gathered features carry no gradient",
        "torch.distributed.all_gather returns plain copies; here each worker puts its own rows back, so that these "
        "have a gradient. The loss is right to the last digit. But the push that the other workers' rows give its "
        "features is cut off. Each pair keeps its whole pull and only a part of the push, and the two no longer "
        "cancel: that is why the norm is larger. Gather with gradient (torch.distributed.nn.all_gather), as in lesson "
        "19.",
        "https://github.com/mlfoundations/open_clip/issues/616, https://github.com/facebookresearch/SLIP/issues/31",
        {
            "the workers see other pictures": "then the loss of the first step would differ",
            "rounding": "the gradients differ threefold, and rounding is one part in a million",
            "each worker counts its labels from 0": "then the loss of the first step would differ as well",
        },
        1,
    ),
    "whose neighbour": Exhibit(
        "the feature is taken at the last place, which is padding",
        "A batch of texts is padded to its longest. Pooled at the last place instead of the end token, a short text "
        "is read at a padding token, and how far behind its end depends on its longest neighbour. So the same text has "
        "a different feature in another batch. Under a causal mask, what is at the end token cannot depend on what "
        "comes after it (lesson 06).",
        "a relative, pooling at another wrong place: https://github.com/huggingface/transformers/issues/24650",
        {
            "dropout is still on": "then the repetitions would differ. They agree to the last digit",
            "batch normalisation": 'then "dog" beside it would change the score as well',
            "a text is cut off": 'the longest text fits, and "cat" is never cut',
        },
        0,
    ),
    "twice as good": Exhibit(
        "many test pictures are in the training as well",
        "Files were shuffled, and then cut into training and test. But every third picture is in the folder twice, "
        "the second time saved as JPEG: other bytes, nearly the same pixels. Those are found without any knowledge of "
        "groups. What is left when they are gone is the score. Lesson 08 of this course once had 25 such twins among "
        "its 124 test pictures.",
        "https://github.com/zalandoresearch/fashion-mnist/issues/44, https://github.com/mrdbourke/nutrify/issues/53",
        {
            "the model over-fits": "over-fitting lowers a test score. This one is too high",
            "too few test pictures": "the bars on the left and on the right differ by more than chance allows",
            "the groups are easy to tell apart": (
                "then the pictures that are far from every training picture would be found as well"
            ),
        },
        2,
    ),
    "old prompts": Exhibit(
        "the class prompts were encoded before the training",
        "Encoding the prompts once saves time, and it is right for a finished model. Here it was done before the "
        "first step, so that today's pictures are compared with texts of a model that no longer exists. Encode them "
        "at every evaluation.",
        "no public thread is known to us; open_clip builds its classifier anew in each evaluation "
        "(https://github.com/mlfoundations/open_clip/blob/main/src/open_clip_train/zero_shot.py)",
        {
            "it is harder to name than to find": "here both ask the same question of the same pictures and captions",
            "the model over-fits": "then the search on new pictures would get worse as well",
            "the prompts have a bad template": "a template costs a few points, and not nearly four fifths",
        },
        1,
    ),
    "perfect": Exhibit(
        "a tie counts as found",
        "The rank of a caption was computed as the number of captions that are *better*. A model that gives the same "
        "cosine to everything has no better ones, and is always right. Count those that are at least as good, except "
        "its own; then a constant model finds nothing. (argmax has its own way with ties: it takes the first.)",
        "https://github.com/ArrowLuo/CLIP4Clip/issues/80, https://github.com/erikbern/ann-benchmarks/issues/519",
        {
            "nothing: the task is easy": "the loss says that each of 64 captions is as likely as any other",
            "the test pictures are in the training": "then the loss on the training batches would be low",
            "the loss is computed wrongly": (
                "4.1589 is ln 64 exactly: the right loss for features that tell nothing apart"
            ),
        },
        3,
    ),
    "a lucky line": Exhibit(
        "the threshold was chosen on the test pictures",
        "Of a few hundred thresholds the best one was taken, and its accuracy on the very pictures that chose it was "
        "reported. With 24 pictures, the best threshold of a score that knows next to nothing is right for about two "
        "in three. Choose it on a validation set, and report it on the test set, once (lesson 11).",
        "Recht et al. 2019, Do ImageNet classifiers generalize to ImageNet?, https://arxiv.org/abs/1902.10811, "
        "measure how much reuse of a test set costs (there: little)",
        {
            "the new pictures are harder": (
                "they were drawn in the same way, and even the best threshold for them is right for only 56 %"
            ),
            "the model has changed": "the scores come from the same function",
            "the threshold has to be computed more exactly": (
                "at no threshold does the curve of the 5,000 reach the peak of that of the 24"
            ),
        },
        0,
    ),
}


def diagnose(name: str, choice: str | None) -> None:
    """Says whether a choice, a letter, explains an exhibit, and if not why; with None it lists the choices.

    The first choice for each exhibit counts in the course's score of predictions.
    """
    if name not in EXHIBITS:
        print(f"there is no exhibit {name!r}; there are {', '.join(EXHIBITS)}")
        return
    exhibit, choices = EXHIBITS[name], EXHIBITS[name].choices()
    if choice not in choices:
        asked = "Write a letter in place of None" if choice is None else f"{choice!r} is not one of the letters"
        print(f"{name}: what is wrong? {asked}.")
        print(*(f"  {letter}  {text}" for letter, text in choices.items()), sep="\n")
        return
    right = choices[choice] == exhibit.cause
    score = predictions.settle(f"museum: {name}", choice, right)
    if right:
        _say(f"✔ {name}: {choices[choice]} ({score} so far). {exhibit.story}")
        print(f"  See {exhibit.source}")
    else:
        _say(f"✘ {name}: not {choices[choice]!r} ({score} so far): {exhibit.why[choices[choice]]}.")


def _say(text: str) -> None:
    print(textwrap.fill(text, 116, subsequent_indent="  "))
