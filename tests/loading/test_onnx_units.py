"""Bundles as ONNX units: what is written computes what torch computes, and whatever cannot be is refused as a whole."""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from toys import used
from typer.testing import CliRunner

from pwl_lab.cli import app
from pwl_lab.loading import onnx_units
from pwl_lab.loading.bundle import inputs_of, write_bundle
from pwl_lab.loading.onnx_units import FLOAT_ACTIVATIONS, MODEL, chain, write_units
from pwl_lab.loading.tensors import dequantise, quantise
from pwl_lab.models import BlockNet, build, resnet, vgg, vit
from pwl_lab.models.blocknet import ModelConfig
from pwl_lab.support.errors import InvalidValueError, MissingDataError
from pwl_lab.support.files import file_sha256
from pwl_lab.swap.evaluation import score_masks
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.swapnet import SwapNet, mask_logits
from pwl_lab.tasks.images import ImageTask

onnx = pytest.importorskip("onnx", reason="the extra `web` is not installed")
ort = pytest.importorskip("onnxruntime", reason="the extra `web` is not installed")
pytest.importorskip("onnxscript", reason="the extra `web` is not installed")
TASK = ImageTask("fashion-mnist-small")
MODELS: dict[str, Callable[[int], ModelConfig]] = {
    "vgg": lambda width: vgg(TASK, (width, 8), (1, 2)),
    "resnet": lambda width: resnet(TASK, (width, 8), (1, 1)),
    "vit": lambda width: vit(TASK, width, 2, (1, 1)),
}
N_IMAGES = 80
FLOAT = 1  # of ONNX's data types


class OddConfig(ModelConfig):
    """A network of a reader's own with an operation that no ONNX operator stands for."""

    family: Literal["odd-for-onnx"] = "odd-for-onnx"

    @property
    def n_blocks(self) -> int:
        return 1

    def make(self) -> BlockNet:
        return BlockNet(torch.nn.Flatten(), [Odd()], torch.nn.Linear(28 * 28, 10))


class Odd(torch.nn.Module):
    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return state + torch.special.airy_ai(state[:, :1])


def bundle_of(folder: Path, configs: tuple[ModelConfig, ModelConfig], int8: bool = True, **more) -> SwapNet:
    """A bundle of a pair for Fashion-MNIST that was never trained."""
    teacher, student = (used(build(config, seed), seed) for seed, config in enumerate(configs))
    net = SwapNet(teacher, student, TASK.input_shape, **more).eval()
    table = score_masks(net, TASK.sample(100)[1]).accuracies()
    made = {"task": TASK.fingerprint()}
    write_bundle(
        net, configs, folder, inputs_of(TASK), TASK.class_names, {"validation": table, "test": table}, made, int8
    )
    return net


@pytest.mark.parametrize("family", MODELS)
def test_units_in_a_chain_are_the_network_of_each_mask(family: str, tmp_path: Path) -> None:
    net = bundle_of(tmp_path / "bundle", (MODELS[family](48), MODELS[family](6)))
    coarse = copy.deepcopy(net)
    coarse.load_state_dict(dequantise(quantise(net.state_dict())))
    written = write_units(tmp_path / "bundle", tmp_path / "units", N_IMAGES)
    assert written == json.loads((tmp_path / "units" / MODEL).read_text()) | {
        "inputs": written["inputs"],  # tuples, which JSON has not
        "class_names": TASK.class_names,
    }
    options = ort.SessionOptions()
    options.add_session_config_entry(*FLOAT_ACTIVATIONS)
    sessions = {
        name: ort.InferenceSession(tmp_path / "units" / unit["file"], options)
        for name, unit in written["units"].items()
    }
    for batch in (1, 7):
        inputs = TASK.sample(batch)[1].inputs
        small = {mask.lower(): logits for mask, logits in mask_logits(coarse, inputs, all_masks(2)).items()}
        for mask, logits in (mask_logits(net, inputs, all_masks(2)) | small).items():
            state = inputs.numpy()
            for name in chain(mask):
                [state] = sessions[name].run(None, {"state": state})
            np.testing.assert_allclose(state, logits.numpy(), atol=1e-4)
    assert written["checked"]["largest_difference"] < 1e-4
    sizes = {name: unit["bytes"] for name, unit in written["units"].items()}
    teacher, left = sum(sizes[name] for name in ("teacher-1", "teacher-2")), []
    for name in ("teacher-1", "teacher-2"):
        graph = onnx.load(tmp_path / "units" / f"{name}-8bit.onnx").graph
        left += [one for one in graph.initializer if len(one.dims) > 1 and one.data_type == FLOAT]
    assert sum(len(one.raw_data) for one in left) < 0.02 * teacher, "no weight stays float32"
    assert sizes["teacher-1-8bit"] + sizes["teacher-2-8bit"] < 0.6 * teacher, "graphs this small are half overhead"
    way = {"ss", "ts", "tt", "Tt", "st", "tT"}  # both orders of two blocks
    assert set(written["images"]["hits"]) == set(written["accuracies"]["test"]) == way | set(all_masks(2))


