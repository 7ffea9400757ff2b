"""Keyword arguments to flags and back, by the program's own tables."""
import functools
import inspect
import os
from collections.abc import Mapping
from typing import Literal, Optional, Sequence, Union

from . import _core

# Said by parameters of their own, or of no use in process.
_LEFT_OUT = ("help", "output", "json", "quiet", "no-progress")
_NUMBERS = {"N": int, "S": int, "X": float, "SECONDS": float}


@functools.lru_cache(maxsize=None)
def table(command):
    return {row["name"]: row for row in _core.options(command) if row["name"] not in _LEFT_OUT}


def keyword(name):
    return name.replace("-", "_")


def _texts(row, value):
    if isinstance(value, Mapping):  # input_shape={"x": (1, 3, 224, 224)}
        return [f"{name}:{'x'.join(map(str, shape))}" for name, shape in value.items()]
    if isinstance(value, (list, tuple)):
        texts = [os.fspath(item) if isinstance(item, os.PathLike) else str(item) for item in value]
        return texts if row["many"] else [",".join(texts)]
    return [os.fspath(value) if isinstance(value, os.PathLike) else str(value)]


def words(command, options):
    """The flags that say what the keyword arguments say. None leaves one out."""
    rows, out = table(command), []
    for key, value in options.items():
        name = key.rstrip("_").replace("_", "-")
        row = rows.get(name)
        if row is None:
            near = _core.suggestion(key, [keyword(known) for known in rows])
            raise TypeError(f"{command}() has no option '{key}'{near}")
        if value is None:
            continue
        if row["flag"]:
            out.append(f"--{name}={'true' if value else 'false'}")
        else:
            out += [f"--{name}={text}" for text in _texts(row, value)]
    return out


def _annotation(row):
    value = row["value"].split(":")[0]
    if row["flag"]:
        return Optional[bool]
    if value in _NUMBERS:
        return Optional[_NUMBERS[value]]
    if "|" in value and value == value.lower():
        return Optional[Literal[tuple(value.split("|"))]]
    return Optional[Union[str, os.PathLike, Sequence[str]]] if row["many"] else Optional[str]


def documented(command, special):
    """Gives a function the signature and the help of its command; `special` annotates what takes more
    than the flag does."""

    def decorate(function):
        own = list(inspect.signature(function).parameters.values())
        known = {parameter.name for parameter in own}
        rows = [row for row in table(command).values() if keyword(row["name"]) not in known]
        added = [
            inspect.Parameter(keyword(row["name"]), inspect.Parameter.KEYWORD_ONLY, default=None,
                              annotation=special.get(keyword(row["name"]), _annotation(row)))
            for row in rows
        ]
        positional = [p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
        function.__signature__ = inspect.Signature(positional + added)
        lines = [f"  {keyword(row['name'])}: {row['help']}" for row in rows]
        function.__doc__ = "\n".join([function.__doc__ or "", "", "Options:", *lines])
        return function

    return decorate
