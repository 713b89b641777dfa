"""Are PWL's extra losses curricula in the sense of sample complexity? The shipped table of notebook 05.

    python scripts/parity_pairs.py all --out runs/parity_pairs     # teachers, tune, measure; --help has sizes and draws
    python scripts/parity_pairs.py ship --out runs/parity_pairs    # into data/results/

An arm is a point: finished ones are lines in `--out`, and a second call goes on with what is missing.

Design. Sparse parity, k = 4. MLPs of two hidden layers (two blocks, one boundary, mixed masks TS and ST): the teacher 128
wide, trained until it makes no error in 4,096 samples, then 500 steps of a falling learning rate, and frozen; the student
64 wide; a linear encoder and decoder at the boundary. SGD, batch 32, momentum 0.9, gradients of student and converters
clipped together at norm 2, as PWL trains. Every arm has the teacher's hard decisions on the student's output and one
extra term, from the first step to the last ("beside") or in a stage of its own before the output ("first"). The decisions
are those of a teacher that makes no error, so they are computed as the labels; `teachers_*.jsonl` has its errors in 65,536
samples. The endpoint is the number of samples until the *student alone* reaches 99% of 4,096 test samples. The unit of
resampling is a draw of (support, teacher, student, stream). Learning rate, weight and first stage are chosen per arm on
draws 100 to 103 at n = 30; draws from 0 are reported. Controls are not tuned, they have the setting of their original.

The question is the exponent: a term that only helps to optimise gains a factor, a curriculum lowers the power of n.

Expected, before the first run:
- one-shot and recon: the same exponent. Recon shows the student nothing of the teacher: only its own state is converted
  there and back.
- extracted: the lowest exponent; its first stage hands over the support.
- sync: a curriculum too, although its targets move. The teacher's state must be decodable from the student's 64 units, so
  these have to carry the directions in which the teacher's state varies most, which are the support's. A lower exponent
  than one-shot's, nearer to extracted's.
- cross with hard decisions: the labels travel through the teacher's frozen second block, so gradients can leak hidden
  structure (mask ST); mask TS trains only the student's second block, on states that solve the task already. Expected: TS
  alone about one-shot's exponent, ST alone somewhat lower, both between one-shot and sync.
- the same losses with the teacher's *untrained* network (its decisions still those of the trained one): one-shot's
  exponent. If one of them gains as much as with the trained teacher, the gain is not the teacher's hidden structure.
"""

import argparse
import json
import math
import multiprocessing as mp
import queue
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from pwl_lab.support.seeding import generator, stream_seed

K, TUNING = 4, tuple(range(100, 104))
TEACHER_WIDTH, STUDENT_WIDTH, BATCH, EVERY, EVALUATED = 128, 64, 32, 20, 4096
MOMENTUM, CLIP = 0.9, 2.0
TEACHER_LR, TEACHER_BUDGET, SETTLE = 0.05, 20_000, 500
BUDGET = 10_000  # steps of a pair
RATES, WEIGHTS, STAGES = (0.04, 0.08, 0.16), (1.0, 3.0), (100, 300)
BEHIND = ("cross", "cross_st", "pwl")  # terms that go through the teacher's own second block
Layers = dict[str, Tensor]  # name -> (networks, ...)


@dataclass(frozen=True)
class Arm:
    """An extra term, when it acts, and whose hidden states it sees."""

    term: Literal["none", "hidden", "sync", "recon", "cross", "cross_ts", "cross_st", "pwl"]
    first: bool = False  # in a stage of its own, before the output; otherwise beside it, to the end
    untrained: bool = False  # the hidden states are of the teacher's initial network
    like: str = ""  # a control is not tuned: it has the setting of this arm


ARMS = {  # the most valuable first
    "one_shot": Arm("none"),
    "extracted": Arm("hidden", first=True),
    "sync": Arm("sync"),
    "cross": Arm("cross"),
    "cross_untrained": Arm("cross", untrained=True, like="cross"),
    "sync_untrained": Arm("sync", untrained=True, like="sync"),
    "recon": Arm("recon", like="one_shot"),
    "cross_st": Arm("cross_st", like="cross"),
    "cross_ts": Arm("cross_ts", like="cross"),
    "pwl": Arm("pwl"),
    "hidden": Arm("hidden"),
    "sync_first": Arm("sync", first=True),
    "extracted_untrained": Arm("hidden", first=True, untrained=True, like="extracted"),
}


