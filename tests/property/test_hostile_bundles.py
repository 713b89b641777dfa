"""Bundles that somebody made to do harm, their checksums right: a BundleError with its reason, or a network that loads.

Never any other error, never a wait without an end, and never more memory than a bound: what an index claims costs nothing.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from bundles import FAMILIES, bundle_of, pair_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import mutated, mutated_bytes
from safetensors.torch import load, save

from pwl_lab.loading.bundle import (
    BundleIndex,
    Inputs,
    check_folder,
    empty_teacher,
    parts_of_unit,
    read_index,
    state_of,
    write_bundle,
)
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.loading.server import BundleServer
from pwl_lab.loading.sources import INDEX, BundleError
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.support.retries import Retry

ONCE = Retry(tries=1)
AT_ONCE = Retry(first_wait_s=0.0)
PATIENCE_S = 60
MOST_BYTES = 64 * 2**20  # of a bundle of some kilobytes: a thousandth of what its index may claim
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """A valid bundle of every family, file by file."""
    made = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp("valid") / family
        bundle_of(pair_of(family), folder, family)
        made[family] = {path.name: path.read_bytes() for path in folder.iterdir()}
        attempt(folder, "best", True)  # whatever a first use loads is not counted later
    return made


def attempt(folder: Path, order: str = "prefix", int8_first: bool = False) -> str | None:
    """Open a bundle and wait for all of it; what was said where it cannot be opened. Any other error goes through."""
    try:
        model = ProgressiveModel.open(
            folder, order, device="cpu", int8_first=int8_first, retry=ONCE, timeout=PATIENCE_S
        )
    except BundleError as error:
        return str(error)
    except InvalidValueError as error:
        # An order, or 8 bits, that this bundle has nothing for: what the caller asked for is wrong then.
        return str(error) if str(error).startswith(("order = 'best' ", "(block, bits) = ")) else fail(error)
    with model:
        assert model.wait(timeout=PATIENCE_S).finished
    return None


def fail(error: Exception) -> str:
    raise AssertionError("an error that is not documented") from error


def signed(files: Files, lengths: bool = True) -> Files:
    """The files with checksums made right in the index, and lengths, too."""
    try:
        index = json.loads(files[INDEX])
        for shard in index["shards"]:
            content = files[shard["file"]]
            shard["sha256"] = hashlib.sha256(content).hexdigest()
            if lengths:
                shard["bytes"] = len(content)
    except (ValueError, KeyError, TypeError, RecursionError):
        return files  # an index that names no files as it should
    return files | {INDEX: json.dumps(index).encode("utf-8", "surrogatepass")}


def laid_down(files: Files, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@contextmanager
def within(most_bytes: int) -> Iterator[None]:
    """Inside, this process's memory must not grow by more, not for a moment."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    yield
    grown = memory("VmHWM") - before
    assert grown <= most_bytes, f"{grown / 2**20:.0f} MB"


