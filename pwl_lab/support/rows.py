"""Any `nn.Module` whose forward is a row of parts, cut into stem, blocks and head by the paths of its submodules."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pwl_lab.support.errors import InvalidValueError, invalid, unknown
from pwl_lab.support.own_code import located
from pwl_lab.support.seeding import generator, initialisation

# The path of a submodule, or what the module's forward does between submodules: a layer without weights, or a function.
Part = str | nn.Module | Callable[[Tensor], Tensor]
Parts = Part | Sequence[Part]
PROBES = 4  # inputs on which a row is compared with its module
TOLERANCE = 1e-4  # of the largest output


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A context in which `module` is in eval mode; afterwards each submodule returns to its previous mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        """`function` maps one tensor to another."""
        super().__init__()
        self.function = function

    def forward(self, state: Tensor) -> Tensor:
        """What the function returns."""
        return self.function(state)


class Row(nn.Sequential):
    """Parts one after the other. Of a part that returns several things, the tensor that comes first is handed on.

    Its `state_dict` also has the parts' buffers that are not persistent, since whatever affects the output is stored with
    the weights. The parts themselves are as before: the `state_dict` of the module that they belong to does not change.
    """

    def __init__(self, parts: Mapping[str, nn.Module], turned: tuple[bool, bool] = (False, False)) -> None:
        """`turned`: whether the input and the output have their channels in dimension 1, while the parts' are last."""
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.turned = turned

    def forward(self, state: Tensor) -> Tensor:
        """The output of the last part."""
        state = state.movedim(1, -1) if self.turned[0] else state
        for part in self:
            state = tensor_in(part(state))
        return state.movedim(-1, 1) if self.turned[1] else state

    def _unsaved(self) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
        """The buffers that the parts do not save: path, owner, name, value."""
        for path, owner in self.named_modules(remove_duplicate=False):
            for name in owner._non_persistent_buffers_set:
                if (value := owner._buffers.get(name)) is not None:
                    yield f"{path}.{name}", owner, name, value

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Called by `state_dict`, before the parts are asked."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for path, _, _, value in self._unsaved():
            destination[prefix + path] = value if keep_vars else value.detach()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Called by `load_state_dict`, with a `state_dict` of our own, before the parts are: they refuse these buffers."""
        for path, owner, name, value in self._unsaved():
            given = state_dict.pop(prefix + path, None)
            if given is None:
                missing_keys += [prefix + path] * strict
            elif given.shape != value.shape:
                error_msgs.append(f"size mismatch for {prefix + path}: {list(given.shape)}, not {list(value.shape)}")
            elif local_metadata.get("assign_to_params_buffers", False):
                setattr(owner, name, given)
            else:
                value.copy_(given)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def tensor_in(output: Any) -> Tensor:
    """A module's output if that is a tensor; its `logits`, or the first tensor in it, if it is a collection.

    Raises InvalidValueError if there is none.
    """
    if isinstance(output, Mapping) and "logits" in output:
        return tensor_in(output["logits"])
    several = isinstance(output, Mapping | list | tuple)
    for one in (output.values() if isinstance(output, Mapping) else output) if several else [output]:
        if isinstance(one, Tensor):
            return one
    raise invalid("output of a part", type(output).__name__, "a tensor, or a collection with a tensor in it")


def cut(
    module: nn.Module,
    input_shape: Sequence[int],
    stem: Parts,
    blocks: Sequence[Parts],
    head: Parts,
    channels: Literal["first", "last"] = "first",
    n_tokens: int | None = None,
) -> list[Row]:
    """The stem, the blocks and the head of a module; arguments and errors are those of `BlockNet.of`."""
    if isinstance(blocks, str) or not blocks:
        raise invalid("blocks", blocks, "a list with an entry for each block")
    if channels not in ("first", "last"):
        raise invalid("channels", channels, "first or last")
    groups = [_listed(group) for group in (stem, *blocks, head)]
    if not any(tensor.is_meta for tensor in module.state_dict(keep_vars=True).values()):
        _check(module, groups, channels == "last", tuple(input_shape), n_tokens)
    return _rows(module, groups, channels == "last")


def _listed(parts: Parts) -> list[Part]:
    return list(parts) if isinstance(parts, list | tuple) else [parts]  # type: ignore[list-item]  # one part


def _rows(module: nn.Module, groups: Sequence[Sequence[Part]], last: bool) -> list[Row]:
    """A row for each group of parts. Raises InvalidValueError for an unknown path and for one that is given twice."""
    used: set[str] = set()
    rows = []
    for number, group in enumerate(groups):
        named: dict[str, nn.Module] = {}
        for place, part in enumerate(group):
            if isinstance(part, str):
                if part in used:
                    raise invalid("part", part, "each submodule once")
                used.add(part)
                named[part.replace(".", "_")] = _submodule(module, part)
            elif callable(part):
                named[f"step{place}"] = part if isinstance(part, nn.Module) else Function(part)
            else:
                raise invalid("part", part, "the path of a submodule, a layer or a function")
        rows.append(Row(named, (last and number > 0, last and number < len(groups) - 1)))
    return rows


def _submodule(module: nn.Module, path: str) -> nn.Module:
    """The submodule at a path. Raises UnknownNameError, which names those that are there."""
    here, before = module, ""
    for name in path.split("."):
        there = dict(here.named_children())
        if name not in there:
            raise unknown(f"part of {located(type(module))}:", path, [f"{before}{one}" for one in there])
        here, before = there[name], f"{before}{name}."
    return here


@dataclass
class _Call:
    """A call of a submodule in the module's forward."""

    path: str
    given: Tensor | None
    more: list[str]  # further arguments that hold tensors
    returned: Tensor | None = None


