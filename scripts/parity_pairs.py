"""Are PWL's extra losses curricula in the sense of sample complexity? The shipped table of notebook 05.

    PYTHONPATH=. python scripts/parity_pairs.py all --device cuda --processes 8 --budget-seconds 300 --out runs/parity_pairs

`teachers`, `tune` and `measure` are its three parts. Each finished point is a set of lines in `--out`; a second call goes
on with what is missing.

Design. Sparse parity with k = 4 over n = 20 to 60. MLPs of two hidden layers (two blocks, one boundary, mixed masks TS
and ST): the teacher 256 wide, trained until it makes no error and then with a falling learning rate, frozen; the student
64 wide; a linear encoder and decoder at the boundary. SGD, batch 32, momentum 0.9, gradients of student and converters
clipped together at norm 2, as PWL trains. Every arm has the teacher's hard decisions on the student's output (a saturated
teacher's soft output would say no more) and one extra term, either from the first step to the last ("beside") or for a
first stage that it has to itself ("first"). The endpoint is the number of samples until the *student alone* reaches 99%
of 4,096 test samples. The unit of resampling is a draw of (support, teacher, student, stream); learning rate, weight and
length of the first stage are chosen per arm on draws 100 to 107 at n = 30 and 60, and draws 0 to 15 are reported.

The question is the exponent: a term that only helps to optimise gains a factor, a curriculum lowers the power of n.

Expected, before the first run:
- one-shot, labels and recon: the same exponent. Recon shows the student nothing of the teacher: only its own state is
  converted there and back.
- extracted: the lowest exponent; its first stage hands over the support.
- sync: a curriculum too, although its targets move. The teacher's state must be decodable from the student's 64 units, so
  these have to carry the directions in which the teacher's state varies most, which are the support's. A lower exponent
  than one-shot's, nearer to extracted's; `sync first` no worse than `sync`.
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
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from pwl_lab.support.seeding import generator, stream_seed

SIZES, TUNED_AT, K = (20, 30, 40, 50, 60), (30, 60), 4
TUNING, REPORTED = tuple(range(100, 108)), tuple(range(16))
TEACHER_WIDTH, STUDENT_WIDTH, BATCH, EVERY, EVALUATED = 256, 64, 32, 20, 4096
MOMENTUM, CLIP = 0.9, 2.0
TEACHER = {"batch": 128, "lr": 0.05, "budget": 40_000, "settle": 2_000}
BUDGET = {"tune": 20_000, "measure": 80_000}  # steps
RATES, WEIGHTS, STAGES = (0.01, 0.02, 0.04, 0.08, 0.16), (0.3, 1.0, 3.0, 10.0), (100, 300, 1_000, 3_000)
Layers = dict[str, Tensor]  # name -> (networks, ...)


@dataclass(frozen=True)
class Arm:
    """An extra term, when it acts, and whose hidden states it sees."""

    term: Literal["none", "hidden", "sync", "recon", "cross", "cross_ts", "cross_st", "pwl"]
    first: bool = False  # in a stage of its own, before the output; otherwise beside it, to the end
    untrained: bool = False  # the hidden states are of the teacher's initial network
    labels: bool = False  # the true labels, not the teacher's decisions


ARMS = {  # the most valuable first
    "one_shot": Arm("none"),
    "extracted": Arm("hidden", first=True),
    "sync": Arm("sync"),
    "cross": Arm("cross"),
    "recon": Arm("recon"),
    "sync_first": Arm("sync", first=True),
    "cross_st": Arm("cross_st"),
    "cross_ts": Arm("cross_ts"),
    "sync_untrained": Arm("sync", untrained=True),
    "cross_untrained": Arm("cross", untrained=True),
    "hidden": Arm("hidden"),
    "pwl": Arm("pwl"),
    "extracted_untrained": Arm("hidden", first=True, untrained=True),
    "labels": Arm("none", labels=True),
}


@dataclass(frozen=True)
class Setting:
    """What is tuned: learning rate, weight of the extra term, steps of the first stage (0 without one)."""

    lr: float
    weight: float = 0.0
    stage: int = 0


def grid(arm: Arm, smoke: bool) -> list[Setting]:
    """All settings that are tried for an arm."""
    rates, stages = (RATES[2:4], STAGES[:2]) if smoke else (RATES, STAGES)
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

    def labels(self, inputs: Tensor) -> Tensor:
        """1 if the product over the support is +1, else 0."""
        chosen = self.supports.unsqueeze(1).expand(-1, inputs.shape[1], -1)
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
    """What the losses of a step need, each (networks, batch, ...); `teacher` are the layers behind mask ST."""

    labels: Tensor
    teacher_states: tuple[Tensor, Tensor]
    hidden: Sequence[Tensor]
    teacher: Layers


def extra_term(term: str, student: Layers, ours: tuple[Tensor, Tensor, Tensor], seen: Seen) -> Tensor:
    """The extra term of every network, unweighted."""
    if term == "hidden":
        errors = [(mine - wanted).square().mean(dim=(1, 2)) for mine, wanted in zip(ours, seen.hidden, strict=False)]
        return torch.stack(errors).mean(dim=0)
    theirs, mine = seen.teacher_states[0], ours[0]
    encoded, decoded, terms = affine(student, "e", theirs), affine(student, "d", mine), []
    if term in ("sync", "pwl"):
        terms.append(distance(encoded, mine) + distance(decoded, theirs))
    if term in ("recon", "pwl"):
        terms.append(distance(affine(student, "d", encoded), theirs) + distance(affine(student, "e", decoded), mine))
    if term in ("cross", "cross_ts", "pwl"):
        terms.append(cross_entropy(from_boundary(student, encoded), seen.labels))
    if term in ("cross", "cross_st", "pwl"):
        terms.append(cross_entropy(from_boundary(seen.teacher, decoded), seen.labels))
    # In PWL's own sum cross counts twice and averages over its masks, so each of its two terms has the weight of sync.
    return torch.stack(terms).sum(dim=0) if term == "pwl" else torch.stack(terms).mean(dim=0)


class Sgd:
    """SGD with heavy-ball momentum, a learning rate and a clipped gradient norm for each of the stacked networks."""

    def __init__(self, layers: Layers, lr: Tensor, clip: float | None) -> None:
        """`lr` is of each network; `clip` is the largest gradient norm of one."""
        self.layers, self.lr, self.clip = layers, lr, clip
        self.momenta = [torch.zeros_like(one) for one in layers.values()]

    def step(self, loss: Tensor) -> None:
        """`loss` is of each network; none depends on another's parameters, so their sum has all gradients."""
        found = torch.autograd.grad(loss.sum(), list(self.layers.values()), allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.layers.values(), strict=True)]
        with torch.no_grad():
            scale = torch.ones_like(self.lr)
            if self.clip is not None:
                squares = torch.stack([one.square().sum(dim=(1, 2)) for one in gradients]).sum(dim=0)
                scale = (self.clip / (squares.sqrt() + 1e-6)).clamp(max=1.0)
            for weights, momentum, gradient in zip(self.layers.values(), self.momenta, gradients, strict=True):
                momentum.mul_(MOMENTUM).add_(gradient * scale.view(-1, 1, 1))
                weights.sub_(momentum * self.lr.view(-1, 1, 1))


