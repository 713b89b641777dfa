"""Batch norms of a frozen network, folded into the convolutions before them: in eval mode both are one affine map.

A folded copy gives the values of the network up to rounding, and takes less time forwards and backwards. What has to
be the network bit for bit keeps using the network itself.
"""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Net = TypeVar("Net", bound=nn.Module)


def folded(net: Net) -> Net:
    """A copy in eval mode, frozen, without the batch norms that directly follow a convolution.

    Which ones do is known of a `nn.Sequential`; any other module names them in `conv_norm_pairs`, as attributes of its own.
    A max-pooling may stand between the two where the norm's scale is positive throughout: a negative one would turn the
    largest value into the smallest, so such a norm stays.
    """
    frozen = copy.deepcopy(net).eval()
    for module in list(frozen.modules()):
        for conv, norm in _pairs(module):
            setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
    return frozen.eval().requires_grad_(False)


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """The names of each convolution in `module` and of the norm to be folded into it."""
    if not isinstance(module, nn.Sequential):
        return list(getattr(module, "conv_norm_pairs", ()))
    parts, found = list(module.named_children()), []
    for index, (name, conv) in enumerate(parts):
        follow = parts[index + 1 : index + 3]
        pooled = bool(follow) and isinstance(follow[0][1], nn.MaxPool2d)
        if isinstance(conv, nn.Conv2d) and len(follow) > pooled:
            norm_name, norm = follow[pooled]
            if isinstance(norm, nn.BatchNorm2d) and (not pooled or bool((norm.weight > 0).all())):
                found.append((name, norm_name))
    return found
