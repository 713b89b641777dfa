"""Transformers of Hugging Face by their encoder layers: small random configurations, nothing is downloaded."""

from typing import Any, Literal

import torch
import transformers
from torch import nn
from torch.nn import functional as F

from pwl_lab.models import BlockNet, ModelConfig

LAYERS, LENGTH, TOKENS, CLASSES = 3, 9, 5, 3


def class_token(tokens):
    return tokens[:, 0]


def class_token_and_mean(tokens):
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)


def symbols(logits):
    return logits[..., :CLASSES]  # the mask and the padding are never the answer


VISION = {
    "vit": ("ViT", "vit", class_token),
    "deit": ("DeiT", "deit", class_token),
    "dinov2": ("Dinov2", "dinov2", class_token_and_mean),
}
MASKED = {
    "bert": ("Bert", "bert", ["cls"]),
    "roberta": ("Roberta", "roberta", ["lm_head"]),
    "distilbert": (
        "DistilBert",
        "distilbert",
        ["vocab_transform", F.gelu, "vocab_layer_norm", "vocab_projector"],
    ),
    "electra": ("Electra", "electra", ["generator_predictions", "generator_lm_head"]),
}


def sizes(width: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
    }


def made(name: str, task: str, **settings: Any) -> nn.Module:
    """A network of the library with initial weights."""
    return getattr(transformers, f"{name}For{task}")(getattr(transformers, f"{name}Config")(**settings))


def layers_of(net: nn.Module) -> list[str]:
    """The paths of the encoder's layers, whatever the version calls them."""
    (found,) = [name for name, one in net.named_modules() if isinstance(one, nn.ModuleList) and len(one) == LAYERS]
    return [f"{found}.{number}" for number in range(LAYERS)]


class Encoder(ModelConfig):
    """A transformer of some kind and width, with its encoder's layers as blocks."""

    kind: str
    width: int

    @property
    def n_blocks(self) -> int:
        return LAYERS


class HFVision(Encoder):
    """A vision transformer for pictures of 8 x 8 in patches of 4 x 4."""

    family: Literal["hf vision"] = "hf vision"

    def make(self) -> BlockNet:
        name, path, read_out = VISION[self.kind]
        settings = sizes(self.width) | {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": CLASSES}
        net = made(name, "ImageClassification", **settings)
        head = [f"{path}.layernorm", read_out, "classifier"]
        return BlockNet.of(net, (1, 8, 8), stem=f"{path}.embeddings", blocks=layers_of(net), head=head, channels="last")


class Answering(nn.Module):
    """A masked language model with logits for the symbols alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens):
        return symbols(self.net(tokens).logits)


class HFMasked(Encoder):
    """A masked language model, whose output layer may share its weights with the embedding."""

    family: Literal["hf masked"] = "hf masked"

    def make(self) -> BlockNet:
        name, path, head = MASKED[self.kind]
        settings = sizes(self.width) | {"vocab_size": TOKENS, "max_position_embeddings": LENGTH + 2}
        if self.kind == "electra":
            settings["embedding_size"] = self.width
        if self.kind == "distilbert":  # has names of its own
            settings |= {"dim": self.width, "hidden_dim": 2 * self.width, "n_layers": LAYERS, "n_heads": 2}
        net = Answering(made(name, "MaskedLM", **settings))
        head = [f"net.{part}" if isinstance(part, str) else part for part in head]
        return BlockNet.of(
            net, (LENGTH,), stem=f"net.{path}.embeddings", blocks=layers_of(net), head=[*head, symbols],
            channels="last", n_tokens=TOKENS,
        )  # fmt: skip
