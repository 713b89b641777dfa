"""Transformers of Hugging Face by their encoder layers: small random configurations, nothing is downloaded."""

from typing import Literal

import pytest
import torch
from toys import ToyImages, ToyStrings

from pwl_lab.loading.bundle import check_folder
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.models import BlockNet, ModelConfig
from pwl_lab.study.verbs import train_or_load, train_pair
from pwl_lab.swap.masks import all_masks
from pwl_lab.training import TrainPlan

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
SIZES = {"num_hidden_layers": 3, "num_attention_heads": 2}
PLAN = TrainPlan(steps=4, batch_size=8, eval_every=2, optimiser="adam", lr=0.01)
PATIENCE_S = 60


class HFVision(ModelConfig):
    """A vision transformer; its head reads the class token."""

    family: Literal["hf vision"] = "hf vision"
    width: int

    @property
    def n_blocks(self) -> int:
        return 3

    def make(self) -> BlockNet:
        sizes = {"hidden_size": self.width, "intermediate_size": 2 * self.width, "image_size": 8, "patch_size": 4}
        config = transformers.ViTConfig(**SIZES, **sizes, num_channels=1, num_labels=3)
        net = transformers.ViTForImageClassification(config)
        head = ["vit.layernorm", lambda tokens: tokens[:, 0], "classifier"]
        return BlockNet.of(net, (1, 8, 8), stem="vit.embeddings", blocks=layers_of(net), head=head, channels="last")


class HFMasked(ModelConfig):
    """A masked language model, whose output layer shares its weights with the embedding."""

    family: Literal["hf masked"] = "hf masked"
    width: int

    @property
    def n_blocks(self) -> int:
        return 3

    def make(self) -> BlockNet:
        sizes = {"hidden_size": self.width, "intermediate_size": 2 * self.width, "max_position_embeddings": 9}
        net = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=5, **SIZES, **sizes))
        head = ["cls", lambda logits: logits[..., :3]]  # the mask and the padding are never the answer
        return BlockNet.of(
            Answering(net), (9,), stem="net.bert.embeddings", blocks=layers_of(net, "net."), head=named(head, "net."),
            channels="last", n_tokens=5,
        )  # fmt: skip


class Answering(torch.nn.Module):
    """The network with logits for the symbols alone."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens):
        return self.net(tokens).logits[..., :3]


def named(parts: list, before: str) -> list:
    return [before + part if isinstance(part, str) else part for part in parts]


def layers_of(net: torch.nn.Module, before: str = "") -> list[str]:
    """The paths of the encoder's layers, whatever the version calls them."""
    found = [name for name, module in net.named_modules() if type(module).__name__ in ("ViTLayer", "BertLayer")]
    assert len(found) == SIZES["num_hidden_layers"]
    return named(found, before)


CASES = {"vision": (HFVision, ToyImages(size=8), 6), "masked": (HFMasked, ToyStrings(), 5)}


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("kind", CASES)
def test_every_mask_of_a_pair_runs_and_its_bundle_opens(kind, tmp_path):
    config, task, positions = CASES[kind]
    positions = task.input_shape[0] if kind == "masked" else positions - 1  # four patches and the class token
    assert config(width=8).make().state_shapes(task.input_shape) == [(8, positions)] * 3
    teacher = train_or_load(config(width=8), task, PLAN, device="cpu")
    pair = train_pair(teacher, config(width=4), task, PLAN, device="cpu", to_export=True)
    assert set(pair.masks["mask"]) == set(all_masks(3))
    index = pair.export(tmp_path / "bundle")
    assert check_folder(tmp_path / "bundle") == index
    assert index.modules == {config.model_fields["family"].default: __name__}
    inputs = task.split("test").inputs
    with ProgressiveModel.open(tmp_path / "bundle", device="cpu") as model:
        model.wait("TTT", PATIENCE_S)
        answer = model.predict(inputs)
    with torch.no_grad():
        torch.testing.assert_close(answer.logits, pair.net(inputs, "TTT"))
