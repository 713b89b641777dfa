"""Bundles: what is written is what is read, bit for bit; what is damaged or foreign is refused by name."""

import json
from pathlib import Path

import pytest
import torch
from bundles import FAMILIES, bundle_of, expected, inputs_for, pair_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from pwl_lab.loading.bundle import Inputs, check_folder, read_index, write_bundle
from pwl_lab.loading.sources import INDEX, BundleError, FolderSource
from pwl_lab.loading.tensors import TensorFormatError, view_tensors
from pwl_lab.loading.units import Workshop, assemble
from pwl_lab.models import MLPConfig, build
from pwl_lab.support.errors import InvalidValueError, MissingDataError
from pwl_lab.swap.swapnet import SwapNet


def buffer(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def loaded(folder: Path, bits: int = 32):
    """Student and teacher units of a bundle, all of them."""
    index = check_folder(folder)
    workshop = Workshop(index, "cpu")
    shards = {block: index.shard(block, bits) for block in range(1, index.n_blocks + 1)}
    student = workshop.student(index.shard(0), buffer((folder / index.shard(0).file).read_bytes()))
    units = {block: workshop.unit(s, buffer((folder / s.file).read_bytes())) for block, s in shards.items()}
    return student, units


@pytest.mark.parametrize("family", FAMILIES)
def test_every_mask_out_of_a_bundle_computes_what_the_pair_computes(family, tmp_path):
    net, inputs = pair_of(family), inputs_for(family)
    bundle_of(net, tmp_path / "bundle", family)
    student, units = loaded(tmp_path / "bundle")
    for mask, logits in expected(net, inputs).items():
        with torch.inference_mode():
            assert torch.equal(assemble(mask, student, units)(inputs), logits), mask


@pytest.mark.parametrize("family", FAMILIES)
def test_as_int8_the_teacher_is_nearly_the_same(family, tmp_path):
    net, inputs = pair_of(family), inputs_for(family)
    bundle_of(net, tmp_path / "bundle", family)
    _, units = loaded(tmp_path / "bundle", bits=8)
    with torch.inference_mode():
        found = assemble("TTT", {}, units)(inputs)
    whole = expected(net, inputs)["TTT"]
    assert not torch.equal(found, whole)
    assert (found - whole).norm() < 0.1 * whole.norm()


def test_as_int8_a_block_takes_about_a_fourth_of_the_bytes(tmp_path):
    wide, shape = MLPConfig(n_inputs=6, widths=(128, 128)), (6,)
    net = SwapNet(build(wide, 0), build(wide, 1), shape)
    index = write_bundle(net, (wide, wide), tmp_path / "bundle", Inputs(shape=shape))
    assert 0.2 < index.shard(2, 8).bytes / index.shard(2).bytes < 0.3


def test_the_shards_hold_each_weight_once(tmp_path):
    net = pair_of("resnet")
    index = bundle_of(net, tmp_path / "bundle", "resnet")
    names = []
    for shard in index.shards:
        tensors = view_tensors(buffer((tmp_path / "bundle" / shard.file).read_bytes()))
        names += [(shard.block, name) for name in tensors] if shard.bits == 32 else []
    parts = [net.student, net.teacher, net.converters]
    assert len(names) == sum(len(part.state_dict()) for part in parts)
    assert (1, "decoder.map.weight") not in names
    assert (2, "decoder.map.weight") in names
    assert (3, "encoder.map.weight") not in names


def test_the_index_knows_length_and_checksum_of_each_file(tmp_path):
    index = bundle_of(pair_of("vgg"), tmp_path / "bundle")
    assert check_folder(tmp_path / "bundle") == index
    assert [shard.name for shard in index.shards[:3]] == ["boot", "block 1", "block 2"]
    assert index.teacher_bytes == sum(
        (tmp_path / "bundle" / f"block-{n}.safetensors").stat().st_size for n in (1, 2, 3)
    )
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.unlink):
        damage(tmp_path / "bundle" / "block-2.safetensors")
        with pytest.raises(BundleError, match=r"block-2\.safetensors"):
            check_folder(tmp_path / "bundle")


def test_an_earlier_bundle_is_replaced_and_nothing_else(tmp_path):
    bundle_of(pair_of("vgg"), tmp_path / "bundle")
    index = bundle_of(pair_of("mlp"), tmp_path / "bundle", "mlp")
    assert check_folder(tmp_path / "bundle") == index
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years")
    with pytest.raises(InvalidValueError, match="an earlier bundle"):
        bundle_of(pair_of("mlp"), tmp_path / "other", "mlp")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "other"]


@pytest.mark.parametrize(
    "name", ["", " ", "s3://me:secret@bucket/b", "s3:/bucket", "a\0b", "\udcff", "~nobody-of-that-name/b"]
)
def test_what_names_no_folder_of_this_machine_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValueError, match=r"^folder = ") as said:
        bundle_of(pair_of("mlp"), Path(name), "mlp")
    assert "secret" not in str(said.value)
    assert not list(tmp_path.iterdir())


