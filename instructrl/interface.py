"""Comparison of a class with its interface: the methods and properties of a base class or a protocol.

Python notices a missing method, or one with other arguments, when it is called, which may be hours later; and never
that a method stands in place of a property, since a method is true.
"""

import inspect
from functools import cached_property
from typing import Any

from instructrl.errors import InputError

PROPERTIES = (property, cached_property)


def check_interface(found: type, interface: type, *, members: tuple[str, ...] | None = None) -> None:
    """Check that a class has the members of an interface, and that its methods can be called as theirs.

    Args:
        found: the class.
        interface: the base class or the protocol.
        members: names of the members that it must have; None: all public ones, unless its objects ask others for them.

    Raises:
        InputError: the first member that is missing, of another kind or takes other arguments.
    """
    for name in member_names(interface) if members is None else members:
        model, given = (
            next((vars(base)[name] for base in of.__mro__ if name in vars(base)), None) for of in (interface, found)
        )
        if given is model and not (is_protocol(interface) or getattr(model, "__isabstractmethod__", False)):
            continue  # inherited
        where = f"{class_name(found)}: found"
        if given is None and answers_elsewhere(found, name, model, asks_others=members is None):
            continue
        if given is None or given is model:
            raise InputError(f"{where} no {kind_of_member(model)} {name}; allowed: {describe_member(name, model)}")
        is_method = callable(given) or isinstance(given, classmethod | staticmethod)
        if not is_method and not isinstance(given, PROPERTIES) and hasattr(given, "__get__"):
            continue  # what it gives is known when it is asked for, such as that of functools.partialmethod
        if isinstance(model, PROPERTIES) == is_method or (isinstance(model, classmethod) and inspect.isfunction(given)):
            what = f"{kind_of_member(given)} {name}"
            raise InputError(f"{where} the {what}; allowed: a {kind_of_member(model)}, {describe_member(name, model)}")
        if is_method and not takes_arguments(given, model):
            raise InputError(
                f"{where} {describe_member(name, given)}; allowed: what can be called as {describe_member(name, model)}"
            )


def answers_elsewhere(found: type, name: str, model: Any, *, asks_others: bool) -> bool:
    """True if a class has no such member, but its metaclass has, or its objects may ask others for it."""
    if isinstance(model, classmethod):
        return callable(getattr(found, name, None))
    return asks_others and hasattr(found, "__getattr__")


def member_names(interface: type) -> list[str]:
    """The public methods and properties of a class and its bases."""
    kinds = (classmethod, staticmethod, *PROPERTIES)
    found = {name: member for base in reversed(interface.__mro__[:-1]) for name, member in vars(base).items()}
    public = {name: member for name, member in found.items() if not name.startswith("_")}
    return [name for name, member in public.items() if inspect.isfunction(member) or isinstance(member, kinds)]


def class_name(found: type) -> str:
    """Module and name of a class."""
    return f"{found.__module__}.{found.__qualname__}"


def is_protocol(interface: type) -> bool:
    """True if a class is a protocol, whose methods have no bodies to inherit."""
    return getattr(interface, "_is_protocol", False)


def kind_of_member(member: Any) -> str:
    """Name the kind of a member of a class, in a word or two."""
    if isinstance(member, PROPERTIES):
        return "property"
    if isinstance(member, classmethod):
        return "class method"
    return "method" if callable(member) or isinstance(member, staticmethod) else "value"


def describe_member(name: str, member: Any) -> str:
    """A member as it is used: a property's name, or a method with its arguments, without annotations."""
    parameters = parameters_of(member)
    if isinstance(member, PROPERTIES) or parameters is None:
        return name
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in parameters]
    return f"{name}{inspect.Signature(bare)}"


def parameters_of(method: Any) -> list[inspect.Parameter] | None:
    """The parameters of a method as it is found in a class, without the object or class itself; None: unknown."""
    function = getattr(method, "__func__", method)  # of class methods and static ones
    is_bound = hasattr(function, "__get__")  # an object that can be called is not given itself
    if is_bound and not inspect.isfunction(function):
        return None
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):  # of code in C
        return None
    takes_itself = is_bound and not isinstance(method, staticmethod) and parameters
    is_named = takes_itself and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL
    return parameters[1:] if is_named else parameters


def takes_arguments(given: Any, model: Any) -> bool:
    """True if a method can be called with the arguments of another one, with its optional ones and without."""
    found, expected = parameters_of(given), parameters_of(model)
    if found is None or expected is None:
        return True
    for chosen in (expected, [one for one in expected if one.default is inspect.Parameter.empty]):
        named = {one.name: None for one in chosen if one.kind is inspect.Parameter.KEYWORD_ONLY}
        try:
            inspect.Signature(found).bind(*[None] * (len(chosen) - len(named)), **named)
        except TypeError:
            return False
    return True
