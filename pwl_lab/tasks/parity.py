"""(n, k)-sparse parity: the label is the product of k hidden coordinates of n random signs.

It is the main synthetic task of arXiv 2503.17494 and of the paper it builds on, arXiv 2410.05464.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pwl_lab.support import config
from pwl_lab.support.errors import invalid
from pwl_lab.support.resuming import Stream
from pwl_lab.support.seeding import TEACHER, generator
from pwl_lab.tasks.base import Batch, Task, check_inputs
from pwl_lab.tasks.checks import check_bits, check_count, check_support

_EVALUATION = ("validation", "test")
DRAWN_AT_ONCE = 2_048  # samples
_RECIPE = 2  # raise it when the same arguments would give other samples


class SparseParity(Task):
    """Inputs uniform in {-1, +1}^n, label 1 if the product over the support is +1, else 0; fresh samples at every step.

    The support is given, or drawn from the stream `support` of `seed` *without* replacement (with replacement, two
    equal coordinates could cancel and make the task easier unnoticed). `seed` fixes the two evaluation sets.
    """

    name = "sparse-parity"
    n_classes = 2

    def __init__(
        self,
        n_bits: int = 50,
        k_sparse: int | None = None,
        seed: int = 0,
        support: Sequence[int] | None = None,
        eval_samples: int = 4096,
    ) -> None:
        """Create a task.

        Arguments:

        - `n_bits`: the number of signs in an input.
        - `k_sparse`: how many of them determine the label; by default the length of `support`, or 4.
        - `seed`: draws the support and the evaluation sets.
        - `support`: the bits that determine the label, counted from 0; drawn at random by default.
        - `eval_samples`: the number of samples in each of the two evaluation sets.

        Raises InvalidValueError for a support that is out of range, repeats a bit, or does not have `k_sparse` bits.
        """
        k_sparse = k_sparse if k_sparse is not None else (len(support) if support is not None else 4)
        check_bits(n_bits, k_sparse, None)
        check_count("eval_samples", eval_samples)
        self.n_bits, self.k_sparse, self.seed, self.eval_samples = n_bits, k_sparse, seed, eval_samples
        self.support = self._drawn_support() if support is None else check_support(support, n_bits, k_sparse)
        self.input_shape: tuple[int, ...] = (n_bits,)

    def __repr__(self) -> str:
        """The call that creates it."""
        return f"SparseParity(n_bits={self.n_bits}, support={self.support}, seed={self.seed})"

    def _drawn_support(self) -> tuple[int, ...]:
        """`k_sparse` distinct bits."""
        order = torch.randperm(self.n_bits, generator=generator(self.seed, "support"))
        return tuple(sorted(order[: self.k_sparse].tolist()))

    def labels(self, inputs: Tensor) -> Int[Tensor, " batch"]:
        """1 if the product of the support's coordinates is +1, else 0; `inputs` are signs, [batch, n_bits].

        Raises InvalidValueError for anything but -1.0 and +1.0 of that shape (hence the loose annotation).
        """
        check_inputs(inputs, self.input_shape)
        if not (inputs.abs() == 1).all():
            raise invalid("inputs", inputs[inputs.abs() != 1][:5].tolist(), "signs, -1.0 or +1.0")
        return self._labels(inputs)

    def _labels(self, inputs: Float[Tensor, "batch n_bits"]) -> Int[Tensor, " batch"]:
        """The labels, without checks: for inputs drawn here."""
        return (inputs[:, list(self.support)].prod(dim=1) > 0).long()  # [batch, k_sparse] -> [batch]

    def draw(self, samples: int, random: torch.Generator) -> Batch:
        """Draw `samples` fresh samples. Raises InvalidValueError unless it is a whole number from 1."""
        check_count("samples", samples)
        bits = torch.randint(0, 2, (samples, self.n_bits), generator=random, dtype=torch.int8)
        inputs = bits.to(torch.get_default_dtype()).mul_(2).sub_(1)  # 0, 1 -> -1.0, +1.0
        return Batch(inputs, self._labels(inputs))

    def batches(self, seed: int, batch_size: int, device: str = "cpu", role: str = TEACHER) -> Iterator[Batch]:
        """An endless stream of fresh samples, from the stream `data` of `seed` for `role`."""
        check_count("batch_size", batch_size)
        where, random = config.device(device), generator(seed, "data", role)
        at_once = max(1, DRAWN_AT_ONCE // batch_size) * batch_size  # the same samples, with fewer calls

        def draw(rest: tuple[Tensor, Tensor] | None) -> tuple[Batch, tuple[Tensor, Tensor] | None]:
            drawn = Batch(*rest) if rest else self.draw(at_once, random).to(where)
            later = (drawn.inputs[batch_size:], drawn.labels[batch_size:]) if len(drawn) > batch_size else None
            return Batch(drawn.inputs[:batch_size], drawn.labels[:batch_size]), later

        return Stream(draw, random)

    def split(self, name: str, device: str = "cpu") -> Batch:
        """The fixed evaluation set `validation` or `test`, `eval_samples` samples each."""
        if name not in _EVALUATION:
            raise invalid("split", name, "one of " + ", ".join(_EVALUATION))
        return self.draw(self.eval_samples, generator(self.seed, "evaluation", name)).to(config.device(device))

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the samples."""
        return {
            "task": self.name,
            "recipe": _RECIPE,
            "n_bits": self.n_bits,
            "support": list(self.support),
            "seed": self.seed,
            "eval_samples": self.eval_samples,
        }