def repeated(step: Callable[[Tensor], None], shown: Tensor, state: Sequence[Tensor]) -> Callable[[], None]:
    """`step` on each slice of `shown`, which the caller refills; on a GPU as one CUDA graph.

    `state` is everything that a step changes: recording the graph needs steps that must not count.
    """

    def steps() -> None:
        for inputs in shown:
            step(inputs)

    if not shown.is_cuda:
        return steps
    kept, side = [one.detach().clone() for one in state], torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for inputs in shown[:2]:
            step(inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        steps()
    with torch.no_grad():
        for one, before in zip(state, kept, strict=True):
            one.copy_(before)
    return graph.replay


def trainable(layers: Layers) -> Layers:
    """Leaves of their own."""
    return {name: one.detach().clone().requires_grad_() for name, one in layers.items()}


def many(values: Tensor, times: int) -> Tensor:
    """Each member's values once per setting: (members, ...) -> (settings * members, ...)."""
    return values.expand(times, *values.shape).reshape(times * len(values), *values.shape[1:])


@torch.no_grad()
def accuracy(net: Layers, draws: Draws, times: int) -> Tensor:
    """Of every network alone, on its member's evaluation samples."""
    right = []
    for part in draws.test.split(1024, dim=1):
        logits = states(net, many(part, times))[2]
        right.append((logits.argmax(-1) == many(draws.labels(part), times)).float())
    return torch.cat(right, dim=1).mean(dim=1)


def train_teachers(draws: Draws, budget: int, settle: int) -> tuple[Layers, Tensor, Tensor]:
    """Teachers, their accuracy, and the step at which each made no error (0: never). Its rate falls to zero after that."""
    net = trainable(draws.initial(TEACHER_WIDTH, "init", "bits"))
    lr = torch.full((len(draws),), float(TEACHER["lr"]), device=draws.device)
    sgd, arrived = Sgd(net, lr, clip=None), torch.zeros(len(draws), dtype=torch.long, device=draws.device)
    shown = draws.inputs(EVERY * int(TEACHER["batch"]), draws.stream).unflatten(1, (EVERY, -1)).transpose(0, 1)
    shown = shown.contiguous()
    advance = repeated(
        lambda x: sgd.step(cross_entropy(states(net, x)[2], draws.labels(x))), shown, [*net.values(), *sgd.momenta]
    )
    for step in range(EVERY, budget + 1, EVERY):
        advance()
        arrived = torch.where((arrived == 0) & (accuracy(net, draws, 1) == 1), step, arrived)
        left = torch.where(arrived > 0, 1 - (step - arrived) / settle, 1.0).clamp(min=0)
        lr.copy_(TEACHER["lr"] * left)
        if not left.any():
            break
        fresh = draws.inputs(EVERY * int(TEACHER["batch"]), draws.stream)
        shown.copy_(fresh.unflatten(1, (EVERY, -1)).transpose(0, 1))
    rounded = {name: one.detach().half().float() for name, one in net.items()}  # as they are kept
    return rounded, accuracy(rounded, draws, 1), arrived


class Pairs:
    """The pairs of one arm: every setting for every draw, trained side by side."""

    def __init__(self, arm: Arm, draws: Draws, teacher: Layers, settings: Sequence[Sequence[Setting]]) -> None:
        """`settings` are lists of one setting per member."""
        self.arm, self.draws, self.teacher, self.times = arm, draws, teacher, len(settings)
        self.shown_by = draws.initial(TEACHER_WIDTH, "init", "bits") if arm.untrained else teacher
        self.settings = [one for row in settings for one in row]
        net = draws.initial(STUDENT_WIDTH, "student", "bits")
        with_converters = arm.term not in ("none", "hidden")
        net |= draws.converters() if with_converters else {}
        self.student = trainable({name: many(one, self.times) for name, one in net.items()})
        self.behind = {name: many(one, self.times) for name, one in self.shown_by.items() if name[1] in "23"}
        lr, self.weight, self.stage = (self._each(key) for key in ("lr", "weight", "stage"))
        self.sgd = Sgd(self.student, lr, CLIP)
        self.done = torch.zeros(1, device=draws.device)  # steps
        if arm.term == "hidden":
            self._fit_projections()

    def _each(self, key: str) -> Tensor:
        return torch.tensor([float(getattr(one, key)) for one in self.settings], device=self.draws.device)

    def _fit_projections(self) -> None:
        """Centre and scale as `pwl_lab.distill.targets.Projection.fit`."""
        matrices = self.draws.projections()
        stream = torch.Generator(self.draws.device).manual_seed(stream_seed(0, "data", "calibration"))
        raw = [
            s @ matrix
            for s, matrix in zip(states(self.shown_by, self.draws.inputs(4096, stream)), matrices, strict=False)
        ]
        means = [one.mean(dim=1, keepdim=True) for one in raw]
        factors = [1 / (r - m).square().mean(dim=(1, 2), keepdim=True).sqrt() for r, m in zip(raw, means, strict=True)]
        self.projections = [matrix * factor for matrix, factor in zip(matrices, factors, strict=True)]
        self.offsets = [mean * factor for mean, factor in zip(means, factors, strict=True)]

    def seen(self, x: Tensor) -> Seen:
        """Labels and the teacher's states for a batch, (members, batch, n); the teacher is run once for all settings."""
        with torch.no_grad():
            decided = states(self.teacher, x)
            shown = states(self.shown_by, x) if self.arm.untrained else decided
            labels = self.draws.labels(x) if self.arm.labels else decided[2].argmax(-1)
            hidden: list[Tensor] = []
            if self.arm.term == "hidden":
                projected = zip(shown, self.projections, self.offsets, strict=False)
                hidden = [many(s @ matrix - offset, self.times) for s, matrix, offset in projected]
            first, second = (many(one, self.times) for one in shown[:2])
            return Seen(many(labels, self.times), (first, second), hidden, self.behind)

    def losses(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output's loss and the extra term of every network, unweighted."""
        seen, ours = self.seen(x), states(self.student, many(x, self.times))
        output = cross_entropy(ours[2], seen.labels)
        extra = (
            torch.zeros_like(output) if self.arm.term == "none" else extra_term(self.arm.term, self.student, ours, seen)
        )
        return output, extra

    def step(self, x: Tensor) -> None:
        """One step of every network."""
        output, extra = self.losses(x)
        early = (self.done < self.stage).float()
        self.sgd.step(
            torch.where(early > 0, self.weight * extra, output) if self.arm.first else output + self.weight * extra
        )
        self.done.add_(1)

    def run(self, budget: int, enough: Callable[[Tensor, int], bool]) -> tuple[Tensor, Tensor, int]:
        """Train until all are there, `enough` says so, or the budget is spent.

        Returns the step at which each student alone reached 99% (0: not), its last accuracy, and the steps that were run.
        """
        size = EVERY * BATCH
        shown = self.draws.inputs(size, self.draws.stream).unflatten(1, (EVERY, -1)).transpose(0, 1).contiguous()
        advance = repeated(self.step, shown, [*self.student.values(), *self.sgd.momenta, self.done])
        reached = torch.zeros(len(self.settings), dtype=torch.long, device=self.draws.device)
        for step in range(EVERY, budget + 1, EVERY):
            advance()
            right = accuracy(self.student, self.draws, self.times)
            reached = torch.where((reached == 0) & (right >= 0.99), step, reached)
            if step == budget or (step % (5 * EVERY) == 0 and (bool(reached.all()) or enough(reached, step))):
                break
            shown.copy_(self.draws.inputs(size, self.draws.stream).unflatten(1, (EVERY, -1)).transpose(0, 1))
        return reached.cpu(), right.cpu(), step


def _teacher_path(out: Path, part: str) -> Path:
    return out / f"teachers_{part}.safetensors"


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def _draws(part: str, smoke: bool, device: str) -> Draws:
    if smoke:
        return Draws((12, 16), (100, 101) if part == "tune" else (0, 1), device)
    tuned = part == "tune"
    return Draws(TUNED_AT if tuned else SIZES, TUNING if tuned else REPORTED, device, "validation" if tuned else "test")


def make_teachers(part: str, asked: argparse.Namespace) -> None:
    """The teachers of the tuning draws or of the reported ones, unless they are there."""
    if _teacher_path(asked.out, part).exists():
        return
    begun, draws = time.monotonic(), _draws(part, asked.smoke, asked.device)
    plan = (2_000, 100) if asked.smoke else (int(TEACHER["budget"]), int(TEACHER["settle"]))
    net, right, arrived = train_teachers(draws, *plan)
    save_file({name: one.half().contiguous().cpu() for name, one in net.items()}, _teacher_path(asked.out, part))
    found = zip(draws.members, right.tolist(), arrived.tolist(), strict=True)
    rows = [{"n": n, "draw": draw, "accuracy": a, "arrived": at} for (n, draw), a, at in found]
    _append(asked.out / f"teachers_{part}.jsonl", rows)
    print(
        f"teachers {part}: least {right.min():.4f}, last at {arrived.max()}, {time.monotonic() - begun:.0f} s",
        flush=True,
    )


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
    # The labels are the decisions of a teacher that makes no error: the same setting.
    tuned = chosen(_lines(asked.out / "tune.jsonl"), "one_shot" if name == "labels" else name)
    return [[between(tuned, n) for n, _ in draws.members]]


def run_point(point: tuple[str, str], asked: argparse.Namespace) -> None:
    """One arm, tuned or measured: a line for every network."""
    (part, name), begun = point, time.monotonic()
    draws = _draws(part, asked.smoke, asked.device)
    teacher = {key: one.float().to(asked.device) for key, one in load_file(_teacher_path(asked.out, part)).items()}
    settings = _settings(name, part, draws, asked)
    pairs = Pairs(ARMS[name], draws, teacher, settings)

    def enough(reached: Tensor, step: int) -> bool:
        """In tuning, once every size has a setting that took half of this for all draws; and when the time is over."""
        if time.time() > asked.until:
            return True
        by_size = reached.view(len(settings), -1, len({draw for _, draw in draws.members}))
        worst = torch.where(by_size > 0, by_size, 10 * step).amax(dim=2)  # (settings, sizes)
        return part == "tune" and bool((worst.amin(dim=0) <= step / 2).all())

    budget = 400 if asked.smoke else BUDGET[part]
    reached, right, ran = pairs.run(budget, enough)
    finished, seconds = time.time() <= asked.until or bool((reached > 0).all()), time.monotonic() - begun
    members = draws.members * len(settings)
    rows = [
        {"arm": name, "n": n, "draw": draw, **asdict(setting), "steps": at or None, "samples": at * BATCH or None}
        | {"ran": ran, "accuracy": round(last, 4), "finished": finished}
        for (n, draw), setting, at, last in zip(members, pairs.settings, reached.tolist(), right.tolist(), strict=True)
    ]
    _append(asked.out / f"{part}{'' if finished else '_cut'}.jsonl", rows)
    done = f"{int((reached > 0).sum())} of {len(rows)} there"
    print(f"{part} {name}: {done}, {ran} steps, {ran / seconds:.0f} steps/s, finished {finished}", flush=True)


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
    tuned = {row["arm"] for row in _lines(asked.out / "tune.jsonl")} | {"labels"}
    wanted = [n for n in names if n not in have and (n != "labels" if part == "tune" else n in tuned)]
    todo = context.Queue()
    for name in wanted:
        todo.put((part, name))
    time.sleep(0.5)  # the queue is filled by a thread
    workers = [context.Process(target=work, args=(todo, asked)) for _ in range(min(asked.processes, len(wanted)))]
    for one in workers:
        one.start()
    for one in workers:
        one.join()


def main() -> None:
    """Make one part of the table, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["teachers", "tune", "measure", "all"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--budget-seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=Path("runs/parity_pairs"))
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