def memory(what: str) -> int:
    """A number of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is Linux's to tell")
often = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
orders = st.sampled_from(["prefix", "suffix", "best", "2-3-1"])


@linux
@often
@given(data=st.data(), family=st.sampled_from(sorted(FAMILIES)), order=orders, eight=st.booleans())
def test_a_hostile_index_is_refused_or_loads(data, family, order, eight, bundles, tmp_path) -> None:
    files = dict(bundles[family])
    index = data.draw(mutated(json.loads(files[INDEX])))
    files[INDEX] = json.dumps(index).encode("utf-8", "surrogatepass")
    folder = laid_down(signed(files, lengths=data.draw(st.booleans())), tmp_path / "bundle")
    with within(MOST_BYTES):
        attempt(folder, order, eight)
        for other in (check_folder, lambda folder: BundleServer(folder).close()):
            with_errors(other, folder)


@linux
@often
@given(data=st.data(), family=st.sampled_from(sorted(FAMILIES)), order=orders, eight=st.booleans())
def test_hostile_shards_are_refused_or_load(data, family, order, eight, bundles, tmp_path) -> None:
    files = dict(bundles[family])
    shards = [name for name in sorted(files) if name != INDEX]
    for name in data.draw(st.lists(st.sampled_from(shards), min_size=1, max_size=3, unique=True)):
        source = data.draw(st.sampled_from([name, name, *shards]))  # sometimes another shard's bytes
        files[name] = data.draw(mutated_bytes(bundles[family][source]))
    folder = laid_down(signed(files), tmp_path / "bundle")
    with within(MOST_BYTES):
        attempt(folder, order, eight)


def with_errors(call: Callable[[Path], object], folder: Path) -> None:
    """What `call` documents is all that it raises."""
    with suppress(BundleError, InvalidValueError):
        call(folder)


def with_index(files: Files, **changes: object) -> Files:
    return signed(files | {INDEX: json.dumps(json.loads(files[INDEX]) | changes).encode()}, lengths=False)


HUGE = {"family": "mlp", "n_inputs": 6, "widths": [20_000] * 3}


@linux
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": HUGE}, r"block-1\.safetensors .* take 560,\d+"),
        ({"student": HUGE}, r"boot\.safetensors .* take 3,200,\d+,\d+"),
        ({"teacher": HUGE | {"widths": [10**30] * 3}}, "networks that cannot be built"),
        (
            {"teacher": {"family": "vgg", "channels": [3] * 3, "convolutions": [10**9] * 3}},
            "cannot be built .*more than [0-9]+ tensors",
        ),
        (
            {"teacher": {"family": "resnet", "channels": [3] * 3, "depths": [10**9] * 3}},
            "cannot be built .*more than [0-9]+ tensors",
        ),
        (
            {"student": {"family": "vit", "width": 4, "layers": [10**9] * 3}},
            "cannot be built .*more than [0-9]+ tensors",
        ),
        (
            {"teacher": {"family": "transformer", "n_tokens": 6, "width": 4, "heads": 2, "layers": 10**9}},
            "1000000000 blocks and 8 shards",
        ),
        ({"student": {"family": "vit", "width": 4, "layers": [1] * 3, "mlp_ratio": 1e308}}, "cannot be built"),
        ({"student": {"family": "vit", "width": 4, "layers": [1] * 3, "image_size": 10**30}}, "cannot be built"),
        ({"teacher_shapes": [[10**6], [10**6], [10**6]]}, "take"),
        ({"teacher_shapes": [[12], [11]]}, "one shape for each"),
        ({"teacher_shapes": [[12], [], [10]]}, r"teacher_shapes\.1"),
        ({"teacher_shapes": [[12, 1, 1, 1], [11], [10]]}, "cannot be built"),
        ({"inputs": {"shape": []}}, "inputs.shape"),
        ({"inputs": {"shape": [-6]}}, "inputs.shape"),
        ({"inputs": {"shape": [6], "mean": [0.5], "std": [0.5]}}, "1 means and 1 standard deviations for 6 channels"),
        ({"inputs": {"shape": [1], "mean": [0.5], "std": [0.0]}}, "inputs.std"),
        ({"accuracies": {"validation": {"SSS": float("nan")}}}, r"accuracies\.validation\.SSS"),
        ({"accuracies": {"validation": {"SSS": float("inf")}}}, r"accuracies\.validation\.SSS"),
        ({"accuracies": {"validation": {"SSS": 95.0}}}, r"accuracies\.validation\.SSS"),
    ],
    ids=str,
)
def test_what_an_index_claims_is_held_against_the_bytes(changes, words, bundles, tmp_path) -> None:
    folder = laid_down(with_index(bundles["mlp"], **changes), tmp_path / "bundle")
    with within(MOST_BYTES):
        for reader in (check_folder, refused):
            with pytest.raises(BundleError, match=words) as said:
                reader(folder)
            assert "\n" not in str(said.value)


def refused(folder: Path) -> None:
    """Raise what a claim is refused with: all of the bundle for its boot set, its own block for a teacher's."""
    with ProgressiveModel.open(folder, "best", retry=AT_ONCE, timeout=PATIENCE_S) as model:
        failed = model.wait(timeout=PATIENCE_S).failed
        assert len(failed) >= 1
        assert set(model.mask) <= {"S", "T"}
    raise BundleError("; ".join(failed.values()))


