"""Pickles read as plain data: every opcode is worked, and nothing that they name is ever fetched. Imports no torch.

A pickle is a program for a small stack machine. One thing makes it dangerous: it can fetch any function by its name and
call it. In this machine a name stays the text that it is (`Named`), and a call of one is looked up here:

- in the caller's table of functions, which make plain values of plain values;
- among INERT, the classes that training scripts leave in checkpoints beside the weights: the call gives a value that
  swallows whatever is put into it, and nothing of the class itself is there;
- anything else is `Refused`, by its name.

A class of other software that is only mentioned, as the callbacks of pytorch_lightning are in many Stable Diffusion
checkpoints, does no harm and stays a name. What the standard library or torch would have to lend is refused already
when it is mentioned. The opcodes, protocols 0 to 5, are cut out of the file by the standard library's pickletools.
"""

from __future__ import annotations

import struct
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pickletools import genops
from typing import IO, Any

BROKEN = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, MemoryError, struct.error)
"""What a pickle that is damaged, or made to confuse, brings up while it is worked."""

INERT = frozenset({
    "_codecs.encode", "argparse.Namespace", "builtins.bytearray", "builtins.complex", "builtins.float", "builtins.int",
    "builtins.object", "builtins.str", "builtins.tuple", "collections.deque", "copyreg._reconstructor", "datetime.date",
    "datetime.datetime", "datetime.timedelta", "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict", "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar",
    "numpy.dtype", "numpy.ndarray", "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode", "omegaconf.nodes.FloatNode", "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode", "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath",
    "pytorch_lightning.utilities.parsing.AttributeDict", "torch.device", "torch.nn.modules.container.ParameterDict",
    "torch.serialization._get_layout", "typing.Any", "uuid.UUID",
})  # fmt: skip
"""Classes and functions that checkpoints call beside those of weights, and whose values weights have no use for."""

GUARDED = sys.stdlib_module_names | {"torch"}
"""The packages of which nothing may even be mentioned that is not known: what they could lend is always there."""


class Refused(Exception):  # noqa: N818 - the pickle is not in error, it is not wanted
    """A pickle wants something that no weights need; `name` says what."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class Named:
    """What a pickle calls by a name: the module, a dot, the name in it. Nothing is behind it."""

    name: str


@dataclass(slots=True, eq=False)
class Inert:
    """In the place of a thing that weights have no use for: its class's name, and what the pickle put into it."""

    name: str
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict[Any, Any])


def dictionary(pairs: Any = ()) -> dict[Any, Any]:
    """A dictionary of pairs, as OrderedDict is called with them by Python 2 and with none by Python 3."""
    made: dict[Any, Any] = {}
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        _put(made, key, value)
    return made


def _defaults(_: Any = None, pairs: Any = ()) -> dict[Any, Any]:
    return dictionary(pairs)


CONTAINERS: Mapping[str, Callable[..., Any]] = {
    "builtins.dict": dictionary,
    "builtins.frozenset": list,
    "builtins.list": list,
    "builtins.set": list,
    "collections.Counter": dictionary,
    "collections.OrderedDict": dictionary,
    "collections.defaultdict": _defaults,
}
"""Python's own containers. Sets are lists: what is never hashed cannot be made to take long."""


