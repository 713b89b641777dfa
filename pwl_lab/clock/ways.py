"""The ways to load a pair, each from files to predictions: what can be answered with, from which second on.

Every way gets what is good for it: networks are built without initial weights, and plain files are read as their
libraries read them fastest. Over a slow link a plain file is downloaded first, through the same throttle.
"""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import torch
from safetensors.torch import load, load_file
from torch import Tensor

from pwl_lab.clock.files import BUNDLE, TEACHER, TEACHER_8BIT, TEACHER_TORCH
from pwl_lab.loading.bitplanes import decode, from_bytes
from pwl_lab.loading.bundle import BOOT, INDEX, AnyModel, BundleIndex, check_folder, read_index
from pwl_lab.loading.eightbit import dequantise
from pwl_lab.loading.progressive import ProgressiveModel
from pwl_lab.loading.sources import FolderSource, open_source
from pwl_lab.loading.throttle import Throttle
from pwl_lab.loading.transfer import Retry, Transfer
from pwl_lab.models.blocknet import build_empty

try:  # an extra: there is not a build of it for every machine
    from runai_model_streamer import SafetensorsStreamer
except ImportError:
    SafetensorsStreamer = None


@dataclass(frozen=True)
class Moment:
    """From `seconds` after the start on, predictions are those of `network`; `bytes` had arrived by then.

    `network` is a swap mask (lower case: at 8 bits a weight), or `planes 4` for a teacher of which 4 bits are known.
    """

    seconds: float
    network: str
    bytes: int


@dataclass(frozen=True)
class _Job:
    """One load: where from, over which link, with what to ask the networks, and since when the clock runs."""

    folder: Path
    throttle: Throttle | None
    index: BundleIndex
    begun: float

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.begun

    def sample(self) -> Tensor:
        """One sample."""
        return torch.zeros(1, *self.index.inputs.shape)

    def download(self, name: str, folder: str = "") -> bytes:
        """The bytes of a file, as they come over the link."""
        with closing(open_source(self.folder / folder, self.throttle)) as source:
            return b"".join(bytes(chunk) for chunk in source.chunks(name))

    def plain(self, name: str, folder: str = "") -> dict[str, Tensor]:
        """The tensors of a safetensors file: from disk as the library does it, or downloaded."""
        if self.throttle is None:
            return load_file(self.folder / folder / name)
        return load(self.download(name, folder))


def moments(way: str, folder: Path, throttle: Throttle | None = None) -> list[Moment]:
    """Load the pair in `folder` (see `files.Files`) in one of the `WAYS` and predict with it as soon as possible."""
    index = read_index((Path(folder) / BUNDLE / INDEX).read_bytes(), str(folder))
    job = _Job(Path(folder), throttle, index, time.perf_counter())
    with torch.inference_mode():
        return list(WAYS[way](job))


def _progressive(job: _Job, **options: object) -> Iterator[Moment]:
    """The bundle, block after block. A mask counts from its first prediction on."""
    sample, found = job.sample(), dict[str, Moment]()
    with ProgressiveModel.open(job.folder / BUNDLE, throttle=job.throttle, device="cpu", **options) as model:

        def ask() -> None:
            mask = model.predict(sample).mask
            found.setdefault(mask, Moment(job.elapsed(), mask, model.status().bytes_arrived))

        ask()
        model.on_swap(lambda _: ask())
        model.wait("T" * job.index.n_blocks)
        ask()
    return iter(found.values())


def _whole(job: _Job, network: str, config: AnyModel, tensors: Callable[[], dict[str, Tensor]], size: int) -> Moment:
    """One network that answers once all of it is there."""
    net = build_empty(config)
    net.load_state_dict(tensors(), assign=True)
    net.eval()(job.sample())
    return Moment(job.elapsed(), network, size)


def _student(job: _Job) -> Iterator[Moment]:
    """The student alone, out of the same file as the boot set."""
    shard = job.index.shard(BOOT)
    yield _whole(job, "S" * job.index.n_blocks, job.index.student, lambda: job.plain(shard.file, BUNDLE), shard.bytes)


def _teacher(job: _Job, name: str, mask: str, read: Callable[[_Job, str], dict[str, Tensor]]) -> Iterator[Moment]:
    """The teacher in one file."""
    size = (job.folder / name).stat().st_size
    yield _whole(job, mask * job.index.n_blocks, job.index.teacher, lambda: read(job, name), size)


def _torch_load(job: _Job, name: str) -> dict[str, Tensor]:
    """Torch's own format, weights alone."""
    source = job.folder / name if job.throttle is None else io.BytesIO(job.download(name))
    return torch.load(source, map_location="cpu", weights_only=True)


def _streamed(job: _Job, name: str) -> dict[str, Tensor]:
    """A safetensors file through Run:ai's model streamer: many reads at once, from a disk alone."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(job.folder / name))
        return dict(streamer.get_tensors())


def _bit_planes(job: _Job) -> Iterator[Moment]:
    """The teacher, its most significant bits first (arXiv 2110.00916)."""
    stages, net = list[bytes](), build_empty(job.index.teacher)
    for number in range(1, 1 + len(list(job.folder.glob("stage-*.safetensors")))):
        stages.append(job.download(f"stage-{number}.safetensors"))
        planes = from_bytes(stages)
        net.load_state_dict(decode(planes, number), assign=True)
        net.eval()(job.sample())
        yield Moment(job.elapsed(), f"planes {sum(planes.widths[:number])}", sum(map(len, stages)))


WAYS: dict[str, Callable[[_Job], Iterator[Moment]]] = {
    "progressive": _progressive,
    "progressive_best": partial(_progressive, order="best"),
    "progressive_8bit_first": partial(_progressive, first_at_8_bits=True),
    "student_only": _student,
    "teacher_safetensors": partial(_teacher, name=TEACHER, mask="T", read=_Job.plain),
    "teacher_torch_load": partial(_teacher, name=TEACHER_TORCH, mask="T", read=_torch_load),
    "teacher_streamer": partial(_teacher, name=TEACHER, mask="T", read=_streamed),
    "teacher_8bit": partial(_teacher, name=TEACHER_8BIT, mask="t", read=lambda job, name: dequantise(job.plain(name))),
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
    transfer = Transfer(FolderSource(folder), Retry(), Event(), lambda *_: None, time.perf_counter)
    begun = time.perf_counter()
    kept = [transfer.fetch(shard).content for shard in shards]
    return sum(map(len, kept)) / (time.perf_counter() - begun)
