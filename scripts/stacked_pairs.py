"""Pairs of MLPs of two blocks on sparse parity, many of them trained side by side: the engine of `parity_pairs.py`.

The parameters of all networks are stacked along a first dimension, so that a layer of all of them is one batched product.
Each has its own task, stream, learning rate and clipped gradient. One of them, alone, is trained as `pwl_lab.swap` would
(the tests compare step by step).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pwl_lab.support.seeding import generator

K = 4
TEACHER_WIDTH, STUDENT_WIDTH, BATCH, EVERY, EVALUATED = 256, 64, 32, 20, 4096
MOMENTUM, CLIP, TEACHER_LR = 0.9, 2.0, 0.05
BEHIND = ("cross", "cross_st", "pwl")  # terms that go through the teacher's own second block
Layers = dict[str, Tensor]  # name -> (networks, ...)


@dataclass(frozen=True)
class Arm:
    """An extra term, when it acts, and whose hidden states it sees."""

    term: Literal["none", "hidden", "sync", "recon", "cross", "cross_ts", "cross_st", "pwl"]
    first: bool = False  # in a stage of its own, before the output; otherwise beside it, to the end
    untrained: bool = False  # the hidden states are of the teacher's initial network
    like: str = ""  # a control is not tuned: it has the setting of this arm


@dataclass(frozen=True)
class Setting:
    """What is tuned: learning rate, weight of the extra term, steps of the first stage (0 without one)."""

    lr: float
    weight: float = 0.0
    stage: int = 0


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
        self.stream = generator(min(draws), "data", "pair", device=device)
        self.evaluation = generator(min(draws), "evaluation", split, device=device)
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
    stream = generator(draws.members[0][1], "data", device=draws.device)  # not the students'
    for step in range(1, budget + 1):
        x = draws.inputs(BATCH, stream)[alive]
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
    stream, found = generator(0, "evaluation", "teacher", device=draws.device), []
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
        stream = generator(0, "data", "calibration", device=self.draws.device)
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
