"""Checks of the exercises to notebook 05: any mask by hand, PWL for the converters only, intervals seed by seed."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from scipy.stats import norm, t
from torch import Tensor

from pwl_lab.exercises.checking import attempt, refusal, same_numbers, swap_net, sync_loss
from pwl_lab.study.intervals import mean_interval
from pwl_lab.support.seeding import generator
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.swapnet import SwapNet


@torch.no_grad()
def run_mask(answer: Callable[[SwapNet, Tensor, str], Float[Tensor, "batch classes"]]) -> str:
    """`answer(net, inputs, mask)`: the logits of a mask, from the blocks and converters of `net`; bit for bit."""
    hint = (
        "stem and block 1 of the first owner; before each further block a converter if its owner is another; at last "
        "the head of the last owner"
    )
    net, inputs = swap_net(), torch.randn(7, 6, generator=generator(0, "data"))
    for mask in sorted(all_masks(3), key=lambda mask: (len(set(mask)), mask[0] == "S")):  # TTT, SSS, then the mixes
        found = attempt(answer, net, inputs, mask, hint=hint, on=f"mask {mask}")
        right = net(inputs, mask)
        same_numbers(f"run_mask for {mask}", found, right, hint, _wrong_runs(net, inputs, mask), tolerance=1e-5)
        if not torch.equal(torch.as_tensor(found), right):
            exact = "the same operations in the same order, in float32"
            raise refusal(f"run_mask for {mask}", "close, but not equal bit for bit", exact)
    return "Right, bit for bit: with TTT neither a converter nor the student is touched, so it is the teacher itself."


def _wrong_runs(net: SwapNet, inputs: Tensor, mask: str) -> dict[str, Tensor]:
    """What the usual mistakes give."""

    def run(convert: Callable[[Tensor, int, str, str], Tensor], head: str = mask[-1]) -> Tensor:
        """The network with other converters, or another head."""
        state = net.enter(inputs, mask[0])
        for boundary in range(1, net.n_blocks):
            state = convert(state, boundary, mask[boundary - 1], mask[boundary])
            state = net.owner(mask[boundary]).blocks[boundary](state)
        logits: Tensor = net.owner(head).head(state)
        return logits

    def always(state: Tensor, i: int, before: str, after: str) -> Tensor:
        """A converter for the owner before, at every boundary."""
        return net.converters.encode(state, i) if before == "T" else net.converters.decode(state, i)

    def right(state: Tensor, i: int, before: str, after: str) -> Tensor:
        """A converter where the owner changes."""
        return state if before == after else always(state, i, before, after)

    return {
        "no converter where the owner changes": run(lambda state, i, before, after: state),
        "encoder and decoder are swapped: an encoder turns a teacher's state into a student's": run(
            lambda state, i, before, after: right(state, i, after, before)
        ),
        "a converter is needed only where the owner changes": run(always),
        "boundaries are counted from 1: this takes the converter of the boundary before": run(
            lambda state, i, before, after: right(state, i - 1, before, after)
        ),
        "the head goes with the last block's owner": run(right, head="S" if mask[-1] == "T" else "T"),
        "these are the teacher's logits: the mask is not used": net.teacher(inputs),
        "these are the student's logits: the mask is not used": net.student(inputs),
        "T and S are swapped": net(inputs, mask.translate({ord("T"): "S", ord("S"): "T"})),
    }


def converters_alone(answer: Callable[[SwapNet, Sequence[Tensor], Sequence[Tensor]], Float[Tensor, ""]]) -> str:
    """`answer(net, teacher_states, student_states)`: the sync loss, which must train the converters and leave the student."""
    hint = "the loss is sync_loss(...); a detached state keeps its value but sends no gradient back"
    net, inputs = swap_net(), torch.randn(7, 6, generator=generator(1, "data"))
    with torch.no_grad():
        teacher_states, _ = net.teacher.hidden_states(inputs)
    student_states, _ = net.student.hidden_states(inputs)
    name = "converters_alone"
    loss = attempt(answer, net, teacher_states, student_states, hint=hint, copied=False)  # its gradients count
    same_numbers(name, loss, sync_loss(net, teacher_states, student_states), hint)
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise refusal(name, "this loss trains nothing, not even the converters: detach the states, not the loss", hint)
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    if any(weights.grad is not None for weights in net.student.parameters()):
        raise refusal(name, "the student gets a gradient: that is training with PWL", hint, "none", "a gradient")
    if any(weights.grad is None for weights in net.converters.parameters()):
        raise refusal(name, "some converter gets no gradient", hint, "a gradient for every encoder and decoder")
    return "Right: this is training without PWL. The student only distils; the converters learn to convert its states."


def paired_interval(answer: Callable[[Sequence[float], Sequence[float]], Sequence[float]]) -> str:
    """`answer(ours, theirs)`: lower end, mean and upper end of the 95% interval of the differences seed by seed."""
    hint = "differences first; their mean, plus and minus t(0.975, n - 1) times their standard deviation (n - 1) over sqrt(n)"
    for ours, theirs in (
        ([0.871, 0.882, 0.859], [0.866, 0.879, 0.852]),
        ([0.71, 0.74, 0.69, 0.75, 0.72], [0.73, 0.735, 0.70, 0.78, 0.725]),
    ):
        a, b = torch.tensor(ours).double(), torch.tensor(theirs).double()
        gain, n = a - b, len(ours)
        right = mean_interval(gain.tolist())
        quantile, middle = float(t.ppf(0.975, n - 1)), float(gain.mean())

        def around(half: float, middle: float = middle) -> list[float]:
            """The interval of that half width."""
            return [middle - half, middle, middle + half]

        spread, biased, root = float(gain.std()), float(gain.std(correction=0)), n**0.5
        apart = float((a.var() / n + b.var() / n).sqrt())
        mistakes = {
            "theirs minus ours: a gain should be positive": [-value for value in reversed(right)],
            "1.96 is for many seeds: with so few use Student's t": around(float(norm.ppf(0.975)) * spread / root),
            "one-sided: 95% in the middle leaves 2.5% at either end": around(float(t.ppf(0.95, n - 1)) * spread / root),
            "divide by n - 1, not by n, in the standard deviation": around(quantile * biased / root),
            "the standard deviation is not divided by the root of the number of seeds": around(quantile * spread),
            "not seed by seed: what all students of a seed share should cancel, so take differences first": (
                around(quantile * apart)
            ),
            "t has n - 1 degrees of freedom, not n": around(float(t.ppf(0.975, n)) * spread / root),
        }
        found = attempt(answer, ours, theirs, hint=hint, on=f"accuracies of {n} seeds")
        same_numbers("paired_interval", found, right, hint, mistakes, tolerance=1e-3)
    return "Right: an interval that contains 0 decides nothing."
