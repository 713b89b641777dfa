"""Checks of the exercises to notebook 03: tokens out of signs, attention, and a projection token by token."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pwl_lab.distill.targets import Projection, random_projection
from pwl_lab.exercises.checking import attempt, same_numbers
from pwl_lab.support.seeding import generator


def tokens(answer: Callable[[Tensor, Tensor, Tensor], Float[Tensor, "batch width tokens"]]) -> str:
    """`answer(signs, sign, positions)`: `x_i * sign + positions_i` for every bit i, channels in dimension 1."""
    hint = "signs as (batch, tokens, 1) times the direction, plus the positions; then channels go before tokens"
    random = generator(0, "init")
    signs = torch.randint(0, 2, (5, 4), generator=random) * 2.0 - 1
    sign, positions = torch.randn(3, generator=random), torch.randn(4, 3, generator=random)
    rows = signs.unsqueeze(-1) * sign + positions
    mistakes = {
        "this has tokens in dimension 1; hidden states have their channels there and the tokens after them": rows,
        "the positions are multiplied by the sign as well: they are the same whatever the bit is": (
            signs.unsqueeze(-1) * (sign + positions)
        ).transpose(1, 2),
        "the positions are missing: all bits would look alike": (signs.unsqueeze(-1) * sign)
        .expand_as(rows)
        .transpose(1, 2),
        "reshape does not swap dimensions, it only regroups the numbers: use transpose": rows.reshape(5, 3, 4),
    }
    found = attempt(answer, signs, sign, positions, hint=hint, on="5 rows of 4 signs, width 3")
    same_numbers("tokens", found, rows.transpose(1, 2), hint, mistakes)
    return "Right: a bit changes only its own token, and only the position tells which bit it is."


def attention(answer: Callable[[Tensor, Tensor, Tensor], Float[Tensor, "batch tokens size"]]) -> str:
    """`answer(queries, keys, values)`: softmax(q k^T / sqrt(size)) v of one head."""
    hint = "scores are queries @ keys^T over sqrt(size), (batch, tokens, tokens); softmax over the last dimension"
    queries, keys, values = torch.randn(3, 2, 5, 4, generator=generator(1, "init"))
    raw = queries @ keys.transpose(1, 2)
    right = scaled_dot_product_attention(queries, keys, values)
    mistakes = {
        "the scores are not scaled: divide by the square root of the size": raw.softmax(dim=-1) @ values,
        "the scores are divided by the size, not by its square root": (raw / 4).softmax(dim=-1) @ values,
        "the scores are divided by the root of the number of tokens: use the size of the head": (
            (raw / 5**0.5).softmax(dim=-1) @ values
        ),
        "softmax over the queries: each query's weights add up to 1, over the keys": (raw / 2).softmax(dim=-2) @ values,
        "softmax over the batch: the samples are independent of each other": (raw / 2).softmax(dim=0) @ values,
        "the softmax is missing": raw / 2 @ values,
        "queries and keys are swapped": (raw / 2).transpose(1, 2).softmax(dim=-1) @ values,
        "these are the weights: mix the values with them": (raw / 2).softmax(dim=-1),
    }
    found = attempt(answer, queries, keys, values, hint=hint, on="2 samples of 5 tokens, head size 4")
    same_numbers("attention", found, right, hint, mistakes)
    return "Right: a mixture of values. The order of the tokens does not matter, only what they contain."


def project_tokens(answer: Callable[[Tensor, Tensor], Float[Tensor, "batch r tokens"]]) -> str:
    """`answer(state, matrix)`: `P^T h` at every token, the same matrix for all; (batch, m, tokens) to (batch, r, tokens)."""
    hint = "the sum goes over the channels and leaves the tokens alone: transpose and multiply, or torch.einsum"
    state = torch.randn(3, 6, 5, generator=generator(2, "init"))
    matrix = random_projection(6, 2, seed=0)
    rows = state.transpose(1, 2) @ matrix
    mistakes = {
        "this has tokens in dimension 1; hidden states have their channels there and the tokens after them": rows,
        "this is the mean over the tokens: each token has its own target": rows.mean(dim=1),
        "this is the sum over the tokens: each token has its own target": rows.sum(dim=1),
        "reshape does not swap dimensions, it only regroups the numbers: use transpose": rows.reshape(3, 2, 5),
    }
    found = attempt(answer, state, matrix, hint=hint, on="3 states of 6 channels and 5 tokens, a matrix of 6 x 2")
    right = Projection.fit(matrix.unsqueeze(0), state, centre=False, scale=False)(state)[0]
    same_numbers("project_tokens", found, right, hint, mistakes)
    return "Right: one matrix for all tokens, so teacher and student may differ in width, but not in tokens."