def test_a_home_is_the_same_for_who_writes_and_who_opens(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    index = bundle_of(pair_of("mlp"), Path("~/bundle"), "mlp")
    assert check_folder(tmp_path / "bundle") == index
    with FolderSource("~/bundle") as source:
        assert source.path == tmp_path / "bundle"


def test_weights_that_share_memory_are_written_out_for_each_block(tmp_path):
    model = MLPConfig(n_inputs=6, widths=(6, 6, 6))
    net = SwapNet(build(model, 1), build(model, 2), (6,)).eval()
    for one in (net.teacher, net.student):
        one.blocks[1] = one.blocks[0]  # the same block twice
        one.blocks[2][0].weight = one.blocks[0][0].weight  # the same weights in two
        one.head.bias = torch.nn.Parameter(one.blocks[2][0].bias.detach()[2:4])  # part of another
    write_bundle(net, (model, model), tmp_path / "bundle", Inputs(shape=(6,)))
    student, units = loaded(tmp_path / "bundle")
    inputs = inputs_for("mlp")
    for mask, logits in expected(net, inputs).items():
        with torch.inference_mode():
            assert torch.equal(assemble(mask, student, units)(inputs), logits), mask


def test_what_no_index_can_say_is_refused_in_words_and_leaves_the_folder_alone(tmp_path):
    net = pair_of("mlp")
    index = bundle_of(net, tmp_path / "bundle", "mlp")
    shorter = index.student.model_copy(update={"widths": (8, 9)})
    with pytest.raises(InvalidValueError, match=r"cannot be written as a bundle.*teacher has 3 blocks, the student 2"):
        write_bundle(net, (index.teacher, shorter), tmp_path / "bundle", index.inputs)
    assert check_folder(tmp_path / "bundle") == index
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_without_an_index_is_no_bundle(tmp_path):
    with pytest.raises(MissingDataError, match="not a bundle"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"format 2.*reads up to 1"),
        ({"student": {"family": "vgg", "channels": [3, 5], "convolutions": [1, 1]}}, "student 2"),
        ({"student": {"family": "alexnet"}}, "student"),
        ({"shards": []}, "shards"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_an_index_that_does_not_hold_together_is_refused(change, message, tmp_path):
    bundle_of(pair_of("vgg"), tmp_path / "bundle")
    content = json.loads((tmp_path / "bundle" / INDEX).read_text()) | change
    with pytest.raises(BundleError, match=message):
        read_index(json.dumps(content).encode(), "here")


@pytest.mark.parametrize("file", ["../boot.safetensors", "/etc/passwd", ".boot.safetensors", "boot.pt", ""])
def test_an_index_names_plain_files_only(file, tmp_path):
    bundle_of(pair_of("vgg"), tmp_path / "bundle")
    content = json.loads((tmp_path / "bundle" / INDEX).read_text())
    content["shards"][0]["file"] = file
    with pytest.raises(BundleError, match="file"):
        read_index(json.dumps(content).encode(), "here")


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xfe", b'{"format": "1"}'])
def test_what_is_no_index_is_refused(text):
    with pytest.raises(BundleError):
        read_index(text, "here")


@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=5),
        st.tuples(
            st.sampled_from([torch.float32, torch.int64, torch.int8, torch.bool]),
            st.lists(st.integers(0, 3), max_size=3),
        ),
        max_size=5,
    )
)
def test_tensors_are_views_of_the_file_they_came_in(wanted):
    random = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(0, 2, tuple(shape), generator=random).to(dtype) for name, (dtype, shape) in wanted.items()
    }
    content = buffer(save(tensors))
    found = view_tensors(content)
    assert found.keys() == tensors.keys()
    low, high = content.data_ptr(), content.data_ptr() + len(content)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
        assert found[name].numel() == 0 or low <= found[name].data_ptr() < high


@given(st.data())
def test_a_cut_file_is_refused(data):
    content = save({"a": torch.arange(6.0), "b": torch.zeros(2, dtype=torch.int64)})
    end = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(TensorFormatError):
        view_tensors(buffer(content[:end]) if end else torch.empty(0, dtype=torch.uint8))


def test_weights_of_another_network_are_refused(tmp_path):
    index = bundle_of(pair_of("vgg"), tmp_path / "bundle")
    other = index.model_copy(update={"teacher": index.teacher.model_copy(update={"channels": (4, 6, 9)})})
    content = buffer((tmp_path / "bundle" / "block-3.safetensors").read_bytes())
    with pytest.raises(BundleError, match=r"block-3\.safetensors: .* does not fit"):
        Workshop(other, "cpu").unit(index.shard(3), content)
