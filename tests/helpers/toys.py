"""Small tasks and networks for tests: real ones of the package wherever it has them, made without training."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from pwl_lab.distill.curriculum import Curriculum
from pwl_lab.distill.students import DistillationResult, distil_members
from pwl_lab.distill.targets import Member
from pwl_lab.models import BlockNet, LanguageTransformerConfig, MLPConfig, ResNetConfig, VGGConfig, ViTConfig, build
from pwl_lab.models.blocknet import ModelConfig
from pwl_lab.study.results import Pair
from pwl_lab.study.tables import mask_table
from pwl_lab.support.seeding import generator
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import IGNORED, Batch, Task
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import Checkpoint, TrainedModel, TrainPlan


class ToyImages(Task):
    """Noise over one of `n_classes` fixed patterns; a whole `Task` in a few lines."""

    def __init__(self, size: int = 7, n_classes: int = 3, samples: int = 60, noise: float = 0.7) -> None:
        self.name, self.n_classes, self.samples, self.noise = "toy-images", n_classes, samples, noise
        self.input_shape = (1, size, size)
        self.patterns = torch.randn(n_classes, *self.input_shape, generator=generator(0, "support"))

    def _draw(self, samples: int, random: torch.Generator) -> Batch:
        labels = torch.randint(self.n_classes, (samples,), generator=random)
        noise = torch.randn(samples, *self.input_shape, generator=random)
        return Batch(self.patterns[labels] + self.noise * noise, labels)

    def batches(self, seed: int, batch_size: int, device: str = "cpu", role: str = "teacher") -> Iterator[Batch]:
        random = generator(seed, "data", role)
        while True:
            yield self._draw(batch_size, random).to(device)

    def split(self, name: str, device: str = "cpu") -> Batch:
        return self._draw(self.samples, generator(0, "evaluation", name)).to(device)

    def fingerprint(self) -> dict[str, Any]:
        return {"task": self.name, "shape": list(self.input_shape), "samples": self.samples, "noise": self.noise}

    def steps_per_epoch(self, batch_size: int) -> int:
        return 64 // batch_size


class ToyStrings(Task):
    """Padded strings over a, b, c in which every third symbol is the sum of the two before it (mod 3).

    `masked`: some symbols are hidden and predicted, and so are some that are seen. `next`: each is predicted from those
    before it.
    """

    name, n_classes, n_tokens, class_names = "toy-strings", 3, 5, ("a", "b", "c")
    mask, pad = 3, 4

    def __init__(self, objective: str = "masked", length: int = 9, samples: int = 60) -> None:
        self.objective, self.input_shape, self.samples = objective, (length,), samples

    def _draw(self, samples: int, random: torch.Generator) -> Batch:
        (length,) = self.input_shape
        symbols = torch.randint(3, (samples, length), generator=random)
        for third in range(2, length, 3):
            symbols[:, third] = (symbols[:, third - 1] + symbols[:, third - 2]) % 3
        lengths = torch.randint(3, length + 1, (samples, 1), generator=random)
        real = torch.arange(length) < lengths
        chosen = real & (torch.rand(samples, length, generator=random) < 0.3)
        hidden = chosen & (torch.rand(samples, length, generator=random) < 0.8)
        if self.objective == "next":
            inputs = symbols.where(real, self.pad)
            following = torch.cat([inputs[:, 1:], torch.full((samples, 1), self.pad)], dim=1)
            return Batch(inputs, following.where(following < 3, IGNORED))
        inputs = symbols.masked_fill(hidden, self.mask).where(real, self.pad)
        return Batch(inputs, symbols.where(chosen, IGNORED))

    def batches(self, seed: int, batch_size: int, device: str = "cpu", role: str = "teacher") -> Iterator[Batch]:
        random = generator(seed, "data", role)
        while True:
            yield self._draw(batch_size, random).to(device)

    def split(self, name: str, device: str = "cpu") -> Batch:
        return self._draw(self.samples, generator(0, "evaluation", name)).to(device)

    def fingerprint(self) -> dict[str, Any]:
        return {"task": self.name, "objective": self.objective, "shape": list(self.input_shape), "n": self.samples}


class DropoutConfig(ModelConfig):
    """A network of a reader's own that draws random numbers whenever it is trained."""

    family: Literal["toy-dropout"] = "toy-dropout"
    width: int

    @property
    def n_blocks(self) -> int:
        return 2

    def make(self) -> BlockNet:
        blocks = [
            nn.Sequential(nn.Linear(inputs, self.width), nn.ReLU(), nn.Dropout(0.5)) for inputs in (6, self.width)
        ]
        return BlockNet(nn.Identity(), blocks, nn.Linear(self.width, 2))


PARITY = SparseParity(n_bits=6, k_sparse=2, eval_samples=100)
PLAN = TrainPlan(steps=24, batch_size=8, eval_every=6, lr=0.05)

MLP_TEACHER = MLPConfig(n_inputs=6, widths=(12, 11, 10))
MLP_STUDENT = MLPConfig(n_inputs=6, widths=(8, 9, 7))
VGG_TEACHER = VGGConfig(channels=(4, 6, 7), convolutions=(1, 2, 1), n_classes=3)
VGG_STUDENT = VGGConfig(channels=(3, 5, 6), convolutions=(1, 1, 1), n_classes=3)
RESNET_TEACHER = ResNetConfig(channels=(4, 6, 7), depths=(1, 2, 1), n_classes=3)
RESNET_STUDENT = ResNetConfig(channels=(3, 5, 6), depths=(1, 1, 1), n_classes=3)
VIT_TEACHER = ViTConfig(image_size=7, width=8, heads=4, layers=(1, 2, 1), n_classes=3)
VIT_STUDENT = ViTConfig(image_size=7, width=6, heads=2, layers=(1, 1, 1), n_classes=3)
STRINGS = {"length": 9, "n_tokens": 5, "n_classes": 3, "layers": 3}
LANGUAGE_TEACHER = LanguageTransformerConfig(**STRINGS, width=8, heads=4)
LANGUAGE_STUDENT = LanguageTransformerConfig(**STRINGS, width=6, heads=2)

