"""Checks of the exercises to notebook 02: curricula as lists of stages, the projected target, temperature."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, Stage, TeacherOutput, extracted, one_shot, progressive
from pwl_lab.distill.losses import teacher_probabilities
from pwl_lab.distill.targets import Projection, random_projection
from pwl_lab.exercises.checking import attempt, refusal, same_numbers, same_values
from pwl_lab.support.errors import PwlLabError
from pwl_lab.support.seeding import generator

N_BLOCKS = 2


def three_curricula(answer: Callable[[float, int], Mapping[str, Sequence[Stage]]]) -> str:
    """`answer(at_accuracy, steps)`: the stages of `one_shot`, `progressive` and `extracted` for two blocks."""
    hint = "every curriculum ends with TeacherOutput(temperature=0), without a length; what comes before it has `steps`"
    at, steps = 0.8, 300
    given = attempt(answer, at, steps, hint=hint, on=f"at_accuracy={at} and steps={steps}")
    right = {
        "one_shot": one_shot(0),
        "progressive": progressive([at], steps, 0),
        "extracted": extracted(steps, temperature=0),
    }
    names = list(given) if isinstance(given, Mapping) else type(given).__name__
    if not isinstance(given, Mapping) or set(given) != set(right):
        raise refusal("three_curricula", "the names are wrong", hint, f"a dict of {list(right)}", names)
    for name, curriculum in right.items():
        wanted = _told(curriculum.for_blocks(N_BLOCKS).stages)
        same_values(name, _told(_stages(name, given[name], hint)), wanted, hint, _wrong_stages(name, wanted))
    return "Right: three lists, one trainer. Only `extracted` names blocks, only `progressive` a checkpoint."


def extract_then_checkpoint(answer: Callable[[float, int, float], Sequence[Stage]]) -> str:
    """`answer(at_accuracy, steps, temperature)`: the stages of `custom_curriculum`: extract, checkpoint, final output."""
    hint = (
        "TeacherHidden(), then TeacherOutput(at_accuracy=..., temperature=...), then TeacherOutput(temperature=...): "
        "a Stage for each, the first two with `steps`"
    )
    name, at, steps = "extract_then_checkpoint", 0.8, 300
    for temperature in (0.0, 2.0):
        on = f"at_accuracy={at}, steps={steps}, temperature={temperature:g}"
        given = _stages(name, attempt(answer, at, steps, temperature, hint=hint, on=on), hint)
        *blocks, final = extracted(steps, temperature=temperature).for_blocks(N_BLOCKS).stages
        checkpoint = progressive([at], steps, temperature).stages[0]
        right = _told([*blocks, checkpoint, final])
        mistakes = {
            "the checkpoint should come after the hidden layer, not first": _told([checkpoint, *blocks, final]),
            "the checkpoint is missing: this is the extracted curriculum": _told([*blocks, final]),
            "the hidden layer is missing: this is the progressive curriculum": _told([checkpoint, final]),
            "the final output is missing: the last thing shown would be wrong answers": _told([*blocks, checkpoint]),
            "block 2 is missing: without a number, TeacherHidden() stands for each block in turn": (
                _told([blocks[0], checkpoint, final])
            ),
            "the temperature is not passed on to both outputs": [
                stage.replace(f"temperature {temperature:g}", "temperature 1") for stage in right
            ],
        }
        same_values(name, _told(given), right, hint, mistakes)
    return "Right: three existing targets in a new order. No trainer had to change."


def _stages(name: str, given: Sequence[Stage], hint: str) -> Sequence[Stage]:
    """The stages that make a curriculum, with every block written out."""
    if not isinstance(given, list | tuple) or not all(isinstance(stage, Stage) for stage in given):
        raise refusal(name, "this is not a list of stages", hint, "a list of Stage(target=..., steps=...)", repr(given))
    try:
        return Curriculum(stages=tuple(given)).for_blocks(N_BLOCKS).stages
    except PwlLabError as error:
        raise refusal(name, f"these stages do not form a curriculum: {error}", hint) from error


def _told(stages: Sequence[Stage]) -> list[str]:
    """Each stage in words."""
    words = []
    for stage in stages:
        says = f", temperature {stage.target.temperature:g}" if isinstance(stage.target, TeacherOutput) else ""
        words.append(f"{stage.target}{says}, {stage.steps or 'to the end'}")
    return words


def _wrong_stages(name: str, right: list[str]) -> dict[str, list[str]]:
    """What the usual mistakes look like in words."""
    mistakes = {
        "the final output is missing: the student would never be shown the teacher's decision": right[:-1],
        "ask the teacher for hard decisions: temperature=0": [
            stage.replace("temperature 0", "temperature 1") for stage in right
        ],
        "the stages are in reverse order": right[::-1],
        "the last stage needs no length: it lasts until the end": [
            stage.replace("to the end", "300") for stage in right
        ],
    }
    if name == "extracted":
        first, second, last = right
        mistakes["hidden states come shallow to deep: block 1, then block 2"] = [second, first, last]
        mistakes["block 2 is missing: each block has its own stage"] = [first, last]
        mistakes["block 1 is missing: each block has its own stage"] = [second, last]
    if name == "progressive":
        mistakes["the checkpoint is missing: this is one-shot"] = right[-1:]
    return mistakes


def projected_target(answer: Callable[[Tensor, Tensor], Float[Tensor, "batch r"]]) -> str:
    """`answer(state, matrix)`: `P^T h`, centred unit by unit and scaled by one factor to standard deviation 1."""
    hint = "state @ matrix; minus its mean over the batch (one mean per unit); over the standard deviation of all units together"
    random = generator(0, "projection")
    state = torch.relu(torch.randn(500, 10, generator=random) * torch.arange(1.0, 11) + 1)
    matrix = random_projection(10, 3, seed=0)
    raw = state @ matrix
    centred = raw - raw.mean(dim=0)
    spread = centred.square().mean().sqrt()
    mistakes = {
        "neither centred nor scaled": raw,
        "centred, but not scaled: divide by the standard deviation": centred,
        "scaled, but not centred: subtract the mean of each unit": raw / raw.std(),
        "one mean for all units: subtract each unit's own": (raw - raw.mean()) / (raw - raw.mean()).std(),
        "each unit has its own factor, which amplifies the quiet ones: use one factor for all": (
            centred / centred.square().mean(dim=0).sqrt()
        ),
        "this is centred over the units of each sample; a unit is centred over the batch": (
            (raw - raw.mean(dim=1, keepdim=True)) / (raw - raw.mean(dim=1, keepdim=True)).std()
        ),
        "centred, and divided by the standard deviation before centring: measure it afterwards": centred / raw.std(),
        "divided by the variance: take its square root": centred / spread**2,
        "the shape is (units, batch): hidden states have the batch first": (centred / spread).T,
    }
    found = attempt(answer, state, matrix, hint=hint, on="500 states of 10 units and a matrix of 10 x 3")
    right = Projection.fit(matrix.unsqueeze(0), state)(state)[0]
    same_numbers("projected_target", found, right, hint, mistakes, tolerance=5e-3)  # n or n - 1 are both fine
    return "Right: the target of the extracted curriculum's first stage, computed from the final teacher alone."


def teacher_says(answer: Callable[[Tensor, float], Float[Tensor, "batch classes"]]) -> str:
    """`answer(logits, temperature)`: the softened probabilities; at temperature 0 the hard decision, one-hot."""
    hint = "softmax of logits / temperature; at temperature 0 a 1 at the largest logit and 0 elsewhere"
    logits = torch.tensor([[2.0, -1.0], [0.3, 0.5], [-4.0, 1.0]])
    for temperature in (4.0, 1.0, 0.0):
        found = attempt(answer, logits, temperature, hint=hint, on=f"temperature {temperature:g}")
        divided = temperature or 1.0
        mistakes = {
            "the temperature multiplies the logits: divide by it": (logits * divided).softmax(dim=1),
            "the temperature is not used": logits.softmax(dim=1),
            "these are logits over the temperature: the softmax is missing": logits / divided,
            "softmax over the batch: probabilities add up to 1 over the classes of each sample": (
                (logits / divided).softmax(dim=0)
            ),
            "logits / 0 has no softmax: treat temperature 0 separately": torch.full_like(logits, torch.nan),
            "this is the index of the decision: give it as one-hot probabilities": logits.argmax(dim=1),
        }
        right = teacher_probabilities(logits, temperature)
        same_numbers(f"teacher_says at temperature {temperature:g}", found, right, hint, mistakes)
    return "Right: at temperature 0 the output of a teacher that is always right is the label, and says nothing more."
