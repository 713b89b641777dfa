"""The inside recursion: exact probabilities of strings, tokens and spans under a grammar, in log space.

The table of a symbol holds, for every span that it may derive, the log probability that it does. A rule `x -> y z` joins
two tables: a span is cut at every possible place, and the probabilities are added up. The gradient of a string's log
probability with respect to the log weight of a token, or to one entry of a table, is the posterior probability that the
token, or the symbol over that span, is part of the derivation.
"""

import math
from collections.abc import Iterator
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from pwl_lab.support.errors import InvalidValueError, invalid
from pwl_lab.tasks.grammar import Grammar

IMPOSSIBLE = -1e5  # a log probability; finite, because infinite ones have no gradients
CELLS = 2**22  # entries that are computed at once, about

Tokens = Int[Tensor, "strings length"]  # padded with `Grammar.pad`; `Grammar.mask` stands for a token that is not seen
Weights = Float64[Tensor, "strings length symbols"]  # a logarithm, or a probability, for each token at each position
Table = Float64[Tensor, "strings starts lengths"]  # spans by their first position and, from the shortest, their length


def log_probability(grammar: Grammar, tokens: Tokens) -> Float64[Tensor, " strings"]:
    """The log probability of each string, minus infinity for one that the grammar does not derive.

    Of a string with masked tokens, it is that of all strings that it may be.
    """
    with torch.no_grad():
        totals = [
            _inside(grammar, *piece)[0]
            for piece in _pieces(grammar, _likelihood(grammar, tokens), _end(grammar, tokens))
        ]
    total = torch.cat(totals)
    return torch.where(total > IMPOSSIBLE / 2, total, -math.inf)


def token_posterior(grammar: Grammar, tokens: Tokens, likelihood: Weights | None = None) -> Weights:
    """The probability of each token at each position, given the string's length and everything seen; 0 at padding.

    Arguments:
    - `grammar`: what the strings were drawn from.
    - `tokens`: what is seen.
    - `likelihood`: the log probability of what is seen at each position, for each token that may have been there; by
      default, a token is what it seems to be, and a mask may stand for any.

    Raises InvalidValueError if the grammar derives no string that fits.
    """
    weights = _likelihood(grammar, tokens) if likelihood is None else likelihood
    return _gradients(grammar, weights, _end(grammar, tokens))


def span_posterior(grammar: Grammar, tokens: Tokens) -> Float64[Tensor, "strings symbols starts ends"]:
    """The probability of each symbol (in the order of `grammar.symbols`) over each span, given everything seen.

    The entry [string, symbol, i, j] is about the tokens from position i up to, but not including, j. Raises as
    `token_posterior` does.
    """
    width = tokens.shape[1]
    found = torch.zeros(len(tokens), len(grammar.symbols), width, width + 1, dtype=torch.float64, device=tokens.device)
    done = 0
    for weights, ends in _pieces(grammar, _likelihood(grammar, tokens), _end(grammar, tokens)):
        with torch.enable_grad():
            total, tables = _inside(grammar, weights.requires_grad_(), ends)
            gradients = torch.autograd.grad(_possible(grammar, total), tables)
        for symbol, gradient in enumerate(gradients):
            shortest = grammar.extents[len(grammar.tokens) + symbol].shortest
            starts, lengths = gradient.any(dim=0).nonzero(as_tuple=True)
            found[done : done + len(ends), symbol, starts, starts + shortest + lengths] = gradient[:, starts, lengths]
        done += len(ends)
    return found


def next_token(grammar: Grammar, tokens: Tokens) -> Weights:
    """The probability of each token at each position, given the tokens before it and that the string goes on.

    It comes from prefix probabilities: what follows a prefix is left open, its length too, and each prefix is computed
    once. Rows at padding are 0. Raises as `token_posterior` does.
    """
    width, n_tokens = tokens.shape[1], len(grammar.tokens)
    place = torch.arange(grammar.longest + 1, device=tokens.device)
    real = tokens != grammar.pad  # a prefix for each real token: those before it
    open_ended = torch.full((*tokens.shape, grammar.longest), grammar.mask, device=tokens.device)
    open_ended[..., :width] = tokens[:, None].where(place[:width] < place[:width, None], grammar.mask)
    prefixes, which = torch.unique(open_ended[real], dim=0, return_inverse=True)
    known = (prefixes != grammar.mask).sum(dim=1)  # [prefixes]
    posterior = _gradients(grammar, _likelihood(grammar, prefixes), place > known[:, None])
    found = torch.zeros(*tokens.shape, n_tokens, dtype=torch.float64, device=tokens.device)
    found[real] = posterior[torch.arange(len(known), device=tokens.device), known][which]
    return found


