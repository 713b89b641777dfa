"""Thousands of fault schedules, each against a simple model of what should come out of it.

What must hold: the mask that runs is the best that can be had from everything that has arrived, every loss is told with
its true reason, and no prediction ever differs from the network that its mask names. Nothing sleeps, nothing is on disk.
"""

import asyncio
import copy
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pwl_lab.loading import model as progressive
from pwl_lab.loading.bundle import Inputs, parts_of_unit, unit_state, write_bundle
from pwl_lab.loading.model import LoadingError, ProgressiveModel
from pwl_lab.loading.sources import INDEX, BundleError, Source, SourceError
from pwl_lab.loading.tensors import dequantise, quantise
from pwl_lab.models import MLPConfig, build
from pwl_lab.support.retries import Retry
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.swapnet import SwapNet

PATIENCE_S = 60
TRIES = 4
AT_ONCE = Retry(tries=TRIES, first_wait_s=0.0, longest_wait_s=0.0)
MOST_BLOCKS = 4
INPUTS = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
MASKS = {n_blocks: all_masks(n_blocks) for n_blocks in range(1, MOST_BLOCKS + 1)}

# What may be wrong with one answer, and what a loader that gets nothing else has to say in the end.
REASONS = {
    "flipped": "does not have the recorded checksum",
    "long": "longer than",
    "late": "timed out",
    "short": "ended after",
    "missing": "not found",
    "cancelled": "CancelledError",
}
PASSING = ["flipped", "long", "late", "short", "cut", "odd", "refused", "missing"]


@dataclass(frozen=True)
class Script:
    """The answers to the requests for one file: some with a fault, then good ones, or the same fault for ever."""

    faults: tuple[str, ...] = ()
    forever: str | None = None

    def fault(self, request: int) -> str | None:
        """What is wrong with the answer to this request, from 0."""
        return self.faults[request] if request < len(self.faults) else self.forever

    def loss(self) -> str | None:
        """The model: why the file does not come, or None if it does. There are fewer passing faults than tries."""
        begun = False  # whether a part of the file is kept
        for fault in self.faults:
            if not begun and fault == "missing":
                return REASONS["missing"]
            if not begun and fault == "refused":
                return None  # it is the rest alone that is refused
            begun = fault in ("cut", "short") or (begun and fault in ("late", "odd"))
        return REASONS[self.forever] if self.forever else None


