"""Networks as a stem, a sequence of blocks and a head."""

from pwl_lab.models.blocknet import BlockNet, ModelConfig, build
from pwl_lab.models.convnets import ResNetConfig, VGGConfig, resnet, vgg
from pwl_lab.models.language import LanguageTransformerConfig, language_transformer
from pwl_lab.models.mlp import MLPConfig, mlp
from pwl_lab.models.transformer import TransformerConfig, transformer
from pwl_lab.models.vit import ViTConfig, vit

__all__ = [
    "BlockNet",
    "LanguageTransformerConfig",
    "MLPConfig",
    "ModelConfig",
    "ResNetConfig",
    "TransformerConfig",
    "VGGConfig",
    "ViTConfig",
    "build",
    "language_transformer",
    "mlp",
    "resnet",
    "transformer",
    "vgg",
    "vit",
]
