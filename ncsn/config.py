"""Objects that know what they were made of: a class path and arguments, as plain data.

So a model that was made in Python can be stored and made again, like one of the command line.
"""

import inspect
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

DESCRIBED = "_described_"  # the attribute


class Configured:
    """Records the arguments that it is made with; see :func:`config_of`."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the object, and record."""
        self = super().__new__(cls)
        recorded: dict[str, Any] = {}
        signature = inspect.signature(cls.__init__)
        with suppress(TypeError):  # which __init__ is about to raise
            for name, value in signature.bind_partial(self, *args, **kwargs).arguments.items():
                variable = signature.parameters[name].kind == inspect.Parameter.VAR_KEYWORD
                recorded |= value if variable else {name: value}
        recorded.pop(next(iter(signature.parameters)), None)  # self
        described = {name: _describe(value) for name, value in recorded.items()}
        self.__dict__[DESCRIBED] = described
        return self


class _NotPlain(str):
    """Stands for an argument that plain data cannot describe, and says what it is."""


def config_of(made: object, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The class path and the arguments of an object, as a config names them.

    Args:
        made: A network, a parametrisation, a ladder, a sampler or a module.
        leave_out: Arguments that are not wanted.

    Raises:
        ValueError: If plain data cannot describe an argument, or the class cannot be imported.
    """
    described = vars(made)[DESCRIBED]
    init_args = {name: each for name, each in described.items() if name not in leave_out}
    for name, each in init_args.items():
        if isinstance(each, _NotPlain):
            raise ValueError(f"{name} is {each}")
    if (class_path := _path(type(made))) is None:
        raise ValueError(f"{type(made).__name__} cannot be imported: define it in a module")
    return {"class_path": class_path, "init_args": init_args}


def _describe(value: Any) -> Any:
    """A value as plain data, or :class:`_NotPlain`."""
    if value is None or isinstance(value, bool):
        return value
    for plain in (str, int, float):  # drops subclasses, such as NumPy's float64
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple | Mapping):
        return _describe_all(value)
    with suppress(ValueError, KeyError, TypeError):
        return config_of(value)
    if getattr(value, "ndim", None) == 0:  # of NumPy or torch
        return _describe(value.item())
    return _path(value) or _NotPlain(f"a {type(value).__name__}, which is no plain data")


def _describe_all(values: Any) -> Any:
    pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
    described = {key: _describe(value) for key, value in pairs}
    bad = next((each for each in described.values() if isinstance(each, _NotPlain)), None)
    return bad or (described if isinstance(values, Mapping) else list(described.values()))


def _path(value: Any) -> str | None:
    """Where a class or a function can be imported from, if it can."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found = getattr(sys.modules.get(module or ""), name, None)
    return f"{module}.{name}" if found is value else None
