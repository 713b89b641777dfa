"""The accuracy of every network that predicts during loading, and accuracy against seconds."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import pandas as pd
import torch
from torch import Tensor

from pwl_lab.benchmarks.baselines import Files, write_trained
from pwl_lab.benchmarks.bitplanes import WIDTHS, decode, from_bytes
from pwl_lab.loading.bundle import BOOT, BundleIndex, Shard
from pwl_lab.loading.throttle import Throttle
from pwl_lab.loading.transfer import schedule
from pwl_lab.loading.units import Parts, Workshop, assemble
from pwl_lab.loading.weightless import build_empty
from pwl_lab.study.results import Pair
from pwl_lab.study.store import Artifact, Recipe
from pwl_lab.study.testing import beside
from pwl_lab.study.verbs import VERSIONS
from pwl_lab.support import paths
from pwl_lab.support.files import work_folder
from pwl_lab.support.timing import phase
from pwl_lab.swap.masks import prefix_mask
from pwl_lab.tasks.base import Batch, accuracy, at_once, split_of

CHUNK = 512  # samples at once, at most


def anytime_networks(n_blocks: int) -> list[str]:
    """The networks that answer while a pair loads, whatever the baseline, by their names in `baselines.Moment`."""
    prefix = [prefix_mask(done, n_blocks) for done in range(n_blocks + 1)]
    int8 = [mask.lower() for mask in prefix]
    refined = ["T" * done + "t" * (n_blocks - done) for done in range(1, n_blocks)]
    return [*prefix, *int8, *refined, *(f"planes {bits}" for bits in accumulate(WIDTHS))]


@phase("evaluation")
def network_accuracies(files: Files, networks: Iterable[str], data: Batch) -> dict[str, float]:
    """Accuracy in [0, 1] on `data` of networks named as in `baselines.Moment`: swap masks, with `t` as int8, and `planes 4`."""
    found = {}
    masks = _Masks(files)
    with torch.inference_mode():
        for network in networks:
            run = _planes(files, int(network.split()[1])) if network.startswith("planes") else masks.network(network)
            logits = torch.cat([run(inputs) for inputs in torch.split(data.inputs, at_once(data.inputs, CHUNK))])
            found[network] = accuracy(logits, data.labels)
    return found


def loading_accuracies(pair: Pair) -> dict[str, float]:
    """Test accuracy of each network that answers while the pair loads, by the names of `anytime_networks`.

    The store keeps them under the pair's key; those of a pair without weights ship, as the pair does.
    """
    recipe = Recipe("loading", VERSIONS["loading"], {"pair": pair.fingerprint})

    def make() -> Artifact:
        names = anytime_networks(pair.n_blocks)
        with work_folder(paths.scratch() / "loading") as folder:
            files = write_trained(pair, folder)
            found = network_accuracies(files, names, split_of(pair.task, "test", "cpu"))
        return Artifact(tables={"accuracies": pd.DataFrame(found.items(), columns=["network", "accuracy"])})

    return dict(beside(pair, recipe, make).tables["accuracies"].itertuples(index=False))


class _Masks:
    """The networks of a bundle, out of its files; each shard is read once."""

    def __init__(self, files: Files) -> None:
        self.files, self.workshop = files, Workshop(files.index, "cpu")
        self.students: dict[int, dict[int, Parts]] = {}
        self.units: dict[tuple[int, int], Parts] = {}

    def network(self, mask: str) -> Callable[[Tensor], Tensor]:
        """The network of one mask."""
        wanted = {block: 8 if letter == "t" else 32 for block, letter in enumerate(mask, start=1) if letter in "Tt"}
        for block, bits in wanted.items():
            if (block, bits) not in self.units:
                shard = self.files.index.shard(block, bits)
                self.units[block, bits] = self.workshop.unit(shard, self._read(shard))
        teacher = {block: self.units[block, bits] for block, bits in wanted.items()}
        return assemble(mask, self._student(8 if "s" in mask else 32), teacher)

    def _student(self, bits: int) -> dict[int, Parts]:
        """The student's parts, out of the boot set of so many bits a weight."""
        if bits not in self.students:
            shard = self.files.index.shard(BOOT, bits)
            self.students[bits] = self.workshop.student(shard, self._read(shard))
        return self.students[bits]

    def _read(self, shard: Shard) -> Tensor:
        """The bytes of a shard's file."""
        return torch.frombuffer(bytearray((self.files.bundle / shard.file).read_bytes()), dtype=torch.uint8)


def _planes(files: Files, bits: int) -> Callable[[Tensor], Tensor]:
    """The teacher with the most significant `bits` bits of each weight."""
    planes = from_bytes([path.read_bytes() for path in files.stages()])
    stages = next(n for n in range(1, len(planes.widths) + 1) if sum(planes.widths[:n]) == bits)
    net = build_empty(files.index.teacher)
    net.load_state_dict(decode(planes, stages), assign=True)
    return net.eval()


def anytime_area(points: pd.DataFrame, horizon_s: float) -> float:
    """The mean accuracy over the first seconds of a load: 0 before the first prediction, then that of the current network.

    Arguments:
    - `points`: seconds and accuracy of one load, in any order; they count as a staircase.
    - `horizon_s`: how many seconds.
    """
    steps = points.sort_values("seconds", kind="stable")  # of two at once the later row predicts from then on
    begins = steps["seconds"].clip(upper=horizon_s).tolist()
    ends = [*begins[1:], horizon_s]
    held = zip(begins, ends, steps["accuracy"], strict=True)
    return float(sum((end - begin) * accuracy for begin, end, accuracy in held)) / horizon_s


def planned_timeline(
    index: BundleIndex, order: str | Sequence[int], link: Throttle, split: str = "test", int8_first: bool = False
) -> pd.DataFrame:
    """When each mask would run, computed from the bundle's bytes alone: seconds, network, bytes and accuracy.

    Arguments:
    - `index`: of the bundle.
    - `order`: in which the teacher's blocks arrive, as `schedule` takes it.
    - `link`: over which they come.
    - `split`: whose recorded accuracies to show.
    - `int8_first`: whether every block comes as int8 first.

    Reading, checking and swapping are left out; an int8 block counts as accurate as the whole one.
    """
    boot, mask = index.shard(BOOT, 8 if int8_first else 32), ("s" if int8_first else "S") * index.n_blocks
    seconds, size = link.latency_s + link.seconds_for(boot.bytes), boot.bytes  # the index comes first, and is small
    rows = [(seconds, mask, size)]
    for shard in schedule(index, order, link, int8_first):
        seconds, size = seconds + link.seconds_for(shard.bytes), size + shard.bytes
        letter = "t" if shard.bits == 8 else "T"
        mask = mask[: shard.block - 1] + letter + mask[shard.block :]
        rows.append((seconds, mask, size))
    table = pd.DataFrame(rows, columns=["seconds", "network", "bytes"])
    return table.assign(accuracy=table["network"].str.upper().map(index.accuracies.get(split, {})))
