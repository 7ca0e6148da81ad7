"""What a module and its network get from the data."""

import inspect
from collections.abc import Mapping
from typing import Any

DATA_LINKS = ("data_shape", "data_mean", "data_std", "data_diameter")
"""Arguments of models that the data knows."""

NETWORK_LINKS = ("dim", "channels")
"""Arguments of networks that are the first number of the data's shape, where they exist."""


def store_links(
    module: Any, data: Any, init_args: dict[str, Any], given: Mapping[str, Any] | None
) -> None:
    """Write what a module and its network got from the data into their stored arguments.

    Args:
        module: The module.
        data: The datamodule.
        init_args: The arguments of the module, with those of the network inside.
        given: The same as the user gave them, with defaults; None for no check.

    Raises:
        ValueError: If the user gave another value.
    """
    values = {name: getattr(data, name) for name in DATA_LINKS}
    _store("model", module, values, init_args, given)
    values = dict.fromkeys(NETWORK_LINKS, values["data_shape"][0])
    given = None if given is None else given["network"].get("init_args", {})
    stored = init_args["network"].setdefault("init_args", {})
    _store("model.network", module.network, values, stored, given)


def _store(option: str, made: Any, values: Any, stored: Any, given: Any) -> None:
    for name, value in values.items():
        if (parameter := _find_parameter(type(made), name)) is None:
            continue
        if given is not None and given.get(name, value) not in (value, parameter.default):
            raise ValueError(
                f"--{option}.{name} {given[name]}: the data has {value}, so leave it out"
            )
        stored[name] = list(value) if isinstance(value, tuple) else value


def _find_parameter(cls: type, name: str) -> inspect.Parameter | None:
    """The parameter of a class, if need be one that it passes on to its parent; None if none."""
    parameters = inspect.signature(cls).parameters
    passes_on = any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    return parameters.get(name) or (_find_parameter(cls.__mro__[1], name) if passes_on else None)