class Scripted(Source):
    """A bundle in memory whose answers follow the scripts."""

    def __init__(self, files: dict[str, bytes], scripts: dict[str, Script]) -> None:
        super().__init__("scripted://bundle")
        self.files, self.scripts, self.requests = files, scripts, dict.fromkeys(files, 0)

    def chunks(self, name, offset=0):
        self._begin(name, offset)
        fault = self.scripts.get(name, Script()).fault(self.requests[name])
        self.requests[name] += 1
        rest = self.files[name][offset:]
        if fault == "missing" or (fault == "refused" and offset):
            raise self._error(name, "not found" if fault == "missing" else f"has no byte {offset}")
        if fault == "late":
            raise SourceError(f"{name}: timed out", transient=True)
        if fault == "odd":
            raise KeyError("odd")
        if fault == "cancelled":
            raise asyncio.CancelledError
        if fault in ("cut", "short"):
            yield rest[: len(rest) // 2] if fault == "cut" else self.files[name][offset : len(self.files[name]) // 2]
            if fault == "cut":
                raise SourceError(f"{name}: broken off", transient=True)
            return
        yield rest[:-1]
        yield bytes([rest[-1] ^ (fault == "flipped")]) + (b"more" if fault == "long" else b"")


@dataclass(frozen=True)
class Toy:
    """A pair, the same pair out of 8 bits a weight, and its bundle."""

    net: SwapNet
    coarse: SwapNet
    index: object
    files: dict[str, bytes]
    logits: dict[str, torch.Tensor] = field(default_factory=dict)

    def expected(self, mask: str) -> torch.Tensor:
        """What the network of a mask says, put together here without the loader."""
        if mask not in self.logits:
            with torch.no_grad():
                self.logits[mask] = self._run(mask)
        return self.logits[mask]

    def _run(self, mask):
        nets = [self.net if letter.isupper() else self.coarse for letter in mask]
        letters = mask.upper()
        state = nets[0].owner(letters[0]).stem(INPUTS)
        for block, (net, letter) in enumerate(zip(nets, letters, strict=True)):
            if block and letters[block - 1] != letter:
                teachers_side = net if letter == "T" else nets[block - 1]
                state = teachers_side.convert(state, block, letters[block - 1], letter)
            state = net.owner(letter).blocks[block](state)
        return nets[-1].owner(letters[-1]).head(state)


@cache
def toy(n_blocks: int, folder) -> Toy:
    configs = (
        MLPConfig(n_inputs=5, widths=(7, 6, 8, 5)[:n_blocks]),
        MLPConfig(n_inputs=5, widths=(4, 3, 5, 4)[:n_blocks]),
    )
    torch.manual_seed(0)
    net = SwapNet(build(configs[0], 1), build(configs[1], 2), (5,)).eval()
    index = write_bundle(net, configs, folder / str(n_blocks), Inputs(shape=(5,)))
    coarse = copy.deepcopy(net)
    coarse.student.load_state_dict(dequantise(quantise(net.student.state_dict())))
    for block in range(1, n_blocks + 1):
        parts = torch.nn.ModuleDict(parts_of_unit(coarse.teacher, coarse.converters, block))
        parts.load_state_dict(dequantise(quantise(unit_state(net, block))))
    files = {path.name: path.read_bytes() for path in (folder / str(n_blocks)).iterdir()}
    return Toy(net, coarse.eval(), index, files)


@dataclass(frozen=True)
class Case:
    """A bundle, how it is opened, and what goes wrong."""

    n_blocks: int
    order: str | tuple[int, ...]
    eight: bool
    table: dict[str, float]
    read_ahead: int
    scripts: dict[str, Script]  # by (block, bits) as text, and "index"


scripts = st.builds(
    Script,
    st.lists(st.sampled_from(PASSING), max_size=TRIES - 1).map(tuple),
    st.sampled_from([None, None, None, *REASONS]),
)
# The index is read whole, without a checksum: what is wrong with it must be seen in what it says.
index_scripts = st.builds(
    Script,
    st.lists(st.sampled_from(["late", "odd", "short"]), max_size=TRIES - 1).map(tuple),
    st.sampled_from([None] * 20 + ["late", "missing"]),
)
boot_scripts = st.builds(
    Script, scripts.map(lambda script: script.faults), st.sampled_from([None] * 20 + ["flipped", "late", "missing"])
)


@st.composite
def cases(draw):
    n_blocks = draw(st.integers(1, MOST_BLOCKS))
    masks, grades = MASKS[n_blocks], st.integers(0, 8).map(lambda grade: grade / 8)  # so few that there are ties
    kind = draw(st.sampled_from(["whole", "whole", "none", "in part"]))
    some = masks if kind != "in part" else draw(st.lists(st.sampled_from(masks), unique=True))
    table = {} if kind == "none" else {mask: draw(grades) for mask in some}
    names = ["prefix", "suffix", "contiguous", *(["best"] if kind == "whole" else [])]
    order = draw(st.sampled_from(names) | st.permutations(range(1, n_blocks + 1)).map(tuple))
    eight = draw(st.booleans())
    bits = (8, 32) if eight else (32,)
    found = {f"{block}/{bit}": draw(scripts) for bit in bits for block in range(1, n_blocks + 1) if draw(st.booleans())}
    found |= {"index": draw(index_scripts), f"0/{bits[0]}": draw(boot_scripts)}
    return Case(n_blocks, order, eight, table, draw(st.integers(1, 3)), found)


def best(order, arrived, missed, table):
    """The model's mask: all that have come, or after a loss the best of all masks that can be had, by trying each."""
    if missed <= arrived:
        return arrived
    way = [order[:length] for length in range(len(order) + 1) if set(order[:length]) <= arrived]
    values = {}
    for size in range(len(arrived) + 1):
        for chosen in combinations(sorted(arrived), size):
            mask = spelt(chosen, len(order))
            if mask in table:
                values[chosen] = table[mask]
    known = [table[spelt(step, len(order))] for step in way if spelt(step, len(order)) in table]
    values.setdefault(tuple(sorted(way[-1])), known[-1] if known else -1.0)

    def worth(chosen):
        return values[chosen], len(chosen), tuple(block in chosen for block in order)

    return set(max(values, key=worth))


def spelt(blocks, n_blocks):
    return "".join("T" if block in blocks else "S" for block in range(1, n_blocks + 1))


@dataclass
class Outcome:
    """What the model says."""

    mask: str
    swaps: list[tuple[str, str]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)


def foreseen(case: Case, order: list[int]) -> Outcome:
    small = "s" if case.eight else "S"
    there, missed = {}, set()
    outcome = Outcome(small * case.n_blocks)
    for bits in (8, 32) if case.eight else (32,):
        for block in order:
            name = f"block {block}" + (" at 8 bits" if bits == 8 else "")
            loss = case.scripts.get(f"{block}/{bits}", Script()).loss()
            if loss is None:
                if bits == 32 and block in there:
                    outcome.states[f"{name} at 8 bits"] = "replaced"
                there[block] = (bits, name)
            else:
                missed.add(block)
                outcome.failed[name] = loss
            chosen = best(order, set(there), missed, case.table)
            letters = [
                small if n not in chosen else "t" if there[n][0] == 8 else "T" for n in range(1, case.n_blocks + 1)
            ]
            if "".join(letters) != outcome.mask:
                outcome.mask = "".join(letters)
                outcome.swaps.append((name, outcome.mask))
            outcome.states |= {name: "loaded" if n in chosen else "held" for n, (_, name) in there.items()}
    return outcome


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("toys")


class Watched(ProgressiveModel):
    """Asks for a prediction after every swap, of whichever network runs then."""

    def _begin(self, boot):
        self.answers = [self.predict(INPUTS)]
        self.on_swap(lambda _: self.answers.append(self.predict(INPUTS)))
        super()._begin(boot)


def source_of(case: Case, made: Toy) -> Scripted:
    index = made.index.model_copy(update={"accuracies": {"validation": case.table} if case.table else {}})
    by_name = {f"{shard.block}/{shard.bits}": shard.file for shard in index.shards} | {"index": INDEX}
    files = made.files | {INDEX: index.model_dump_json().encode()}
    return Scripted(files, {by_name[key]: script for key, script in case.scripts.items()})


@settings(max_examples=2_000)
@given(case=cases())
def test_what_runs_in_the_end_is_the_best_of_what_arrived_and_every_loss_is_told(case, place):
    made = toy(case.n_blocks, place)
    arguments = {"int8_first": case.eight, "read_ahead": case.read_ahead, "retry": AT_ONCE, "device": "cpu"}
    refusal = case.scripts["index"].loss() or case.scripts["0/8" if case.eight else "0/32"].loss()
    with mock.patch.object(progressive, "open_source", return_value=source_of(case, made)):
        if refusal is not None:
            with pytest.raises(BundleError, match=refusal):
                Watched.open("scripted", case.order, **arguments)
            return
        model = Watched.open("scripted", case.order, **arguments)
    with model:
        status = model.wait(timeout=PATIENCE_S)
        answers = [*model.answers, model.predict(INPUTS)]
        check(model, status, foreseen(case, [shard.block for shard in model._feed.plan][: case.n_blocks]))
    for answer in answers:
        assert torch.equal(answer.logits, made.expected(answer.mask)), answer.mask
    assert answers[-1].mask == status.mask


def check(model, status, outcome):
    """The loader did what the model says."""
    assert status.mask == outcome.mask
    assert [(event.shard, event.mask) for event in model.events if event.kind == "swap"] == outcome.swaps
    assert status.failed.keys() == outcome.failed.keys()
    for name, why in outcome.failed.items():
        assert why in status.failed[name]
    told = [(event.shard, event.message) for event in model.events if event.kind == "failed"]
    assert dict(told) == status.failed
    assert len(told) == len(status.failed)
    assert model.events[-1].kind == "done"
    states = {name: state for name, state in status.blocks.items() if name not in status.failed and "boot" not in name}
    assert states == {name: state for name, state in outcome.states.items() if name not in status.failed}
    teacher = "T" * model.index.n_blocks
    if status.mask == teacher:
        assert model.wait(teacher, 0).mask == teacher
        return
    with pytest.raises(LoadingError, match="will not be reached") as caught:
        model.wait(teacher, 0)
    for name, why in status.failed.items():
        assert f"{name}: {why}" in str(caught.value)
    assert "the model was closed" not in str(caught.value)
