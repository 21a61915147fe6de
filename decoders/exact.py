"""Values taken for what they are: pydantic by itself reads "yes" and 1 as true, and true and "1" as 1."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, model_validator

LONGEST: Final = 1024  # items of the longest list or mapping that a model here takes; pydantic refuses others
_KINDS: Final[Mapping[Any, str]] = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclass(frozen=True)
class Shape:
    """What a field takes.

    kinds: of JSON's "boolean", "integer", "number" and "string"; None if that is not known; empty if it takes
        none of them, which is left to pydantic. only: whether it takes nothing else.
    item: what the items of its one kind of list, or the values of its one kind of mapping, take.
    fields: what the fields of its one kind of object take.
    """

    kinds: frozenset[str] | None
    only: bool = False
    item: "Shape | None" = None
    fields: "Mapping[str, Shape] | None" = None

    def takes(self, value: Any) -> bool:
        """Whether a value is of one of these kinds, or not to be judged by them.

        A number without a fraction is an integer, as in JSON Schema.
        """
        kind = _KINDS.get(type(value))
        if not self.kinds or kind in self.kinds:
            return True
        if kind == "integer":
            return "number" in self.kinds
        if kind == "number" and "integer" in self.kinds:
            return bool(value.is_integer())
        return kind is None and not self.only

    def takes_all(self, values: Collection[Any]) -> bool:
        """The same of many, in a fraction of the time where all are of the very kinds; False if in doubt."""
        found = {_KINDS.get(kind, "") for kind in {*map(type, values)}}
        return self.kinds is not None and found <= self.kinds


@cache
def shapes(of: type) -> Mapping[str, Shape]:
    """Of the fields of a model or dataclass, by name."""
    if issubclass(of, BaseModel):
        return {name: _shape(field.annotation) for name, field in of.model_fields.items()}
    return {name: _shape(annotation) for name, annotation in get_type_hints(of).items()}


class Exact(BaseModel):
    """A model that refuses a boolean, number or string where another of them is asked for.

    What is refused gets pydantic's own error, at its own place.
    """

    @model_validator(mode="before")
    @classmethod
    def _exact(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = shapes(cls)
        return {
            name: _exactly(known[name], value) if name in known else value for name, value in data.items()
        }


class _Wrong:
    """A value that no field takes, in place of one that must not be converted."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def _exactly(shape: Shape, value: Any) -> Any:
    if not shape.takes(value):
        return _Wrong(value)
    if shape.item is None or not isinstance(value, list | dict) or len(value) > LONGEST:
        return value
    if isinstance(value, list):
        return [_exactly(shape.item, one) for one in value]
    return {key: _exactly(shape.item, one) for key, one in value.items()}


def _shape(annotation: Any) -> Shape:
    members = _members(annotation)
    found: set[str] = set()
    known = only = True
    for member in members:
        if get_origin(member) is Literal:
            found |= {_KINDS[type(value)] for value in get_args(member) if value is not None}
        elif member in _KINDS:
            found.add(_KINDS[member])
        else:
            only = False
            known = known and _holds_no_scalar(member)
    lists = [member for member in members if get_origin(member) is list]
    mappings = [member for member in members if get_origin(member) is dict]
    objects = [member for member in members if _is_object(member)]
    inside = lists + mappings
    return Shape(
        frozenset(found) if known else None,
        known and only,
        _shape(get_args(inside[0])[-1]) if len(inside) == 1 else None,
        shapes(objects[0]) if known and len(objects) == 1 and not mappings else None,
    )


def _members(annotation: Any) -> list[Any]:
    """A union's, and what is annotated without its annotations."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [inner for member in get_args(annotation) for inner in _members(member)]
    return [annotation]


def _holds_no_scalar(member: Any) -> bool:
    return member is NoneType or (get_origin(member) or member) in (list, dict) or _is_object(member)


def _is_object(member: Any) -> bool:
    return isinstance(member, type) and (issubclass(member, BaseModel) or is_dataclass(member))