# Teacher, student and input shape of a pair of every family; the second table has images that are not square.
PAIRS = {
    "mlp": (MLP_TEACHER, MLP_STUDENT, (6,)),
    "vgg": (VGG_TEACHER, VGG_STUDENT, (1, 7, 7)),
    "resnet": (RESNET_TEACHER, RESNET_STUDENT, (1, 7, 7)),
    "vit": (VIT_TEACHER, VIT_STUDENT, (1, 7, 7)),
}
OBLONG_PAIRS = PAIRS | {
    "vgg": (VGG_TEACHER, VGG_STUDENT, (1, 9, 7)),
    "resnet": (RESNET_TEACHER, RESNET_STUDENT, (1, 9, 7)),
}

# The same with the networks that give logits for every token.
EVERY_PAIR = OBLONG_PAIRS | {"language": (LANGUAGE_TEACHER, LANGUAGE_STUDENT, (9,))}


def samples_for(
    config: ModelConfig, samples: int, shape: Sequence[int], random: torch.Generator | None = None
) -> Tensor:
    """Some inputs for a network: numbers, or strings, some of them padded."""
    if config.family != "language":
        return torch.randn(samples, *shape, generator=random)
    strings = torch.randint(4, (samples, *shape), generator=random)
    lengths = torch.randint(1, shape[0] + 1, (samples, 1), generator=random)
    return strings.where(torch.arange(*shape) < lengths, 4)


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def used(net: BlockNet, seed: int = 0) -> BlockNet:
    """The network with batch norms that look as if it had been trained: other statistics, scales and shifts."""
    random = torch.Generator().manual_seed(seed)
    for norm in norms(net):
        size = (norm.num_features,)
        norm.running_mean.copy_(torch.randn(size, generator=random))
        norm.running_var.copy_(0.3 + torch.rand(size, generator=random))
        norm.num_batches_tracked.fill_(17)
        with torch.no_grad():
            norm.weight.copy_(0.5 + torch.rand(size, generator=random))
            norm.bias.copy_(0.3 * torch.randn(size, generator=random))
    return net


def as_trained(config: ModelConfig, seed: int = 7, checkpoints: dict[int, float] | None = None) -> TrainedModel:
    """A teacher that was never trained, with `checkpoints` (step -> accuracy) of random weights."""
    model = used(build(config, seed)).eval().requires_grad_(False)
    kept = [
        Checkpoint(step, value, snapshot(used(build(config, seed + step + 1))))
        for step, value in (checkpoints or {}).items()
    ]
    history = pd.DataFrame({"step": [0, 10, 20], "accuracy": [0.5, 0.7, 1.0]})
    return TrainedModel(config, model, history, kept, 0.9, 10, f"toy-{config.family}-{seed}")


# What a run of the image notebooks needs, as small as it gets: for `ToyImages`, where `image_task` gives them.
TOY_SIZES = {
    "device": "cpu",
    "family": "resnet",
    "batch_size": 16,
    "teacher_epochs": 2,
    "teacher_channels": (4, 5, 6),
    "teacher_depths": (1, 1, 1),
    "student_channels": (3, 4, 5),
    "student_depths": (1, 1, 1),
}


def as_pair(
    accuracies: Mapping[str, float],
    unit_bytes: Sequence[int] = (10, 200, 3_000),
    seed: int = 0,
    history: Mapping[int, float] | None = None,
    validation: Mapping[str, float] | None = None,
) -> Pair:
    """A pair that was never trained and says of every mask, and of the student by step, what it is told to."""
    n_blocks = len(unit_bytes)
    teacher, student = (MLPConfig(n_inputs=2, widths=(width,) * n_blocks) for width in (3, 2))
    net = SwapNet(build(teacher, 0), build(student, 0), (2,)).eval()
    masks = mask_table({"validation": validation or accuracies, "test": accuracies}, unit_bytes, seed)
    steps = {0: 0.5, 10: 1.0} if history is None else history
    table = pd.DataFrame({"step": list(steps), "accuracy": list(steps.values())})
    unknown = torch.zeros(2**n_blocks, 0, dtype=torch.bool)
    return Pair(net, seed, table, masks, pd.DataFrame(), sum(unit_bytes), 9, (teacher, student), ToyImages(), unknown)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The names of the tensors that are not the same bit for bit."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    """Every tensor agrees within `tolerance` (absolute and relative)."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        close = torch.allclose(ours[name], theirs[name], atol=tolerance, rtol=tolerance)
        assert close, f"{name}: up to {(ours[name] - theirs[name]).abs().max():.2g} apart"


def distil_cohort(
    teacher: TrainedModel,
    student: ModelConfig,
    task: Task,
    curricula: Mapping[str, Curriculum],
    seeds: Sequence[int],
    plan: TrainPlan,
    data_seed: int = 0,
    device: str = "cpu",
) -> DistillationResult:
    """A student for each curriculum and seed, as `study.verbs.distill` makes them, without the store."""
    n_blocks = min(student.n_blocks, teacher.config.n_blocks)
    members = [Member(name, seed, one.for_blocks(n_blocks)) for name, one in curricula.items() for seed in seeds]
    return distil_members(teacher, student, task, members, plan, data_seed, device)
