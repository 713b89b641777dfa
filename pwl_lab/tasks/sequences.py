"""Tasks on strings of tokens: masked prediction and prediction of the next token, on strings of a grammar and on text.

A token's index is its class. Two more follow: `mask` hides a token or, where the next one is predicted, stands before the
first; `pad` fills the end of a short string.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from pwl_lab.support import config
from pwl_lab.support.download import DataFile, DatasetFiles, content, obtain
from pwl_lab.support.errors import invalid, unknown
from pwl_lab.support.files import sha256
from pwl_lab.support.resuming import Stream
from pwl_lab.support.seeding import TEACHER, numpy_generator
from pwl_lab.tasks.base import IGNORED, Batch, Task
from pwl_lab.tasks.checks import check_count
from pwl_lab.tasks.grammar import Derivations, Grammar, Strings
from pwl_lab.tasks.inside import Weights, next_token, token_posterior

OBJECTIVES = ("masked", "next")
HIDDEN, RANDOM = 0.8, 0.1  # of the scored tokens are masked, are replaced by random ones; the rest stay as they are
SPLITS = ("train", "validation", "test")
TENTHS = {"train": range(2, 10), "validation": range(1), "test": range(1, 2)}  # of all strings, by their hash
CHUNK = 2048  # strings that are drawn at once
MOST_CHUNKS = 50  # without a string of the split, before it counts as empty
DEVIL = DataFile("devils-dictionary.txt", "2c9f5436773cd65973144d5e182ba369c425a979fb1fa416fb66e8eaf46080e8")
_RECIPE = 1  # raise it when the same arguments would give other samples


class Ceiling(NamedTuple):
    """The best that can be expected of any predictor: its accuracy, and its cross-entropy in nats."""

    accuracy: float
    loss: float


class SequenceTask(Task):
    """What the two tasks have in common: symbols, their indices, and how strings become batches.

    With the objective `masked`, each token is scored with probability `mask_rate`. Of the scored tokens, 80% are masked,
    10% are replaced by one drawn from all symbols, and 10% stay as they are. With `next`, every token is scored; the
    inputs are shifted by one position, so that the network has to be causal.
    """

    def __init__(
        self, name: str, symbols: Sequence[str], length: int, objective: str, mask_rate: float, seed: int
    ) -> None:
        """Raises InvalidValueError for an objective that is unknown, and a mask rate that is not between 0 and 1."""
        if objective not in OBJECTIVES:
            raise unknown("objective", objective, OBJECTIVES)
        if isinstance(mask_rate, bool) or not isinstance(mask_rate, int | float) or not 0 < mask_rate < 1:
            raise invalid("mask_rate", mask_rate, "a number above 0 and below 1")
        self.name, self.objective, self.mask_rate, self.seed = name, objective, float(mask_rate), seed
        self.class_names, self.n_classes = tuple(symbols), len(symbols)
        self.mask, self.pad, self.n_tokens = self.n_classes, self.n_classes + 1, self.n_classes + 2
        self.input_shape: tuple[int, ...] = (length,)

    def encode(self, symbols: Sequence[str]) -> Int[Tensor, " tokens"]:
        """The indices of these symbols; a string is a sequence of characters.

        Raises InvalidValueError for a symbol that is not one of `class_names`, and an empty sequence.
        """
        return torch.from_numpy(_indices(symbols, self.class_names, "symbols"))

    def symbols(self, tokens: Int[Tensor, " tokens"], masked: str = "□") -> list[str]:
        """The symbols behind these indices, with `masked` in place of hidden ones and without padding."""
        names = (*self.class_names, masked)
        return [names[token] for token in tokens.tolist() if token != self.pad]

    def _batch(self, strings: Strings, random: np.random.Generator) -> Batch:
        """The strings as a batch; what is hidden is drawn from `random`."""
        real = strings != self.pad
        if self.objective == "next":
            first = np.full((len(strings), 1), self.mask)
            inputs, picked = np.where(real, np.hstack([first, strings[:, :-1]]), self.pad), real
        else:
            picked = real & (random.random(strings.shape) < self.mask_rate)
            while not picked.any():  # the loss of a batch is a mean
                picked = real & (random.random(strings.shape) < self.mask_rate)
            fate, other = random.random(strings.shape), random.integers(self.n_classes, size=strings.shape)
            changed = np.where(fate < HIDDEN, self.mask, np.where(fate < HIDDEN + RANDOM, other, strings))
            inputs = np.where(picked, changed, strings)
        return Batch(torch.from_numpy(inputs), torch.from_numpy(np.where(picked, strings, IGNORED)))

    def _recipe(self) -> dict[str, Any]:
        """The part of a fingerprint that says how strings become batches."""
        rate = self.mask_rate if self.objective == "masked" else None
        return {"recipe": _RECIPE, "objective": self.objective, "mask_rate": rate, "seed": self.seed}


class GrammarTask(SequenceTask):
    """Strings drawn from a probabilistic context-free grammar, fresh ones at every step.

    A hash of the string decides which split it belongs to: a tenth of all strings each for validation and test. So no
    string is in two splits, however often it is drawn.
    """

    def __init__(
        self,
        grammar: str | Path | Grammar = "hidden",
        objective: str = "masked",
        mask_rate: float = 0.3,
        seed: int = 0,
        eval_strings: int = 1024,
    ) -> None:
        """Create a task.

        Arguments:

        - `grammar`: a grammar, its name, or its file (see `Grammar.load`).
        - `objective`: `masked` or `next`, as in `SequenceTask`.
        - `mask_rate`: the probability with which a token is scored by masked prediction.
        - `seed`: draws the evaluation sets and what is masked in them.
        - `eval_strings`: the number of strings in each evaluation set.

        Raises InvalidValueError for a value that is not allowed, and a grammar with too few strings to hold any out; as
        `Grammar.load` does for a grammar that is not valid.
        """
        self.grammar = grammar if isinstance(grammar, Grammar) else Grammar.load(grammar)
        self.eval_strings = check_count("eval_strings", eval_strings)
        super().__init__(self.grammar.name, self.grammar.tokens, self.grammar.longest, objective, mask_rate, seed)
        for split in TENTHS:
            next(self._drawn(split, numpy_generator(seed, "evaluation", split)))

    def __repr__(self) -> str:
        """The call that creates it, with the grammar's name."""
        return f"GrammarTask({self.name!r}, {self.objective!r}, mask_rate={self.mask_rate}, seed={self.seed})"

    def batches(self, seed: int, batch_size: int, device: str = "cpu", role: str = TEACHER) -> Iterator[Batch]:
        """An endless stream of fresh strings of the training split, from the stream `data` of `seed` for `role`."""
        check_count("batch_size", batch_size)
        where, random = config.device(device), numpy_generator(seed, "data", role)
        chunks = self._drawn("train", random)

        def draw(rest: np.ndarray | None) -> tuple[Batch, np.ndarray]:
            found = np.empty((0, self.grammar.longest), dtype=np.int64) if rest is None else rest
            while len(found) < batch_size:
                found = np.concatenate([found, next(chunks)])
            return self._batch(found[:batch_size], random).to(where), found[batch_size:]

        return Stream(draw, random)

    def split(self, name: str, device: str = "cpu") -> Batch:
        """The fixed evaluation set `validation` or `test`: its strings, and what is masked in them, never change."""
        batch = self._validation if _evaluation(name) == "validation" else self._test
        return batch.to(config.device(device))

    def derivations(self, name: str) -> Derivations:
        """The trees of the strings of `validation` or `test`, in the order of the split."""
        random, found, n_found = numpy_generator(self.seed, "evaluation", _evaluation(name)), [], 0
        while n_found < self.eval_strings:
            made = self.grammar.derive(CHUNK, random)  # the strings that `_drawn` draws
            found.append([part.compress(belongs(made.tokens, self.pad, name), axis=-2) for part in made])
            n_found += found[-1][0].shape[0]
        return Derivations(
            *(np.concatenate(parts, axis=-2)[..., : self.eval_strings, :] for parts in zip(*found, strict=True))
        )

    def posterior(self, batch: Batch) -> Weights:
        """The exact probability of each symbol at each scored position, given the inputs; 0 at padding.

        No predictor can know which tokens are scored. A token that shows as `s`, one of `V` symbols, was left alone
        (probability 1 - r at mask rate r), or scored and kept (r/10), or scored and replaced by any symbol (r/10). So if it
        really is `t`, it shows as `s` with probability `(1 - r + r/10) [s = t] + r/(10 V)`; a mask shows with the same
        probability for every `t`. That is the evidence for all positions but the predicted one. There, only the cases in
        which it is scored count, with `[s = t]/10 + 1/(10 V)`, because only those are judged.

        Raises InvalidValueError for inputs that the grammar cannot have given.
        """
        real = batch.inputs != self.pad
        if self.objective == "next":
            return next_token(self.grammar, torch.where(real, batch.labels, self.pad))
        unseen = (batch.inputs >= self.mask)[..., None]
        same = batch.inputs[..., None] == torch.arange(self.n_classes, device=batch.inputs.device)
        kept, replaced = 1 - HIDDEN - RANDOM, RANDOM / self.n_classes

        def likelihood(alone: float, scored: float) -> Weights:
            shares = torch.where(same, alone + scored * (kept + replaced), scored * replaced)
            return shares.double().log().where(~unseen, 0.0)

        seen, as_scored = likelihood(1 - self.mask_rate, self.mask_rate), likelihood(0.0, 1.0)
        posterior = token_posterior(self.grammar, batch.inputs, seen)
        return (posterior.log() - seen + as_scored).softmax(dim=-1).where(real[..., None], 0.0)

    def ceiling(self, split: str = "test", n: int | None = None) -> Ceiling:
        """The best that any predictor can expect on the first `n` strings of an evaluation set (default: all).

        The accuracy is the mean of the largest probability over the scored tokens, the loss that of the entropy. On a
        set of some hundred strings a network may exceed them a little, by chance.
        """
        whole = self.split(split)
        check_count("n", len(whole) if n is None else n)
        batch = Batch(whole.inputs[:n], whole.labels[:n])
        best = self.posterior(batch)[batch.labels != IGNORED]  # [scored, classes]
        entropy = torch.special.entr(best).sum(dim=-1)
        return Ceiling(best.amax(dim=-1).mean().item(), entropy.mean().item())

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the samples; the order of the alternatives is part of it."""
        grammar = self.grammar
        rules = {"tokens": list(grammar.tokens), "symbols": list(grammar.symbols), "rules": grammar.alternatives}
        which = {"task": "grammar", "eval_strings": self.eval_strings, "start": grammar.beginnings}
        return which | rules | self._recipe()

    @cached_property
    def _validation(self) -> Batch:
        return self._evaluated("validation")

    @cached_property
    def _test(self) -> Batch:
        return self._evaluated("test")

    def _evaluated(self, split: str) -> Batch:
        """An evaluation set; its masking has a stream of its own."""
        strings, n_found = [], 0
        for some in self._drawn(split, numpy_generator(self.seed, "evaluation", split)):
            strings.append(some)
            n_found += len(some)
            if n_found >= self.eval_strings:
                break
        masking = numpy_generator(self.seed, "evaluation", f"{split}_masking")
        return self._batch(np.concatenate(strings)[: self.eval_strings], masking)

    def _drawn(self, split: str, random: np.random.Generator) -> Iterator[Strings]:
        """Endless random strings of a split, some at a time. Raises InvalidValueError if there are none."""
        misses = 0
        while misses < MOST_CHUNKS:
            strings = self.grammar.draw(CHUNK, random)
            kept = strings[belongs(strings, self.pad, split)]
            misses = 0 if len(kept) else misses + 1
            if len(kept):
                yield kept
        allowed = f"one with more strings: none of {MOST_CHUNKS * CHUNK:,} random ones belongs to the {split} split"
        raise invalid("grammar", self.name, allowed)


def belongs(strings: Strings, pad: int, split: str) -> Bool[np.ndarray, " strings"]:
    """Whether each string belongs to a split: a hash of its tokens decides (FNV-1a, then a mixing step)."""
    found = np.full(len(strings), 0xCBF29CE484222325, dtype=np.uint64)
    for tokens in strings.T:
        found = np.where(tokens == pad, found, (found ^ tokens.astype(np.uint64)) * np.uint64(0x100000001B3))
    found = (found ^ (found >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return np.isin((found ^ (found >> np.uint64(33))) % np.uint64(10), TENTHS[split])


class TextTask(SequenceTask):
    """Windows of a text, character by character.

    The first 80% of the text are for training, the next 10% for validation, the rest for testing; a window lies within
    one part. The symbols are the characters of the training part, in the order of their code points.
    """

    def __init__(
        self,
        file: str | Path | None = None,
        length: int = 64,
        objective: str = "masked",
        mask_rate: float = 0.3,
        seed: int = 0,
        eval_windows: int = 512,
    ) -> None:
        """Create a task and read its text.

        Arguments:

        - `file`: a text in UTF-8, plain or gzipped; by default *The Devil's Dictionary*, which comes with the study.
        - `length`: the number of characters in a window.
        - `objective`: `masked` or `next`, as in `SequenceTask`.
        - `mask_rate`: the probability with which a character is scored by masked prediction.
        - `seed`: draws what is masked in the evaluation sets.
        - `eval_windows`: the number of windows in each evaluation set; they do not overlap, so a short text has fewer.

        Raises MissingDataError for a file that is missing or damaged, InvalidValueError for one that is not in UTF-8, a
        part of it that is shorter than a window, and a character that occurs only after the training part.
        """
        check_count("length", length)
        check_count("eval_windows", eval_windows)
        path = _devil() if file is None else Path(file)
        raw = content(path)
        self._parts, symbols = _split_text(raw, path, length)
        self._sha256, self.eval_windows = sha256(raw), eval_windows
        super().__init__(path.stem, symbols, length, objective, mask_rate, seed)

    def __repr__(self) -> str:
        """The call that creates it, with the text's name."""
        return f"TextTask({self.name!r}, length={self.input_shape[0]}, objective={self.objective!r}, seed={self.seed})"

    def batches(self, seed: int, batch_size: int, device: str = "cpu", role: str = TEACHER) -> Iterator[Batch]:
        """An endless stream of windows of the training part, from the stream `data` of `seed` for `role`."""
        check_count("batch_size", batch_size)
        where, random = config.device(device), numpy_generator(seed, "data", role)
        windows = sliding_window_view(self._parts["train"], self.input_shape[0])

        def draw(_: None) -> tuple[Batch, None]:
            picked = random.integers(len(windows), size=batch_size)
            return self._batch(windows[picked], random).to(where), None

        return Stream(draw, random)

    def split(self, name: str, device: str = "cpu") -> Batch:
        """The fixed evaluation set `validation` or `test`: windows that do not overlap, spread over the part."""
        part, length = self._parts[_evaluation(name)], self.input_shape[0]
        there = len(part) // length
        picked = np.arange(min(self.eval_windows, there)) * there // min(self.eval_windows, there)
        windows = part[: there * length].reshape(there, length)[picked]
        return self._batch(windows, numpy_generator(self.seed, "evaluation", name)).to(config.device(device))

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the samples: of the text its checksum, not its location."""
        which = {"task": "text", "sha256": self._sha256, "length": self.input_shape[0]}
        return which | {"eval_windows": self.eval_windows} | self._recipe()


def _evaluation(name: str) -> str:
    """The name of an evaluation set. Raises InvalidValueError for another name."""
    if name not in ("validation", "test"):
        raise invalid("split", name, "one of validation, test")
    return name


def _devil() -> Path:
    """The bundled text, with its checksum checked."""
    return obtain(DEVIL.name, DatasetFiles((DEVIL,), bundled=True)) / DEVIL.name


def _split_text(raw: bytes, path: Path, length: int) -> tuple[dict[str, Int[np.ndarray, " characters"]], list[str]]:
    """The three parts of a text as indices of its symbols, and the symbols. Raises as `TextTask` does."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        allowed = f"a text in UTF-8; byte {error.start:,} is {raw[error.start]:#04x} ({error.reason})"
        raise invalid("file", str(path), allowed) from None
    bounds = [0, len(text) * 8 // 10, len(text) * 9 // 10, len(text)]
    texts = {name: text[begin:end] for name, begin, end in zip(SPLITS, bounds, bounds[1:], strict=False)}
    if min(map(len, texts.values())) < length:
        shortest = min(map(len, texts.values()))
        allowed = (
            f"at most {shortest}, a tenth of the {len(text):,} characters of {path.name}: each split needs a window"
        )
        raise invalid("length", length, allowed)
    symbols = sorted(set(texts["train"]))
    if len(symbols) < 2:
        raise invalid("file", str(path), "a text with at least two different characters in its first 80%")
    return {name: _indices(part, symbols, f"{name} part of {path.name}") for name, part in texts.items()}, symbols


def _indices(symbols: Sequence[str], known: Sequence[str], what: str) -> Int[np.ndarray, " tokens"]:
    """The indices of symbols among the known ones. Raises InvalidValueError, about `what`, for one that is unknown."""
    index = {name: number for number, name in enumerate(known)}
    strange = [symbol for symbol in dict.fromkeys(symbols) if symbol not in index]
    if strange or not len(symbols):
        few = " ".join(map(repr, known[:100]))
        raise invalid(
            what, strange[0] if strange else "", f"only the symbols of the training part, at least one: {few}"
        )
    return np.array([index[symbol] for symbol in symbols])
