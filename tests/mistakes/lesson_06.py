"""Wrong answers to the exercises of lesson 06, Reading a sentence."""

import torch

from mistakes import Hinted

MISTAKES = {
    "causal_weights": [
        lambda scores: scores.softmax(dim=-1).tril(),  # masked after the softmax
        lambda scores: scores.tril().softmax(dim=-1),  # a score of zero is a score
        lambda scores: scores.masked_fill(torch.ones_like(scores).tril(-1).bool(), -torch.inf).softmax(dim=-1),
        lambda scores: scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(dim=-2),
        Hinted(
            lambda scores: scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -30.0).softmax(dim=-1),
            "only -torch.inf keeps none",
        ),
        lambda scores: scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -100.0).softmax(dim=-1),
        lambda scores: scores.masked_fill(torch.ones_like(scores).triu().bool(), -torch.inf).softmax(dim=-1),  # nan
        lambda scores: (scores - torch.ones_like(scores).triu(1)).softmax(dim=-1),
        Hinted(
            lambda scores: (w := scores.softmax(dim=-1).tril()) / w.sum(dim=-1, keepdim=True),
            "mask before the softmax",
        ),
        lambda scores: (scores.tril().exp() / scores.exp().sum(dim=-1, keepdim=True)).tril(),
    ],
    "Attention": [
        Hinted(("q.shape[-1] ** 0.5", "q.shape[-1]"), "divided by √d"),
        Hinted(("q.shape[-1] ** 0.5", "D**0.5"), "width of one head"),
        Hinted((" / q.shape[-1] ** 0.5", ""), "divided by √d"),
        Hinted(
            (
                ("view(B, T, self.heads, -1).transpose(1, 2)", "reshape(B, self.heads, T, -1)"),
                ("(weights @ v).transpose(1, 2)", "(weights @ v)"),
            ),
            "plain view",
        ),
        Hinted(
            (
                ("view(B, T, self.heads, -1).transpose(1, 2)", "view(B, T, self.heads, -1)"),
                ("(weights @ v).transpose(1, 2)", "(weights @ v)"),
            ),
            "attend to each other",
        ),
        Hinted(
            (
                (".chunk(3, dim=-1)  # each", ".view(B, T, self.heads, -1).chunk(3, dim=-1)  # each"),
                ("part.view(B, T, self.heads, -1).transpose(1, 2)", "part.transpose(1, 2)"),
            ),
            "chunk(3, dim=-1) first",
        ),
        Hinted(("view(B, T, self.heads, -1).transpose(1, 2)", "reshape(B, self.heads, T, -1)"), "then transpose(1, 2)"),
        Hinted(("(weights @ v).transpose(1, 2)", "(weights @ v)"), "before reshape(B, T, D)"),
        Hinted(("causal_weights(scores) if causal else scores.softmax(dim=-1)", "scores.softmax(dim=-1)"), "no mask"),
        Hinted(("causal_weights(scores) if causal else scores.softmax(dim=-1)", "causal_weights(scores)"), "no mask"),
        Hinted(
            (
                "causal_weights(scores) if causal else scores.softmax(dim=-1)",
                "scores.softmax(dim=-1).tril() if causal else scores.softmax(dim=-1)",
            ),
            "before the softmax",
        ),
        Hinted(("return self.out_proj(x)", "return x"), "out_proj comes last"),
        Hinted((", self.in_proj_bias)", ")"), "in_proj_bias"),
        Hinted(("self.heads, -1)", "1, -1)"), "each head attends by itself"),
        ("q, k, v = (part", "k, q, v = (part"),  # the keys ask
        ("q @ k.transpose(-2, -1)", "k @ q.transpose(-2, -1)"),
        ("scores.softmax(dim=-1)\n", "scores.softmax(dim=-2)\n"),  # over those who ask
        Hinted(("return self.out_proj(x)", "return self.out_proj(x).detach()"), "no .detach()"),
        Hinted(("self.out_proj = nn.Linear(width, width)", "self.out = nn.Linear(width, width)"), "names"),
        Hinted(
            ("        B, T, D = x.shape\n", "        B, T, D = x.shape\n        x += 0.1\n"), "change the tensor itself"
        ),
    ],
    "Block": [
        Hinted((("x = x + self.attn", "x = self.attn"), ("return x + self.mlp", "return self.mlp")), "adds its result"),
        Hinted(("x = x + self.attn", "x = self.attn"), "adds its result"),
        Hinted(("return x + self.mlp", "return self.mlp"), "adds its result"),
        Hinted(("x = x + self.attn(self.ln_1(x)", "x = self.ln_1(x) + self.attn(self.ln_1(x)"), "normalised copy"),
        Hinted(
            (
                ("x = x + self.attn(self.ln_1(x), self.causal)", "x = self.ln_1(x + self.attn(x, self.causal))"),
                ("return x + self.mlp(self.ln_2(x))", "return self.ln_2(x + self.mlp(x))"),
            ),
            "pre-norm",
        ),
        Hinted((("self.attn(self.ln_1(x)", "self.attn((x)"), ("self.mlp(self.ln_2(x))", "self.mlp(x)")), "pre-norm"),
        Hinted(
            (
                ("        x = x + self.attn(self.ln_1(x), self.causal)\n", ""),
                ("x + self.mlp(self.ln_2(x))", "x + self.attn(self.ln_1(x), self.causal) + self.mlp(self.ln_2(x))"),
            ),
            "one after the other",
        ),
        Hinted(
            (
                ("nn.GELU()", "QuickGELU()"),
                ("import Tensor, nn\n", "import Tensor, nn\n\nfrom minclip.transformer import QuickGELU\n"),
            ),
            "QuickGELU is what",
        ),
        Hinted(("nn.GELU()", "nn.ReLU()"), "nn.GELU()"),
        Hinted(("nn.GELU()", "nn.Identity()"), "nn.GELU()"),
        Hinted(("self.attn(self.ln_1(x), self.causal)", "self.attn(self.ln_1(x), causal=False)"), "self.causal"),
        ("self.mlp(self.ln_2(x))", "self.mlp(self.ln_1(x))"),  # the same LayerNorm twice
        Hinted(("4 * width", "2 * width"), "names in the text"),
        Hinted(("c_proj", "out"), "names in the text"),
        Hinted(("        x = x + self.attn", "        x += self.attn"), "change the tensor itself"),
    ],
    "pool_at_end": [
        lambda x, tokens, end_id: x[:, -1],
        lambda x, tokens, end_id: x[:, 0],
        lambda x, tokens, end_id: x[torch.arange(len(x)), (tokens != 0).sum(dim=1) - 1],  # a real 0, or padding by EOT
        lambda x, tokens, end_id: x[tokens == end_id],
        Hinted(
            lambda x, tokens, end_id: x[torch.arange(len(x)), tokens.argmax(dim=1)], "compare with end_id first"
        ),  # the highest id
        lambda x, tokens, end_id: x[:, (tokens == end_id).int().argmax(dim=1)],  # every text at every place
        lambda x, tokens, end_id: x.mean(dim=1),
        lambda x, tokens, end_id: x[torch.arange(len(x)), (tokens == end_id).int().argmax(dim=1) - 1],  # before it
        lambda x, tokens, end_id: x[torch.arange(len(x)), (tokens == end_id).int().argmax(dim=0)[: len(x)]],
        lambda x, tokens, end_id: x[
            torch.arange(len(x)), tokens.shape[1] - 1 - (tokens.flip(1) == end_id).int().argmax(1)
        ],
    ],
    "TextTower": [
        Hinted((" + self.positional_embedding[: tokens.shape[1]]", ""), "are added"),
        Hinted(("[: tokens.shape[1]]", "[-tokens.shape[1] :]"), "first T rows"),
        ("[: tokens.shape[1]]", ""),  # a text that is shorter than the context does not fit
        Hinted(("pool_at_end(x, tokens, end_id=self.token_embedding.num_embeddings - 1)", "x[:, -1]"), "first EOT"),
        Hinted(("pool_at_end(x, tokens, end_id=self.token_embedding.num_embeddings - 1)", "x[:, 0]"), "not at SOT"),
        Hinted(("pool_at_end(x, tokens, end_id=self.token_embedding.num_embeddings - 1)", "x.mean(dim=1)"), "mean"),
        Hinted(("num_embeddings - 1", "num_embeddings"), "vocab_size - 1"),
        Hinted(("self.ln_final(x) @", "x @"), "before the projection"),
        Hinted((" @ self.text_projection", ""), "projection"),
        Hinted(
            (
                "return self.ln_final(x) @ self.text_projection",
                "return F.normalize(self.ln_final(x) @ self.text_projection, dim=-1)",
            ),
            "the loss's business",
        ),
        ("return self.ln_final(x) @ self.text_projection", "return self.ln_final(x @ self.text_projection)"),
        ("        x = self.transformer(x)\n", ""),  # no block is run
        ("causal=True) for", "causal=False) for"),
        ("range(layers)", "range(1)"),
        ("[Block(width, heads, causal=True) for _ in range(layers)]", "([Block(width, heads, causal=True)] * layers)"),
        Hinted(("OrderedDict(resblocks=blocks)", "OrderedDict(blocks=blocks)"), "names in the text"),
    ],
}
