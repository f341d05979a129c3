"""Type checker of the tests (see conftest.py): beartype, and the arrays in the fields of named tuples.

beartype tells whether an argument is a `Batch`. That its arrays have the dtypes and shapes that the types of its fields
name, and that these agree with each other and with the other arguments, is checked here.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_args

from beartype import beartype
from beartype.door import is_bearable


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and the result of a function; jaxtyping binds the names of dimensions for each call."""
    checked = beartype(function)
    tuples = {name: found for name, hint in inspect.get_annotations(function).items() if (found := named_tuples(hint))}
    if not tuples:
        return checked
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*given: Any, **named: Any) -> Any:
        result = checked(*given, **named)
        values = {**signature.bind(*given, **named).arguments, "return": result}
        for name, classes in tuples.items():
            if isinstance(values.get(name), classes):
                check_fields(values[name])
        return result

    return wrapper


def named_tuples(hint: Any) -> tuple[type, ...]:
    """The named tuples of this project among the alternatives of a type."""
    classes = [one for one in (hint, *get_args(hint)) if isinstance(one, type) and hasattr(one, "_fields")]
    return tuple(one for one in classes if one.__module__.startswith("instructrl."))


def check_fields(value: Any) -> None:
    """Raise TypeError naming the first field of a named tuple, or of one in it, that is not of its type."""
    for path, field, hint in fields(value):
        if not is_bearable(field, hint):
            found = f"{field.dtype}{tuple(field.shape)}" if hasattr(field, "shape") else repr(field)
            raise TypeError(f"{path}: found {found}, expected {hint}")


def fields(value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and type of every field of a named tuple, then those of named tuples in it."""
    hints = inspect.get_annotations(type(value))
    own = [(f"{type(value).__name__}.{name}", getattr(value, name), hint) for name, hint in hints.items()]
    yield from own
    for _, field, hint in own:
        if isinstance(field, named_tuples(hint)):
            yield from fields(field)