@dataclass(frozen=True)
class Setting:
    """What is tuned: learning rate, weight of the extra term, steps of the first stage (0 without one)."""

    lr: float
    weight: float = 0.0
    stage: int = 0


def grid(arm: Arm, smoke: bool) -> list[Setting]:
    """All settings that are tried for an arm."""
    rates, stages = (RATES[:2], STAGES) if smoke else (RATES, STAGES)
    if arm.term == "none":
        return [Setting(lr) for lr in rates]
    if arm.first:
        return [Setting(lr, weight, stage) for lr, weight, stage in product(rates, (1.0, 5.0), stages)]
    return [Setting(lr, weight) for lr, weight in product(rates, WEIGHTS[1:2] if smoke else WEIGHTS)]


class Draws:
    """Tasks side by side, one per (n, draw): support, streams and evaluation samples, all padded to the largest n."""

    def __init__(self, sizes: Sequence[int], draws: Sequence[int], device: str, split: str = "test") -> None:
        """`split` is `validation` or `test`."""
        self.members = [(n, draw) for n in sizes for draw in draws]
        self.n, self.device = max(sizes), device
        supports = [
            torch.randperm(n, generator=generator(draw, "support", f"bits {n}"))[:K] for n, draw in self.members
        ]
        self.supports = torch.stack(supports).to(device)  # (members, k)
        self.real = torch.tensor([[bit < n for bit in range(self.n)] for n, _ in self.members], device=device)
        self.stream = torch.Generator(device).manual_seed(stream_seed(min(draws), "data", "pair"))
        self.evaluation = torch.Generator(device).manual_seed(stream_seed(min(draws), "evaluation", split))
        self.test = self.inputs(EVALUATED, self.evaluation)

    def __len__(self) -> int:
        """How many tasks."""
        return len(self.members)

    def inputs(self, samples: int, stream: torch.Generator) -> Tensor:
        """Fresh signs, (members, samples, n); zero where a task has fewer bits."""
        shape = (len(self), samples, self.n)
        bits = torch.randint(0, 2, shape, generator=stream, device=self.device, dtype=torch.int8)
        return (bits.float() * 2 - 1) * self.real.unsqueeze(1)

    def labels(self, inputs: Tensor, tasks: Tensor | None = None) -> Tensor:
        """1 if the product over the support is +1, else 0; for all tasks, or for those that `inputs` are of."""
        supports = self.supports if tasks is None else self.supports[tasks]
        chosen = supports.unsqueeze(1).expand(-1, inputs.shape[1], -1)
        return (inputs.gather(2, chosen).prod(dim=2) > 0).long()

    def initial(self, width: int, name: str, role: str) -> Layers:
        """Networks of two hidden layers with PyTorch's own initial weights, one per member."""
        made = []
        for n, draw in self.members:
            random = generator(draw, name, f"{role} {n}")
            shapes = {"1": (n, width), "2": (width, width), "3": (width, 2)}
            one = linear_layers(shapes, random)
            one["w1"] = F.pad(one["w1"], (0, 0, 0, self.n - n))  # inputs beyond n are zero
            made.append(one)
        return {key: torch.stack([one[key] for one in made]).to(self.device) for key in made[0]}

    def converters(self) -> Layers:
        """An encoder (teacher -> student) and a decoder per member."""
        made = []
        for n, draw in self.members:
            random = generator(draw, "converters", f"bits {n}")
            shapes = {"e": (TEACHER_WIDTH, STUDENT_WIDTH), "d": (STUDENT_WIDTH, TEACHER_WIDTH)}
            made.append(linear_layers(shapes, random))
        return {key: torch.stack([one[key] for one in made]).to(self.device) for key in made[0]}

    def projections(self) -> Tensor:
        """A Gaussian matrix for each member and both blocks, (2, members, teacher, student), entries of variance 1/m."""
        made = [
            [torch.randn(TEACHER_WIDTH, STUDENT_WIDTH, generator=generator(draw, "projection", f"block {block}"))]
            for block in (1, 2)
            for _, draw in self.members
        ]
        stacked = torch.cat([torch.stack(one) for one in made]) / TEACHER_WIDTH**0.5
        return stacked.view(2, len(self), TEACHER_WIDTH, STUDENT_WIDTH).to(self.device)