@linux
def test_lengths_that_fit_what_is_claimed_cost_nothing_either(bundles, tmp_path) -> None:
    """The first teacher block is there, the others are claims: nothing is built for what has not come."""
    index = json.loads(bundles["mlp"][INDEX])
    wide = index["teacher"] | {"widths": [12, 20_000, 20_000]}
    index |= {"teacher": wide, "teacher_shapes": [[12], [20_000], [20_000]]}
    index["shards"] = [shard for shard in index["shards"] if shard["bits"] == 32]
    claims = BundleIndex.model_validate(index)
    for block in (2, 3):
        weights = state_of(parts_of_unit(*empty_teacher(claims), block)).values()
        index["shards"][block]["bytes"] = sum(tensor.nbytes for tensor in weights) + 1_000
    assert index["shards"][3]["bytes"] > 1.6e9
    folder = laid_down(bundles["mlp"] | {INDEX: json.dumps(index).encode()}, tmp_path / "bundle")
    with within(MOST_BYTES), ProgressiveModel.open(folder, retry=ONCE, timeout=PATIENCE_S) as model:
        status = model.wait(timeout=PATIENCE_S)
    assert status.mask == "TSS"
    assert set(status.failed) == {"block 2", "block 3"}


@pytest.mark.parametrize("depth", [1_000, 10_000, 100_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"made":{"a":'])
def test_an_index_nested_too_deep_is_refused(depth, opening, tmp_path) -> None:
    text = opening * depth
    with pytest.raises(BundleError, match=INDEX):
        read_index(text, "here")
    with pytest.raises(InvalidValueError, match=INDEX):
        BundleServer(laid_down({INDEX: text}, tmp_path / "bundle"))


def rewritten(content: bytes, change: Callable[[dict], dict]) -> bytes:
    return save(change(load(content)))


def spoilt(tensors: dict, value: float, name: str) -> dict:
    tensors[name].view(-1)[0] = value
    return tensors


@pytest.mark.parametrize(
    ("bits", "change", "words"),
    [
        (32, lambda _: b"not safetensors at all", "not a safetensors file"),
        (
            32,
            lambda content: rewritten(content, lambda t: spoilt(t, float("nan"), "blocks.0.0.weight")),
            "NaN or infinite",
        ),
        (32, lambda content: rewritten(content, lambda t: spoilt(t, float("inf"), "head.bias")), "NaN or infinite"),
        (
            8,
            lambda content: rewritten(content, lambda t: {n: x for n, x in t.items() if "int8" not in n}),
            "only together",
        ),
        (
            8,
            lambda content: rewritten(content, lambda t: {n: x for n, x in t.items() if "scale" not in n}),
            "together with",
        ),
        (
            8,
            lambda content: rewritten(content, lambda t: spoilt(t, float("nan"), "head.weight::scale:float32")),
            "NaN or infinite scales",
        ),
        (8, lambda content: rewritten(content, lambda t: spoilt(t, float("inf"), "head.bias")), "NaN or infinite"),
    ],
)
def test_a_boot_set_with_the_right_checksum_and_the_wrong_content_says_why(
    bits, change, words, bundles, tmp_path
) -> None:
    name = "boot.safetensors" if bits == 32 else "boot-8bit.safetensors"
    files = bundles["mlp"] | {name: change(bundles["mlp"][name])}
    folder = laid_down(signed(files, lengths=len(files[name]) > 100), tmp_path / "bundle")
    said = attempt(folder, int8_first=bits == 8)
    assert said is not None
    if len(files[name]) > 100:
        assert words in said
        assert name in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("int8", [True, False])
def test_a_pair_with_weights_that_are_not_finite_is_not_exported(value, int8, tmp_path) -> None:
    net = pair_of("mlp")
    with torch.no_grad():
        net.teacher.blocks[1][0].bias[0] = value
    teacher, student, shape = FAMILIES["mlp"]
    with pytest.raises(InvalidValueError, match="NaN or infinite"):
        write_bundle(net, (teacher, student), tmp_path / "bundle", Inputs(shape=shape), int8=int8)
    assert not list(tmp_path.iterdir())