class Machine:
    """Works pickles: one after another of the same file, if it holds several."""

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        mentioned: frozenset[str],
        stored: Callable[[Any], Any],
    ) -> None:
        """Make a machine that calls `functions` by name, lets a pickle name those `mentioned`, and `stored` by ids.

        `stored` is given a persistent id, by which pickles tell of what lies outside them; it raises ValueError for
        one that it does not know.
        """
        self.functions = {**CONTAINERS, **functions}
        self.known = mentioned | INERT | self.functions.keys()
        self.stored = stored

    def run(self, file: IO[bytes]) -> Any:
        """The value of the pickle that begins where the file stands; the file then stands behind it.

        Raises Refused for what the pickle may not call, and one of BROKEN where it is damaged.
        """
        stack: list[Any] = []
        outer: list[list[Any]] = []  # stacks that stand below a mark
        memo: dict[int, Any] = {}
        for opcode, argument, _ in genops(file):
            match opcode.name:
                case "PROTO" | "FRAME" | "STOP":
                    pass
                case "MARK":
                    outer.append(stack)
                    stack = []
                case "POP" if stack:
                    stack.pop()
                case "POP" | "POP_MARK":
                    stack = outer.pop()
                case "DUP":
                    stack.append(stack[-1])
                case "PUT" | "BINPUT" | "LONG_BINPUT":
                    memo[_whole(argument)] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(memo[_whole(argument)])
                case "NONE":
                    stack.append(None)
                case "NEWTRUE":
                    stack.append(True)
                case "NEWFALSE":
                    stack.append(False)
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST" | "EMPTY_SET":
                    stack.append([])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(_popped(stack, int(opcode.name[-1]))))
                case "TUPLE" | "LIST" | "FROZENSET" | "DICT" | "APPENDS" | "ADDITEMS" | "SETITEMS" | "OBJ" | "INST":
                    items, stack = stack, outer.pop()
                    self._close(opcode.name, argument, items, stack)
                case "APPEND":
                    (item,) = _popped(stack, 1)
                    _extend(stack[-1], [item])
                case "SETITEM":
                    key, value = _popped(stack, 2)
                    _put(stack[-1], key, value)
                case "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    stack.append(self.named(module, name))
                case "STACK_GLOBAL":
                    module, name = _popped(stack, 2)
                    stack.append(self.named(module, name))
                case "REDUCE" | "NEWOBJ":
                    function, arguments = _popped(stack, 2)
                    stack.append(self.call(function, arguments))
                case "NEWOBJ_EX":
                    function, arguments, _ = _popped(stack, 3)
                    stack.append(self.call(function, arguments))
                case "BUILD":
                    (state,) = _popped(stack, 1)
                    _build(stack[-1], state)
                case "PERSID":
                    stack.append(self.stored(argument))
                case "BINPERSID":
                    stack.append(self.stored(stack.pop()))
                case "EXT1" | "EXT2" | "EXT4":
                    raise Refused(f"extension {argument}")
                case "NEXT_BUFFER" | "READONLY_BUFFER":
                    raise ValueError(opcode.name)
                case _:
                    stack.append(argument)
        return stack.pop()

    def named(self, module: Any, name: Any) -> Named:
        """What stands for a name. Raises Refused for one that may not even be mentioned."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # Python 2's
        full = f"{module}.{name}"
        if full not in self.known and full.partition(".")[0] in GUARDED:
            raise Refused(full)
        return Named(full)

    def call(self, function: Any, arguments: Any) -> Any:
        """What a call gives. Raises Refused where nothing of that name may be called."""
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise TypeError
        if function.name in INERT:
            return Inert(function.name)
        if function.name not in self.functions:
            raise Refused(function.name)
        return self.functions[function.name](*arguments)

    def _close(self, opcode: str, argument: Any, items: list[Any], stack: list[Any]) -> None:
        """Work an opcode that takes everything from the last mark on."""
        match opcode:
            case "TUPLE":
                stack.append(tuple(items))
            case "LIST" | "FROZENSET":
                stack.append(items)
            case "DICT":
                stack.append(dictionary(zip(items[::2], items[1::2], strict=True)))
            case "SETITEMS":
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _put(stack[-1], key, value)
            case "OBJ":
                stack.append(self.call(items[0], tuple(items[1:])))
            case "INST":
                module, _, name = str(argument).partition(" ")
                stack.append(self.call(self.named(module, name), tuple(items)))
            case _:
                _extend(stack[-1], items)


def _whole(number: Any) -> int:
    if not isinstance(number, int):
        raise TypeError
    return number


def _popped(stack: list[Any], count: int) -> list[Any]:
    """The last `count` values, taken off. Raises IndexError where there are fewer."""
    if len(stack) < count:
        raise IndexError
    items = stack[-count:]
    del stack[-count:]
    return items


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Inert):
        raise TypeError


def _put(target: Any, key: Any, value: Any) -> None:
    """Set an item. A key that is no plain value names no weights, so its item is left out."""
    items: Any = target.items if isinstance(target, Inert) else target
    if not isinstance(items, dict):
        raise TypeError
    if key is None or isinstance(key, (str, bytes, int, float, Named)):
        items[key] = value


def _build(target: Any, state: Any) -> None:
    """Give a thing its state: what is inert keeps it, a plain value has no use for it. A name has none."""
    if isinstance(target, Named):
        raise Refused(target.name)
    if isinstance(target, Inert):
        target.state = state
