"""Progressive loading and its baselines, each from files to predictions: which network predicts from which second on.

Every baseline is implemented as well as possible: networks are built without initial weights, plain files are read in
the fastest way their libraries offer, and a link is never idle while something is computed.

Over a link, progressive loading runs in real time, because its threads compute while bytes come. A baseline only waits
for one file after the other: how long is known from their sizes, so its clock is set forward instead.
"""

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pwl_lab.benchmarks.bitplanes import decode, encode, from_bytes
from pwl_lab.loading.bundle import BOOT, BundleIndex, Inputs, check_folder, write_bundle
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.loading.sources import FolderSource
from pwl_lab.loading.tensors import dequantise, plain, quantise, view_tensors
from pwl_lab.loading.throttle import Throttle
from pwl_lab.loading.transfer import Transfer
from pwl_lab.loading.weightless import build_empty
from pwl_lab.models import ViTConfig, build
from pwl_lab.models.blocknet import ModelConfig
from pwl_lab.models.convnets import ResNetConfig, VGGConfig
from pwl_lab.study.results import Pair
from pwl_lab.support.files import usual_mode
from pwl_lab.support.retries import Retry
from pwl_lab.swap.swapnet import SwapNet


@dataclass(frozen=True)
class Size:
    """Teacher and student, and the shape of their inputs."""

    teacher: ModelConfig
    student: ModelConfig
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
    """The files of a pair: `folder/bundle` and the plain files next to it."""

    folder: Path
    index: BundleIndex

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.folder / BUNDLE

    def all(self) -> list[Path]:
        """Every file in the folder, the bundle's among them."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def stages(self) -> list[Path]:
        """The bit planes, most significant first."""
        return sorted(self.folder.glob("stage-*.safetensors"), key=lambda path: int(path.stem.removeprefix("stage-")))

    def teacher_bytes(self) -> int:
        """The size of the teacher's plain safetensors file."""
        return (self.folder / TEACHER).stat().st_size

    def student_bytes(self) -> int:
        """The size of the boot set as float32."""
        return self.index.shard(BOOT).bytes


def write_plain(net: SwapNet, folder: Path, alternatives: bool) -> None:
    """The teacher as one file (safetensors and torch's own); with `alternatives` as int8 and in bit planes too."""
    state = {name: plain(tensor) for name, tensor in net.teacher.state_dict().items()}
    save_file(state, folder / TEACHER)
    usual_mode(folder / TEACHER)  # safetensors would leave it to its owner alone
    torch.save(state, folder / TEACHER_TORCH)
    if alternatives:
        save_file(quantise(state), folder / TEACHER_8BIT)
        usual_mode(folder / TEACHER_8BIT)
        encode(state).save(folder)


def write_trained(pair: Pair, folder: Path) -> Files:
    """Write a trained pair for every baseline: as a bundle, and its teacher in all the other formats.

    Arguments:
    - `pair`: what `train_pair` gives.
    - `folder`: where the bundle's folder and the plain files go.
    """
    index = pair.export(folder / BUNDLE)
    write_plain(pair.net, folder, alternatives=True)
    return Files(folder, index)


def write_full_size(name: str, folder: Path) -> Files:
    """Write a pair of the papers' sizes with random weights, which is useful only for timing.

    Arguments:
    - `name`: one of `FULL_SIZES`.
    - `folder`: where the bundle's folder and the plain files go.
    """
    size = FULL_SIZES[name]
    net = SwapNet(build(size.teacher, 0), build(size.student, 1), size.input_shape).eval()
    index = write_bundle(net, (size.teacher, size.student), folder / BUNDLE, Inputs(shape=size.input_shape), int8=False)
    write_plain(net, folder, alternatives=False)
    return Files(folder, index)


try:  # an extra: there is not a build of it for every machine
    from runai_model_streamer import SafetensorsStreamer

    HAS_STREAMER = True
except ImportError:
    HAS_STREAMER = False
CHECK_S = 1.0  # how often a load that brings nothing new is asked whether it has failed


@dataclass(frozen=True)
class Moment:
    """From `seconds` after the start on, predictions are those of `network`; it took `bytes` of its files.

    `network` is a swap mask (lower case: int8), or `planes 4` for a teacher of which 4 bits are known.
    """

    seconds: float
    network: str
    bytes: int


@dataclass
class _Job:
    """One load: where from, over which link, with what to ask the networks, and since when the clock runs."""

    files: Files
    throttle: Throttle | None
    begun: float
    link_free_s: float = 0.0  # since the start: when all files downloaded so far have come over the link

    def elapsed(self) -> float:
        """Seconds since the start; waits for files count as if they had been slept through."""
        return time.perf_counter() - self.begun

    def sample(self) -> Tensor:
        """A batch of one sample, all zeros."""
        return torch.zeros(1, *self.files.index.inputs.shape)

    def download(self, path: Path) -> io.BytesIO:
        """A file that comes over the link right after the one before it, beside whatever is computed meanwhile.

        The clock is set to the moment when it has come; reading it here takes no time.
        """
        assert self.throttle is not None, "a download goes over a link"
        asked = self.elapsed()
        content = io.BytesIO(path.read_bytes())
        self.link_free_s += self.throttle.seconds_for(len(content.getbuffer()))
        self.begun = time.perf_counter() - max(asked, self.link_free_s)
        return content

    def plain(self, path: Path) -> dict[str, Tensor]:
        """The tensors of a safetensors file: from disk as the library does it, or downloaded and not copied again."""
        if self.throttle is None:
            return load_file(path)
        return view_tensors(torch.frombuffer(self.download(path).getbuffer(), dtype=torch.uint8))