def linear_layers(shapes: Mapping[str, tuple[int, int]], random: torch.Generator) -> Layers:
    """Weights (in, out) and biases (1, out), uniform as `torch.nn.Linear` has them."""
    wanted = {
        f"{kind}{at}": (ins if kind == "w" else 1, outs, ins) for at, (ins, outs) in shapes.items() for kind in "wb"
    }
    return {name: (torch.rand(a, b, generator=random) * 2 - 1) / ins**0.5 for name, (a, b, ins) in wanted.items()}


def affine(layers: Layers, at: str, x: Tensor) -> Tensor:
    """A linear layer of every network, (networks, batch, in) -> (networks, batch, out)."""
    return torch.baddbmm(layers[f"b{at}"], x, layers[f"w{at}"])


def states(net: Layers, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The hidden states after both blocks, and the logits."""
    first = affine(net, "1", x).relu()
    second = affine(net, "2", first).relu()
    return first, second, affine(net, "3", second)


def from_boundary(net: Layers, first: Tensor) -> Tensor:
    """The logits, from the hidden state after block 1."""
    return affine(net, "3", affine(net, "2", first).relu())


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of every network, averaged over its batch."""
    return -logits.log_softmax(-1).gather(2, labels.unsqueeze(2)).mean(dim=(1, 2))


def distance(a: Tensor, b: Tensor) -> Tensor:
    """`pwl_lab.swap.pair_training.feature_distance` of every network."""
    return (a - b).square().mean(dim=(1, 2)) + 1 - F.cosine_similarity(a, b, dim=2, eps=1e-6).mean(dim=1)


@dataclass
class Seen:
    """What the losses of a step need, each (networks, batch, ...): labels, the teacher's state after block 1 and its
    projected states, as far as the term needs them; `behind` are the teacher's layers, for mask ST.
    """

    labels: Tensor
    first: Tensor | None
    hidden: Sequence[Tensor]
    behind: Layers


def extra_term(term: str, student: Layers, ours: tuple[Tensor, Tensor, Tensor], seen: Seen) -> Tensor:
    """The extra term of every network, unweighted."""
    if term == "hidden":
        errors = [(mine - wanted).square().mean(dim=(1, 2)) for mine, wanted in zip(ours, seen.hidden, strict=False)]
        return torch.stack(errors).mean(dim=0)
    theirs, mine = seen.first, ours[0]
    assert theirs is not None
    encoded, decoded, terms = affine(student, "e", theirs), affine(student, "d", mine), []
    if term in ("sync", "pwl"):
        terms.append(distance(encoded, mine) + distance(decoded, theirs))
    if term in ("recon", "pwl"):
        terms.append(distance(affine(student, "d", encoded), theirs) + distance(affine(student, "e", decoded), mine))
    if term in ("cross", "cross_ts", "pwl"):
        terms.append(cross_entropy(from_boundary(student, encoded), seen.labels))
    if term in ("cross", "cross_st", "pwl"):
        terms.append(cross_entropy(from_boundary(seen.behind, decoded), seen.labels))
    # In PWL's own sum cross counts twice and averages over its masks, so each of its two terms has the weight of sync.
    return torch.stack(terms).sum(dim=0) if term == "pwl" else torch.stack(terms).mean(dim=0)


class Sgd:
    """SGD with heavy-ball momentum, a learning rate and a clipped gradient norm for each of the stacked networks."""

    def __init__(self, layers: Layers, lr: Tensor, clip: float) -> None:
        """`lr` is of each network; `clip` is the largest gradient norm of one."""
        self.layers, self.lr, self.clip = layers, lr, clip
        self.momenta = [torch.zeros_like(one) for one in layers.values()]

    def step(self, loss: Tensor) -> None:
        """`loss` is of each network; none depends on another's parameters, so their sum has all gradients."""
        found = torch.autograd.grad(loss.sum(), list(self.layers.values()), allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.layers.values(), strict=True)]
        with torch.no_grad():
            norms = torch.stack([torch.linalg.vector_norm(one, dim=(1, 2)) for one in gradients])
            scale = (self.clip / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0).view(-1, 1, 1)
            for weights, momentum, gradient in zip(self.layers.values(), self.momenta, gradients, strict=True):
                momentum.mul_(MOMENTUM).addcmul_(gradient, scale)
                weights.addcmul_(momentum, self.lr.view(-1, 1, 1), value=-1)

    def part(self, staying: Tensor) -> "Sgd":
        """Some of the networks, with their momenta; `staying` is a mask."""
        found = Sgd(trainable({name: one[staying] for name, one in self.layers.items()}), self.lr[staying], self.clip)
        found.momenta = [one[staying] for one in self.momenta]
        return found