@dataclass
class _Calls:
    """Records which submodules a forward calls: the named parts, and what is neither inside nor around one of them."""

    parts: set[str]
    made: list[_Call] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def watch(self, module: nn.Module) -> None:
        """Add hooks to every submodule."""
        for path, one in module.named_modules():
            if path and (path in self.parts or not any(part.startswith(f"{path}.") for part in self.parts)):
                one.register_forward_pre_hook(
                    lambda _, args, named, at=path: self.enter(at, args, named), with_kwargs=True
                )
                one.register_forward_hook(lambda _, args, output, at=path: self.leave(at, output))

    def enter(self, path: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Record the call unless it happens inside another one."""
        if not self._open:
            given = [one for one in args if isinstance(one, Tensor)] or [
                one for one in named.values() if isinstance(one, Tensor)
            ]
            more = [name for name, one in named.items() if isinstance(one, Tensor) and one is not given[0]]
            more += ["a second argument"] * any(isinstance(one, Tensor) for one in args[1:])
            self.made.append(_Call(path, given[0].clone() if given else None, more))
        self._open.append(path)

    def handed_over(self) -> list[_Call]:
        """The calls so far; what follows is recorded from the beginning."""
        made, self.made, self._open = self.made, [], []
        return made

    def leave(self, path: str, output: Any) -> None:
        """Record the output."""
        self._open.pop()
        if not self._open:
            try:
                self.made[-1].returned = tensor_in(output).clone()
            except InvalidValueError:
                self.made[-1].returned = None


def _check(
    module: nn.Module, groups: Sequence[Sequence[Part]], last: bool, shape: tuple[int, ...], n_tokens: int | None
) -> None:
    """Raise InvalidValueError unless the parts in a row compute what the module does, in training and in eval mode.

    They are compared on a copy with other weights, since initial weights may hide a difference: a position that begins as
    zero, a branch that begins as the identity.
    """
    what = located(type(module))
    inputs = _probe(shape, n_tokens, next(module.parameters(), None))
    for training in (True, False):
        other, parts = deepcopy((module, groups))  # at once: a part may hold a parameter of the module
        calls = _Calls({part for group in groups for part in group if isinstance(part, str)})
        random = generator(0, "probe", "row")
        with torch.no_grad(), initialisation(0, "probe", "row"):
            for parameter in other.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random).to(parameter))
            rows = _rows(other.train(training), parts, last)
            calls.watch(other)
            begin = torch.random.get_rng_state()
            computed = _run(rows, inputs.clone())
            in_row = calls.handed_over()
            torch.random.set_rng_state(begin)
            try:
                wanted = tensor_in(other(inputs.clone()))
            except Exception as error:  # whatever the reader's module raises
                raise invalid("input_shape", shape, f"a shape that {what} accepts ({error})") from error
        if not _equal(computed, wanted):
            names = [part if isinstance(part, str) else located(part) for group in groups for part in group]
            made = calls.handed_over()
            found = ", ".join(call.path for call in made) or "none"
            why = _difference(made, in_row, names, computed, wanted)
            mode = "" if training else " in eval mode"
            raise invalid("parts", names, f"a row that computes what {what} does{mode}, which calls {found}: {why}")


def _probe(shape: tuple[int, ...], n_tokens: int | None, like: Tensor | None) -> Tensor:
    """Random inputs of a shape."""
    random = generator(0, "probe", "inputs")
    if n_tokens is not None:
        return torch.randint(n_tokens, (PROBES, *shape), generator=random).to(
            like.device if like is not None else "cpu"
        )
    inputs = torch.randn(PROBES, *shape, generator=random)
    return inputs if like is None else inputs.to(like)


def _run(rows: Sequence[Row], state: Tensor) -> Tensor | Exception:
    """The output of a row, or the error that it raises."""
    try:
        for row in rows:
            state = row(state)
    except Exception as error:  # noqa: BLE001 - a part of the reader's own may raise anything
        return error
    return state


def _equal(ours: Tensor | Exception | None, theirs: Tensor | None) -> bool:
    if not isinstance(ours, Tensor) or theirs is None or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    if not ours.is_floating_point():
        return torch.equal(ours, theirs)
    size = theirs.abs().max() if theirs.numel() else torch.ones(())
    return torch.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE * float(size))


def _difference(
    made: Sequence[_Call], in_row: Sequence[_Call], names: Sequence[str], ours: Tensor | Exception, theirs: Tensor
) -> str:
    """In words, where a row and the module's forward differ: `made` are the calls of the latter."""
    paths = [call.path for call in made]
    if more := [path for path in dict.fromkeys(paths) if path not in names]:
        return f"{', '.join(more)} {'is' if len(more) == 1 else 'are'} not among the parts"
    if unused := [call.path for call in in_row if call.path not in paths]:
        return f"it does not run {', '.join(dict.fromkeys(unused))}"
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        return f"{', '.join(twice)} {'runs' if len(twice) == 1 else 'run'} more than once"
    if [name for name in names if name in paths] != paths:
        return "the order is another one"
    given = {call.path: call.given for call in in_row}
    for before, after in pairwise(made):
        if not _equal(given.get(after.path), after.given):
            return (
                f"between {before.path}, which returns {_shape(before.returned)}, and {after.path}, which is given "
                f"{_shape(after.given)}, it does something else; name a layer or a function for that, such as nn.Flatten()"
            )
    if takes := next((call for call in made if call.more), None):
        return f"{takes.path} is given more than the state ({', '.join(takes.more)})"
    if isinstance(ours, Exception):
        return f"the row cannot be computed ({ours})"
    last = made[-1].path if made else "its parts"
    return f"after {last} it does something else; name a layer or a function for that"


def _shape(tensor: Tensor | None) -> str:
    return "no tensor" if tensor is None else str(list(tensor.shape))
