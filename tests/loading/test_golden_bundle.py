"""A bundle of format 1 as an earlier version wrote it: today's code reads it, and writes the same pair to the same bytes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pwl_lab.loading.bundle import check_folder, parts_of_unit, write_bundle
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.loading.sources import INDEX
from pwl_lab.loading.units import Workshop, assemble
from pwl_lab.models import build
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.swapnet import SwapNet

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
BUNDLE = GOLDEN / "bundle"
LOGITS = load_file(GOLDEN / "bundle-logits.safetensors")
INPUTS = LOGITS.pop("inputs")


@pytest.mark.parametrize("bits", [32, 8])
def test_every_mask_of_an_earlier_bundle_answers_as_it_did(bits):
    index = check_folder(BUNDLE)
    workshop = Workshop(index, "cpu")

    def content(block):
        return torch.frombuffer(bytearray((BUNDLE / index.shard(block, bits).file).read_bytes()), dtype=torch.uint8)

    student = workshop.student(index.shard(0, bits), content(0))
    teacher = {block: workshop.unit(index.shard(block, bits), content(block)) for block in (1, 2, 3)}
    for mask in all_masks(3):
        with torch.inference_mode():
            found = assemble(mask, student, teacher)(INPUTS)
        torch.testing.assert_close(found, LOGITS[mask if bits == 32 else mask.lower()])


@pytest.mark.parametrize("first", [False, True])
def test_an_earlier_bundle_loads_and_has_what_its_index_says(first):
    with ProgressiveModel.open(BUNDLE, "best", device="cpu", int8_first=first) as model:
        model.wait("TTT", 60)
        torch.testing.assert_close(model.predict(INPUTS).logits, LOGITS["TTT"])
        assert model.index.class_names == ("left", "right", "none")
        assert (model.index.inputs.mean, model.index.inputs.std) == ((0.3,), (0.5,))


def test_the_same_pair_is_written_to_the_same_bytes(tmp_path):
    index = check_folder(BUNDLE)
    net = SwapNet(build(index.teacher, 0), build(index.student, 0), index.inputs.shape)
    net.student.load_state_dict(load_file(BUNDLE / "boot.safetensors"))
    for block in (1, 2, 3):
        unit = nn.ModuleDict(parts_of_unit(net.teacher, net.converters, block))
        unit.load_state_dict(load_file(BUNDLE / f"block-{block}.safetensors"))
    models, facts = (index.teacher, index.student), (index.inputs, index.class_names, index.accuracies, index.made)
    written = write_bundle(net, models, tmp_path / "bundle", *facts)
    assert written == index  # names, lengths and checksums of the shards among it
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == {path.name for path in BUNDLE.iterdir()}
    assert json.loads((tmp_path / "bundle" / INDEX).read_text()) == json.loads((BUNDLE / INDEX).read_text())