def trainable(layers: Layers) -> Layers:
    """Leaves of their own."""
    return {name: one.detach().clone().requires_grad_() for name, one in layers.items()}


@torch.no_grad()
def accuracy(net: Layers, draws: Draws, owner: Tensor) -> Tensor:
    """Of every network alone, on its task's evaluation samples; those far from 99% on a few of these are not run on all."""
    found = _share_right(net, draws, owner, draws.test[:, :256])
    close = (found > 0.95).nonzero()[:, 0]
    if len(close):
        some = {name: one[close] for name, one in net.items()}
        found[close] = _share_right(some, draws, owner[close], draws.test)
    return found


def _share_right(net: Layers, draws: Draws, owner: Tensor, samples: Tensor) -> Tensor:
    labels = draws.labels(samples)[owner]
    logits = states(net, samples[owner])[2]
    return (logits.argmax(-1) == labels).float().mean(dim=1)


def train_teachers(draws: Draws, budget: int, settle: int) -> tuple[Layers, Tensor]:
    """Teachers, and the step at which each made no error (0: never); its learning rate falls to zero after that."""
    net, alive = trainable(draws.initial(TEACHER_WIDTH, "init", "bits")), torch.arange(len(draws), device=draws.device)
    done, arrived = {name: one.detach().clone() for name, one in net.items()}, torch.zeros_like(alive)
    sgd = Sgd(net, torch.full((len(draws),), TEACHER_LR, device=draws.device), CLIP)
    for step in range(1, budget + 1):
        x = draws.inputs(BATCH, draws.stream)[alive]
        sgd.step(cross_entropy(states(sgd.layers, x)[2], draws.labels(x, alive)))
        if step % EVERY:
            continue
        right = accuracy(sgd.layers, draws, alive) == 1
        arrived[alive] = torch.where((arrived[alive] == 0) & right, step, arrived[alive])
        left = torch.where(arrived[alive] > 0, 1 - (step - arrived[alive]) / settle, 1.0).clamp(min=0)
        sgd.lr = TEACHER_LR * left
        if not left.all() or step == budget:
            for name, one in done.items():
                one[alive] = sgd.layers[name].detach()
            alive = alive[left > 0]
            sgd = sgd.part(left > 0)
        if not len(alive):
            break
    return {name: one.half().float() for name, one in done.items()}, arrived  # rounded, as they are kept


@torch.no_grad()
def errors(net: Layers, draws: Draws, batches: int = 16) -> Tensor:
    """The share of 65,536 fresh samples (16 batches of 4,096) that each network gets wrong."""
    stream, found = torch.Generator(draws.device).manual_seed(stream_seed(0, "evaluation", "teacher")), []
    for _ in range(batches):
        x = draws.inputs(4096, stream)
        found.append((states(net, x)[2].argmax(-1) != draws.labels(x)).float().mean(dim=1))
    return torch.stack(found).mean(dim=0)