def moments(baseline: str, files: Files, throttle: Throttle | None = None) -> list[Moment]:
    """Load a pair and predict with it as soon as possible. Before the clock starts no file is read.

    Arguments:
    - `baseline`: one of `BASELINES`.
    - `files`: the pair, as `write_trained` or `write_full_size` wrote it.
    - `throttle`: the link that the files come over, simulated; None reads them from disk.
    """
    job = _Job(files, throttle, time.perf_counter())
    with torch.inference_mode():
        return list(BASELINES[baseline](job))


def _progressive(job: _Job, order: str = "prefix", int8_first: bool = False) -> Iterator[Moment]:
    """The bundle, block after block. A mask counts from its first prediction on; one that made none is left out.

    Predictions come from a thread of their own, as they would in use: made in the one that swaps, they would delay it.
    """
    sample, swapped, whole = job.sample(), threading.Event(), "T" * job.files.index.n_blocks
    seconds: dict[str, float] = {}
    opened = ProgressiveModel.open(job.files.bundle, order, throttle=job.throttle, device="cpu", int8_first=int8_first)
    with opened as model:
        model.on_swap(lambda _: swapped.set())
        while whole not in seconds:
            swapped.clear()
            mask = model.predict(sample).mask
            seconds.setdefault(mask, job.elapsed())
            if mask != whole and not swapped.wait(CHECK_S) and model.status().finished:
                model.wait(whole)  # says why it did not come
        model.wait()
    # What had arrived with the shard that made a mask possible: by the time of the swap there may be more.
    arrived = {event.shard: event.bytes_arrived for event in model.events if event.kind == "fetched"}
    took = {event.mask: arrived[event.shard] for event in model.events if event.kind in ("boot", "swap")}
    return (Moment(when, mask, took[mask]) for mask, when in seconds.items())


def _whole(job: _Job, network: str, config: ModelConfig, tensors: Callable[[], dict[str, Tensor]], size: int) -> Moment:
    """One network that predicts once it is completely loaded."""
    net = build_empty(config)
    net.load_state_dict(tensors(), assign=True)
    net.eval()(job.sample())
    return Moment(job.elapsed(), network, size)


def _student(job: _Job) -> Iterator[Moment]:
    """The student alone, out of the same file as the boot set."""
    index, shard = job.files.index, job.files.index.shard(BOOT)
    path = job.files.bundle / shard.file
    yield _whole(job, "S" * index.n_blocks, index.student, lambda: job.plain(path), shard.bytes)


def _teacher(job: _Job, name: str, mask: str, read: Callable[[_Job, Path], dict[str, Tensor]]) -> Iterator[Moment]:
    """The teacher, out of one plain file that `read` reads."""
    index, path = job.files.index, job.files.folder / name
    yield _whole(job, mask * index.n_blocks, index.teacher, lambda: read(job, path), path.stat().st_size)


def _torch_load(job: _Job, path: Path) -> dict[str, Tensor]:
    """The tensors of a file in torch's own format."""
    source = path if job.throttle is None else job.download(path)
    found: dict[str, Tensor] = torch.load(source, map_location="cpu", weights_only=True)
    return found


def _streamed(_: _Job, path: Path) -> dict[str, Tensor]:
    """A safetensors file through Run:ai's model streamer: many reads at once, from a disk alone."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        return dict(streamer.get_tensors())


def _bit_planes(job: _Job) -> Iterator[Moment]:
    """The teacher, its most significant bits first (arXiv 2110.00916); a stage is decoded while the next one comes."""
    stages: list[bytes] = []
    net = build_empty(job.files.index.teacher)
    for number, path in enumerate(job.files.stages(), start=1):
        stages.append(path.read_bytes() if job.throttle is None else job.download(path).getvalue())
        planes = from_bytes(stages)
        net.load_state_dict(decode(planes, number), assign=True)
        net.eval()(job.sample())
        yield Moment(job.elapsed(), f"planes {sum(planes.widths[:number])}", sum(map(len, stages)))


BASELINES: dict[str, Callable[[_Job], Iterator[Moment]]] = {
    "progressive": _progressive,
    "progressive_best": partial(_progressive, order="best"),
    "progressive_8bit_first": partial(_progressive, int8_first=True),
    "student_only": _student,
    "teacher_safetensors": partial(_teacher, name=TEACHER, mask="T", read=_Job.plain),
    "teacher_torch_load": partial(_teacher, name=TEACHER_TORCH, mask="T", read=_torch_load),
    "teacher_streamer": partial(_teacher, name=TEACHER, mask="T", read=_streamed),
    "teacher_8bit": partial(_teacher, name=TEACHER_8BIT, mask="t", read=lambda job, path: dequantise(job.plain(path))),
    "bit_planes": _bit_planes,
}


def read_plainly(folder: Path) -> float:
    """Bytes per second of reading all whole shards of a bundle, one `read` each; nothing else is done with them."""
    shards = [shard for shard in check_folder(folder).shards if shard.bits == 32]
    begun = time.perf_counter()
    kept = [(folder / shard.file).read_bytes() for shard in shards]
    return sum(map(len, kept)) / (time.perf_counter() - begun)


def read_verified(folder: Path) -> float:
    """Bytes per second of reading the same shards as the loader does, checksums included."""
    shards = [shard for shard in check_folder(folder).shards if shard.bits == 32]
    transfer = Transfer(FolderSource(folder), Retry(), threading.Event(), lambda *_: None, time.perf_counter)
    begun = time.perf_counter()
    kept = [transfer.fetch(shard).content for shard in shards]
    return sum(map(len, kept)) / (time.perf_counter() - begun)