def test_the_index_describes_the_files_and_what_torch_makes_of_the_images(tmp_path: Path) -> None:
    net = bundle_of(tmp_path / "bundle", (MODELS["vgg"](12), MODELS["vgg"](6)))
    written = write_units(tmp_path / "bundle", tmp_path / "units", N_IMAGES)
    for facts in (*written["units"].values(), written["images"]):
        path = tmp_path / "units" / facts["file"]
        assert (path.stat().st_size, file_sha256(path)) == (facts["bytes"], facts["sha256"])
    shown, samples = TASK.sample(N_IMAGES)
    assert (tmp_path / "units" / "images.bin").read_bytes() == shown.numpy().tobytes()
    assert written["images"]["labels"] == samples.labels.tolist()
    hits = {mask: round(share * N_IMAGES) for mask, share in score_masks(net, samples).accuracies().items()}
    assert written["images"]["hits"].items() >= hits.items()
    student, teacher = (mask_logits(net, samples.inputs, ["SS", "TT"])[mask].argmax(-1) for mask in ("SS", "TT"))
    changes = [i for i, label in enumerate(samples.labels) if student[i] != label == teacher[i]]
    assert written["images"]["changes"] == changes[:12]
    assert written["arrivals"] == [["student-1", "student-2"], ["teacher-1", "encoder-1"], ["decoder-1", "teacher-2"]]
    assert written["orders"]["suffix"] == [2, 1]
    assert sorted(written["orders"]["best"]) == [1, 2]
    names = {path.name for path in (tmp_path / "units").iterdir()}
    assert names == {MODEL, "images.bin", *(f"{name}.onnx" for name in written["units"])}


def test_a_converter_that_changes_nothing_is_no_unit(tmp_path: Path) -> None:
    model = MODELS["vgg"](6)
    bundle_of(tmp_path / "bundle", (model, model), int8=False, placement="if_different")
    written = write_units(tmp_path / "bundle", tmp_path / "units", N_IMAGES)
    assert sorted(written["units"]) == ["student-1", "student-2", "teacher-1", "teacher-2"]
    assert written["arrivals"][1:] == [["teacher-1"], ["teacher-2"]]
    assert set(written["images"]["hits"]) == set(all_masks(2)), "no int8 without int8 in the bundle"


def test_a_chain_converts_where_the_owner_changes() -> None:
    assert chain("STTS") == ["student-1", "decoder-1", "teacher-2", "teacher-3", "encoder-3", "student-4"]
    assert chain("T") == ["teacher-1"]
    assert chain("stTS") == [
        "student-1-8bit",
        "decoder-1-8bit",
        "teacher-2-8bit",
        "teacher-3",
        "encoder-3",
        "student-4",
    ]


def test_an_operation_that_onnx_lacks_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    bundle_of(tmp_path / "bundle", (OddConfig(), OddConfig()))
    with pytest.raises(InvalidValueError, match=r"student-1 cannot be exported to ONNX: .*special_airy_ai"):
        write_units(tmp_path / "bundle", tmp_path / "units", N_IMAGES)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


def test_units_that_compute_something_else_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle_of(tmp_path / "bundle", (MODELS["vgg"](8), MODELS["vgg"](8)))
    monkeypatch.setattr(onnx_units, "chain", lambda mask: [name.replace("teacher", "student") for name in chain(mask)])
    with pytest.raises(InvalidValueError, match=r"the network S?T.*more than 0.0001. Nothing was written"):
        write_units(tmp_path / "bundle", tmp_path / "units", N_IMAGES)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


def test_what_is_no_bundle_of_known_images_is_refused(tmp_path: Path) -> None:
    models = (MODELS["vgg"](8), MODELS["vgg"](6))
    net = SwapNet(build(models[0], 0), build(models[1], 1), TASK.input_shape).eval()
    write_bundle(net, models, tmp_path / "bundle", inputs_of(TASK))
    with pytest.raises(
        InvalidValueError, match=r"images of one of fashion-mnist-small.*dataset of your own, import the module"
    ):
        write_units(tmp_path / "bundle", tmp_path / "units")
    with pytest.raises(MissingDataError, match="not a bundle"):
        write_units(tmp_path, tmp_path / "units")
    with pytest.raises(InvalidValueError, match="a folder that is new or empty"):
        write_units(tmp_path / "bundle", tmp_path)


def test_without_the_extra_a_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = CliRunner().invoke(app, ["export", str(tmp_path), "--to", "onnx", "--out", str(tmp_path / "units")])
    assert done.exit_code == 2
    assert "pip install -e '.[web]'" in done.output