class Pairs:
    """The pairs of one arm: every setting for every draw, trained side by side. Who is there leaves the stack."""

    def __init__(self, arm: Arm, draws: Draws, teacher: Layers, settings: Sequence[Sequence[Setting]]) -> None:
        """`settings` are lists of one setting per member."""
        self.arm, self.draws = arm, draws
        self.settings = [one for row in settings for one in row]
        self.owner = torch.arange(len(draws), device=draws.device).repeat(len(settings))  # network -> task
        self.shown = draws.initial(TEACHER_WIDTH, "init", "bits") if arm.untrained else teacher
        net = draws.initial(STUDENT_WIDTH, "student", "bits")
        net |= {} if arm.term in ("none", "hidden") else draws.converters()
        self.student = trainable({name: one[self.owner] for name, one in net.items()})
        lr, self.weight, self.stage = (self._each(key) for key in ("lr", "weight", "stage"))
        self.sgd, self.done = Sgd(self.student, lr, CLIP), 0  # steps
        if arm.term == "hidden":
            self._fit_projections()

    def _each(self, key: str) -> Tensor:
        return torch.tensor([float(getattr(one, key)) for one in self.settings], device=self.draws.device)

    def _fit_projections(self) -> None:
        """Centre and scale as `pwl_lab.distill.targets.Projection.fit`."""
        stream = torch.Generator(self.draws.device).manual_seed(stream_seed(0, "data", "calibration"))
        shown = states(self.shown, self.draws.inputs(4096, stream))
        self.projections, self.offsets = [], []
        for state, matrix in zip(shown, self.draws.projections(), strict=False):
            raw = state @ matrix
            mean = raw.mean(dim=1, keepdim=True)
            factor = 1 / (raw - mean).square().mean(dim=(1, 2), keepdim=True).sqrt()
            self.projections.append(matrix * factor)
            self.offsets.append(mean * factor)

    @torch.no_grad()
    def seen(self, x: Tensor) -> Seen:
        """Labels and the teacher's states for a batch (tasks, batch, n); a teacher is run once for all of its students."""
        tasks, where = self.owner.unique(return_inverse=True)
        x, shown = x[tasks], {name: one[tasks] for name, one in self.shown.items()}
        labels = self.draws.labels(x, tasks)[where]
        hidden: list[Tensor] = []
        if self.arm.term == "hidden":
            fitted = zip(states(shown, x), self.projections, self.offsets, strict=False)
            hidden = [(state @ matrix[tasks] - offset[tasks])[where] for state, matrix, offset in fitted]
        first = None if self.arm.term in ("none", "hidden") else affine(shown, "1", x).relu()[where]
        behind = {name: one[where] for name, one in shown.items()} if self.arm.term in BEHIND else {}
        return Seen(labels, first, hidden, behind)

    def losses(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output's loss and the extra term of every network, unweighted."""
        seen, ours = self.seen(x), states(self.student, x[self.owner])
        output = cross_entropy(ours[2], seen.labels)
        none = self.arm.term == "none"
        return output, torch.zeros_like(output) if none else extra_term(self.arm.term, self.student, ours, seen)

    def step(self, x: Tensor) -> None:
        """One step of every network."""
        output, extra = self.losses(x)
        beside = output + self.weight * extra
        self.sgd.step(torch.where(self.done < self.stage, self.weight * extra, output) if self.arm.first else beside)
        self.done += 1

    def keep(self, staying: Tensor) -> None:
        """Take all other networks out of the stack; `staying` is a mask."""
        self.sgd = self.sgd.part(staying)
        self.student = self.sgd.layers
        self.owner, self.weight, self.stage = (one[staying] for one in (self.owner, self.weight, self.stage))

    def run(self, budget: int, given_up: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, Tensor]:
        """Train each until it is there, `given_up` names it (a mask over all), or the budget is spent.

        Returns the step at which each student alone reached 99% (0: not), and the steps that it was trained.
        """
        reached = torch.zeros(len(self.settings), dtype=torch.long, device=self.draws.device)
        ran, alive = reached.clone(), torch.arange(len(reached), device=self.draws.device)
        while self.done < budget and len(alive):
            self.step(self.draws.inputs(BATCH, self.draws.stream))
            if self.done % EVERY:
                continue
            there = accuracy(self.student, self.draws, self.owner) >= 0.99
            reached[alive[there]], ran[alive] = self.done, self.done
            staying = ~there & ~given_up(reached, self.done)[alive]
            if not staying.all():
                self.keep(staying)
                alive = alive[staying]
        return reached.cpu(), ran.cpu()


def _teacher_path(out: Path, part: str) -> Path:
    return out / f"teachers_{part}.safetensors"


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def _draws(part: str, asked: argparse.Namespace) -> Draws:
    if asked.smoke:
        return Draws((12, 16), TUNING[:2] if part == "tune" else (0, 1), asked.device)
    if part == "tune":
        return Draws(asked.tuned_at, TUNING, asked.device, "validation")
    return Draws(asked.sizes, range(asked.draws), asked.device)


def make_teachers(part: str, asked: argparse.Namespace) -> None:
    """The teachers of the tuning draws or of the reported ones, unless they are there."""
    if _teacher_path(asked.out, part).exists():
        return
    begun, draws = time.monotonic(), _draws(part, asked)
    budget, settle = (2_000, 100) if asked.smoke else (TEACHER_BUDGET, SETTLE)
    net, arrived = train_teachers(draws, budget, settle)
    wrong = errors(net, draws).tolist()
    save_file({name: one.half().contiguous().cpu() for name, one in net.items()}, _teacher_path(asked.out, part))
    found = zip(draws.members, wrong, arrived.tolist(), strict=True)
    _append(
        asked.out / f"teachers_{part}.jsonl",
        [{"n": n, "draw": draw, "wrong": share, "arrived": at} for (n, draw), share, at in found],
    )
    minutes = (time.monotonic() - begun) / 60
    print(f"teachers {part}: most wrong {max(wrong):.6f}, last at {arrived.max()}, {minutes:.1f} minutes", flush=True)


def chosen(tuning: Sequence[Mapping[str, Any]], name: str) -> dict[int, Setting]:
    """Per size, the setting with the lowest geometric mean of steps over the tuning draws.

    Sizes that were not tuned lie between, or beyond, the nearest two: values go with a power of n.
    """
    found: dict[int, dict[Setting, list[float]]] = {}
    for row in tuning:
        if row["arm"] == name:
            setting = Setting(row["lr"], row["weight"], row["stage"])
            # Not reached counts as twice the steps that were run.
            found.setdefault(row["n"], {}).setdefault(setting, []).append(row["steps"] or 2 * row["ran"])
    return {n: min(tried, key=lambda one: (_log_mean(tried[one]), one.lr)) for n, tried in found.items()}


def _log_mean(values: Sequence[float]) -> float:
    return sum(map(math.log, values)) / len(values)


def between(tuned: Mapping[int, Setting], n: int) -> Setting:
    """The setting for n bits; each of its values is a power of n through the two tuned sizes."""
    low, high = min(tuned), max(tuned)
    if low == high or tuned[low] == tuned[high]:
        return tuned[low]
    share = min(1.0, max(0.0, math.log(n / low) / math.log(high / low)))  # below the smallest tuned size: as there

    def value(a: float, b: float) -> float:
        return math.exp((1 - share) * math.log(a) + share * math.log(b)) if a and b else a

    one, other = tuned[low], tuned[high]
    stage = round(value(one.stage, other.stage) / EVERY) * EVERY
    return Setting(value(one.lr, other.lr), value(one.weight, other.weight), stage)


def _settings(name: str, part: str, draws: Draws, asked: argparse.Namespace) -> list[list[Setting]]:
    if part == "tune":
        return [[one] * len(draws) for one in grid(ARMS[name], asked.smoke)]
    tuned = chosen(_lines(asked.out / "tune.jsonl"), ARMS[name].like or name)
    found = [between(tuned, n) for n, _ in draws.members]
    return [[one if ARMS[name].term == "none" else replace(one, weight=one.weight or 1.0) for one in found]]


def run_point(point: tuple[str, str], asked: argparse.Namespace) -> None:
    """One arm, tuned or measured: a line for every network."""
    (part, name), begun = point, time.monotonic()
    draws = _draws(part, asked)
    teacher = {key: one.float().to(asked.device) for key, one in load_file(_teacher_path(asked.out, part)).items()}
    settings = _settings(name, part, draws, asked)
    pairs = Pairs(ARMS[name], draws, teacher, settings)

    per_size = len({draw for _, draw in draws.members})

    def given_up(reached: Tensor, step: int) -> Tensor:
        """All when the time is over; in tuning, a size at which some setting took all draws two thirds of this or less."""
        if part == "measure" or time.time() > asked.until:
            return torch.full_like(reached, time.time() > asked.until, dtype=torch.bool)
        by_size = reached.view(len(settings), -1, per_size)
        worst = torch.where(by_size > 0, by_size, 2 * step).amax(dim=2)  # (settings, sizes)
        decided = worst.amin(dim=0) <= step / 1.5
        return decided.repeat_interleave(per_size).repeat(len(settings))

    reached, ran = pairs.run(400 if asked.smoke else BUDGET, given_up)
    cut, seconds = time.time() > asked.until and bool((reached == 0).any()), time.monotonic() - begun
    rows = [
        {"arm": name, "n": n, "draw": draw, **asdict(setting), "steps": at or None, "ran": steps}
        for (n, draw), setting, at, steps in zip(
            draws.members * len(settings), pairs.settings, reached.tolist(), ran.tolist(), strict=True
        )
    ]
    _append(asked.out / f"{part}{'_cut' if cut else ''}.jsonl", rows)
    done, per_second = int((reached > 0).sum()), int(ran.sum()) / seconds
    said = f"{done} of {len(rows)} there, {pairs.done} steps, {seconds:.0f} s, {per_second:.0f} network-steps/s"
    print(f"{part} {name}: {said}{', cut' if cut else ''}", flush=True)


def work(todo: Any, asked: argparse.Namespace) -> None:
    """A worker process: takes points until there are none or the time is over."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    while time.time() < asked.until:
        try:
            point = todo.get_nowait()
        except queue.Empty:
            return
        try:
            run_point(point, asked)
        except Exception:  # noqa: BLE001  # one arm less, not all that this worker would still do
            traceback.print_exc()


def run_points(part: str, asked: argparse.Namespace) -> None:
    """All arms of a part that are not finished, by several processes."""
    names = asked.arms.split(",") if asked.arms else list(ARMS)
    have = {row["arm"] for row in _lines(asked.out / f"{part}.jsonl")}
    context = mp.get_context("spawn")
    tuned = {row["arm"] for row in _lines(asked.out / "tune.jsonl")}
    names = [name for name in names if name not in have]
    if part == "tune":
        wanted = [name for name in names if not ARMS[name].like]
    else:
        wanted = [name for name in names if (ARMS[name].like or name) in tuned]
    todo = context.Queue()
    for name in wanted:
        todo.put((part, name))
    time.sleep(0.5)  # the queue is filled by a thread
    workers = [context.Process(target=work, args=(todo, asked)) for _ in range(min(asked.processes, len(wanted)))]
    for one in workers:
        one.start()
    for one in workers:
        one.join()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def main() -> None:
    """Make one part of the table, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["teachers", "tune", "measure", "all"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--budget-seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=Path("runs/parity_pairs"))
    parser.add_argument("--sizes", type=_numbers, default=(20, 30, 45), help="n of the reported draws")
    parser.add_argument("--tuned-at", type=_numbers, default=(30,), help="n of the tuning draws: one or two")
    parser.add_argument("--draws", type=int, default=8, help="reported draws per size")
    parser.add_argument("--arms", default="", help="some of the arms, separated by commas")
    parser.add_argument("--smoke", action="store_true", help="two small sizes, two draws, few steps")
    asked = parser.parse_args()
    asked.until = time.time() + asked.budget_seconds
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    if asked.part in ("teachers", "all"):
        for part in ("tune", "measure"):
            make_teachers(part, asked)
    for part in ("tune", "measure"):
        if asked.part in (part, "all"):
            run_points(part, asked)


if __name__ == "__main__":
    main()
