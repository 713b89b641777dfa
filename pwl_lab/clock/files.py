"""The same pair on disk in every way that it can be loaded: as a bundle, and as the files that people load today."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from pwl_lab.files import usual_mode
from pwl_lab.loading.bitplanes import encode
from pwl_lab.loading.bundle import BOOT, AnyModel, BundleIndex, Inputs, write_bundle
from pwl_lab.loading.eightbit import quantise
from pwl_lab.loading.stored import plain
from pwl_lab.loading.swapnet import SwapNet
from pwl_lab.models import ViTConfig, build
from pwl_lab.models.resnet import ResNetConfig
from pwl_lab.models.vgg import VGGConfig
from pwl_lab.results import Pair


@dataclass(frozen=True)
class Size:
    """Teacher and student, and the shape of what they take."""

    teacher: AnyModel
    student: AnyModel
    input_shape: tuple[int, ...]


def _vit(width: int, heads: int, layers: int) -> ViTConfig:
    """A ViT as usual: patches of 16 pixels of a 224x224 image, in six blocks."""
    sizes = {"in_channels": 3, "image_size": 224, "patch": 16, "stem": "patches", "mlp_ratio": 4.0, "n_classes": 1000}
    return ViTConfig(width=width, heads=heads, layers=(layers,) * 6, **sizes)


VGG_CHANNELS, RESNET_CHANNELS = (64, 128, 256, 512, 512), (32, 64, 128, 256)
# Teachers, and the first three students, as in arXiv 2509.22319; for ViT-base a student of ViT-tiny's width is ours.
FULL_SIZES = {
    "vgg16": Size(
        VGGConfig(in_channels=3, channels=VGG_CHANNELS, convolutions=(2, 2, 3, 3, 3)),
        VGGConfig(in_channels=3, channels=VGG_CHANNELS, convolutions=(1, 1, 1, 1, 1)),
        (3, 32, 32),
    ),
    "resnet": Size(
        ResNetConfig(in_channels=3, channels=RESNET_CHANNELS, depths=(3, 4, 6, 3)),
        ResNetConfig(in_channels=3, channels=RESNET_CHANNELS, depths=(1, 1, 1, 1)),
        (3, 32, 32),
    ),
    "vit_tiny": Size(_vit(192, 3, 2), _vit(192, 3, 1), (3, 224, 224)),
    "vit_base": Size(_vit(768, 12, 2), _vit(192, 3, 1), (3, 224, 224)),
}
BUNDLE, TEACHER, TEACHER_TORCH, TEACHER_8BIT = "bundle", "teacher.safetensors", "teacher.pt", "teacher-8bit.safetensors"


@dataclass(frozen=True)
class Files:
    """Where a pair lies: `folder/bundle` and the plain files beside it."""

    folder: Path
    index: BundleIndex

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.folder / BUNDLE

    def all(self) -> list[Path]:
        """Every file."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def stages(self) -> list[Path]:
        """The bit planes, most significant first."""
        return sorted(self.folder.glob("stage-*.safetensors"), key=lambda path: int(path.stem.removeprefix("stage-")))

    def teacher_bytes(self) -> int:
        """Of the teacher as one plain file."""
        return (self.folder / TEACHER).stat().st_size

    def student_bytes(self) -> int:
        """Of the boot set."""
        return self.index.shard(BOOT).bytes


def write_plain(net: SwapNet, folder: Path, alternatives: bool) -> None:
    """The teacher as one file (safetensors and torch's own); with `alternatives` at 8 bits and in bit planes too."""
    state = {name: plain(tensor) for name, tensor in net.teacher.state_dict().items()}
    save_file(state, folder / TEACHER)
    usual_mode(folder / TEACHER)  # safetensors would leave it to its owner alone
    torch.save(state, folder / TEACHER_TORCH)
    if alternatives:
        save_file(quantise(state), folder / TEACHER_8BIT)
        usual_mode(folder / TEACHER_8BIT)
        encode(state).save(folder)


def write_trained(pair: Pair, folder: Path) -> Files:
    """A trained pair in every way there is."""
    index = pair.export(folder / BUNDLE)
    write_plain(pair.net, folder, alternatives=True)
    return Files(folder, index)


def write_full_size(name: str, folder: Path) -> Files:
    """A pair of `FULL_SIZES` with random weights: good for timing, and for nothing else."""
    size = FULL_SIZES[name]
    net = SwapNet(build(size.teacher, 0), build(size.student, 1), size.input_shape).eval()
    index = write_bundle(
        net, (size.teacher, size.student), folder / BUNDLE, Inputs(shape=size.input_shape), eight_bits=False
    )
    write_plain(net, folder, alternatives=False)
    return Files(folder, index)