def _likelihood(grammar: Grammar, tokens: Tokens) -> Weights:
    """0 for what a token may be, `IMPOSSIBLE` for the rest. Raises InvalidValueError for anything but padded strings."""
    real = tokens != grammar.pad
    if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) > grammar.pad):
        raise invalid("tokens", f"from {int(tokens.min())} to {int(tokens.max())}", f"from 0 to {grammar.pad}")
    if not real[:, :1].all() or (real[:, 1:] & ~real[:, :-1]).any():
        raise InvalidValueError("tokens are not allowed: every string should have a token, and padding only at its end")
    choices = torch.arange(len(grammar.tokens), device=tokens.device)
    fits = (tokens[..., None] == choices) | (tokens[..., None] >= grammar.mask)
    return torch.zeros(fits.shape, dtype=torch.float64, device=tokens.device).where(fits, IMPOSSIBLE)


def _end(grammar: Grammar, tokens: Tokens) -> Bool[Tensor, "strings ends"]:
    """True where the string ends."""
    lengths = (tokens != grammar.pad).sum(dim=1, keepdim=True)
    return torch.arange(tokens.shape[1] + 1, device=tokens.device) == lengths


def _pieces(grammar: Grammar, weights: Weights, ends: Bool[Tensor, "strings ends"]) -> Iterator[tuple[Tensor, Tensor]]:
    """A few strings at a time, so that their tables fit into memory."""
    largest = max((one.latest + 1) * (one.longest - one.shortest + 1) ** 2 for one in grammar.extents)
    size = max(1, CELLS // largest)
    return zip(torch.split(weights, size), torch.split(ends, size), strict=True)


def _inside(grammar: Grammar, weights: Weights, ends: Bool[Tensor, "strings ends"]) -> tuple[Tensor, list[Table]]:
    """The log probability of each string [strings], summed over where it may end, and the table of each symbol."""
    n_tokens, extents = len(grammar.tokens), grammar.extents
    tables = {token: weights[:, : extents[token].latest + 1, token, None] for token in range(n_tokens)}
    for symbol in reversed(range(n_tokens, len(extents))):
        options = []
        for share, parts in grammar.alternatives[symbol - n_tokens]:
            # Where each part may begin at the latest: what lies beyond belongs to other rules.
            latest = [*accumulate((extents[part].longest for part in parts), initial=extents[symbol].latest)]
            table = tables[parts[-1]][:, : latest[len(parts) - 1] + 1]
            for place in reversed(range(len(parts) - 1)):
                left = tables[parts[place]][:, : latest[place] + 1]
                table = _joined(left, table, extents[parts[place]].shortest)
            before = sum(extents[part].shortest for part in parts) - extents[symbol].shortest
            after = extents[symbol].longest - sum(extents[part].longest for part in parts)
            options.append(F.pad(table + math.log(share), (before, after), value=IMPOSSIBLE))
        tables[symbol] = torch.logsumexp(torch.stack(options), dim=0)
    n_ends, whole = ends.shape[1], []  # [strings, ends] for each start symbol
    for share, symbol in grammar.beginnings:
        by_length = F.pad(tables[symbol][:, 0] + math.log(share), (extents[symbol].shortest, n_ends), value=IMPOSSIBLE)
        whole.append(by_length[:, :n_ends])
    total = torch.logsumexp(torch.stack(whole), dim=0).where(ends, IMPOSSIBLE).logsumexp(dim=1)
    return total, [tables[symbol] for symbol in range(n_tokens, len(extents))]


def _joined(
    left: Float64[Tensor, "strings starts left"], right: Float64[Tensor, "strings later right"], shortest: int
) -> Table:
    """Spans of the left table, the shortest of which have `shortest` tokens, each followed by one of the right table."""
    n_left, n_starts = left.shape[2], left.shape[1]
    later = F.pad(right, (0, 0, 0, shortest + n_left + n_starts), value=IMPOSSIBLE)[:, shortest:]
    later = later.unfold(1, n_left, 1)[:, :n_starts].transpose(2, 3)  # [strings, starts, left lengths, right lengths]
    both = F.pad(left[..., None] + later, (0, n_left), value=IMPOSSIBLE)
    # Row by row one place further to the right: now what has the same length in all stands in one column.
    return both.flatten(2)[..., :-n_left].reshape(*both.shape[:2], n_left, -1).logsumexp(dim=2)


def _gradients(grammar: Grammar, weights: Weights, ends: Bool[Tensor, "strings ends"]) -> Weights:
    """The posterior of each token: the gradients of the log probabilities."""
    found = []
    with torch.enable_grad():
        for some, where in _pieces(grammar, weights.detach(), ends):
            total, _ = _inside(grammar, some.requires_grad_(), where)
            found.append(torch.autograd.grad(_possible(grammar, total), some)[0])
    return torch.cat(found)


def _possible(grammar: Grammar, total: Float64[Tensor, " strings"]) -> Float64[Tensor, ""]:
    """The sum of log probabilities. Raises InvalidValueError for a string that the grammar does not derive."""
    if bad := (total < IMPOSSIBLE / 2).sum().item():
        raise InvalidValueError(f"tokens are not allowed: grammar {grammar.name!r} cannot derive {bad} of the strings")
    return total.sum()
