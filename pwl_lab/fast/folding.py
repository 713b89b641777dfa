"""Fold the batch norms of a frozen network into the convolutions before them: in eval mode the two are one affine map.

A folded copy computes the same values up to rounding, in less time forward and backward. Code that needs the network's
values bit for bit uses the network itself.
"""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Net = TypeVar("Net", bound=nn.Module)


def folded(net: Net) -> Net:
    """A frozen copy in eval mode, without the batch norms that directly follow a convolution.

    In a `nn.Sequential` these are found by position; any other module lists the attributes in `conv_norm_pairs`.
    There may be a max pooling between the two if the norm's scale is positive everywhere: a negative one would turn the
    largest value into the smallest, so such a norm is kept.
    """
    frozen = copy.deepcopy(net).eval()
    for module in list(frozen.modules()):
        for conv, norm in _pairs(module):
            setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
    return frozen.eval().requires_grad_(False)


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """The names of each convolution in `module` and of the norm to fold into it."""
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
