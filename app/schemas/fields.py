"""marshmallow fields that take JSON as it is: no "2" for 2, no true for 1, no text that cannot be encoded."""

import math
import re
from collections import abc
from collections.abc import Callable
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from app.errors import InvalidRequest

SchemaOf = Callable[[fields.Field[Any] | Schema], dict[str, Any]]
"""Gives a field's `json_schema` the JSON Schema of another field, or a reference to a schema."""

fields.Field.default_error_messages |= {"required": "is missing", "null": "must not be null"}


class Body(Schema):
    """A JSON object; fields that it does not know are ignored, as clients add new ones all the time."""

    class Meta:
        unknown = EXCLUDE

    _default_error_messages = Schema._default_error_messages | {"type": "must be an object"}


class Text(fields.String):
    """A string of at most `most` characters that is valid Unicode (no lone surrogates)."""

    def __init__(self, *, most: int = 10_000_000, least: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.most, self.least = most, least

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Its bounds, for the document."""
        return {"minLength": self.least, "maxLength": self.most} if self.least else {"maxLength": self.most}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError(f"is {_kind(value)}, where a string is expected")
        if len(value) > self.most:
            raise ValidationError(f"has {len(value)} characters; the most is {self.most}")
        if len(value) < self.least:
            raise ValidationError("is empty")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValidationError("has half of a surrogate pair in it, which is no character") from None
        return value


class Matching(Text):
    """A string that is of a pattern as a whole, which `rule` says in words."""

    def __init__(self, pattern: str, rule: str, **options: Any) -> None:
        super().__init__(**options)
        self.pattern, self.rule = pattern, rule

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Its bounds and pattern, for the document."""
        return super().json_schema(of) | {"pattern": f"^{self.pattern}$"}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        if not re.fullmatch(self.pattern, text):
            raise ValidationError(self.rule)
        return text


def one_of(*values: str) -> validate.OneOf:
    """The check that a text is one of these."""
    return validate.OneOf(values, error=f"must be one of {', '.join(values)}")


def always(value: str) -> Text:
    """A field that must have this one value."""
    return Text(most=len(value), required=True, validate=validate.Equal(value))


class Number(fields.Float):
    """A finite number in low … high; `above` is a bound that is not itself allowed."""

    def __init__(
        self, *, low: float = -math.inf, high: float = math.inf, above: float | None = None, **options: Any
    ):
        super().__init__(**options)
        self.low, self.high, self.above = low, high, above

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Its bounds, for the document."""
        bounds = {"minimum": self.low, "maximum": self.high}
        if self.above is not None:
            bounds = {"exclusiveMinimum": self.above, "maximum": self.high}
        return {name: bound for name, bound in bounds.items() if math.isfinite(bound)}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValidationError(f"is {_kind(value)}, where a number is expected")
        _check_range(
            value, self.low if self.above is None else self.above, self.high, open_low=self.above is not None
        )
        return float(value)


class Integer(fields.Integer):
    """A whole number in low … high; 1.0 is one, as JSON Schema has it."""

    def __init__(self, *, low: int, high: int, **options: Any) -> None:
        super().__init__(**options)
        self.low, self.high = low, high

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Its bounds, for the document."""
        return {"minimum": self.low, "maximum": self.high}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole:
            raise ValidationError(f"is {_kind(value)}, where a whole number is expected")
        _check_range(int(value), self.low, self.high)
        return int(value)


class Flag(fields.Boolean):
    """true or false and nothing else."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError(f"is {_kind(value)}, where true or false is expected")
        return value


class Mapping(fields.Dict):
    """A JSON object, whatever is in it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError(f"is {_kind(value)}, where an object is expected")
        return value


class Items(fields.List[Any]):
    """A list of least … most items, whose length is checked before any of them is looked at."""

    def __init__(self, inner: Any, *, least: int = 0, most: int, **options: Any) -> None:
        super().__init__(inner, **options)
        self.least, self.most = least, most

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Its bounds, for the document."""
        return {"minItems": self.least, "maxItems": self.most}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> list[Any]:
        check_length(value, self.least, self.most)
        return super()._deserialize(value, attr, data, **options)


def check_length(value: Any, least: int, most: int) -> None:
    """Raise ValidationError unless value is a list of so many items."""
    if not isinstance(value, list):
        raise ValidationError(f"is {_kind(value)}, where a list is expected")
    if len(value) < least:
        raise ValidationError("is empty" if not value else f"has {len(value)} items; the least is {least}")
    if len(value) > most:
        raise ValidationError(f"has {len(value)} items; the most is {most}")


class Problem(str):
    """The text of a ValidationError that types and ranges do not foresee, with a code of its own: by default
    that of fields which are right one by one and wrong together.
    """

    code: str

    def __new__(cls, text: str, code: str = "invalid_parameter_combination") -> "Problem":
        made = super().__new__(cls, text)
        made.code = code
        return made


def checked(schema: Schema, body: Any) -> Any:
    """What the schema makes of a body; raises InvalidRequest that names the first field that is wrong."""
    try:
        return schema.load(body)
    except ValidationError as error:
        place, text = first_problem(error.normalized_messages())
        code = text.code if isinstance(text, Problem) else None
        raise InvalidRequest(f"{place or 'The body'} {text}.", param=place or None, code=code) from None


def first_problem(problems: abc.Mapping[Any, Any] | abc.Sequence[Any]) -> tuple[str, str]:
    """The first error of a ValidationError's messages: its place, as messages[0].content, and its text."""
    path = ""
    node: Any = problems
    while isinstance(node, abc.Mapping):
        key = min(node, key=lambda key: (isinstance(key, str), key if isinstance(key, int) else 0))
        node = node[key]
        if isinstance(key, int):
            path += f"[{key}]"
        elif key != "_schema":
            path += f".{key}" if path else key
    text = node[0] if isinstance(node, list) and node else node
    return path, text if isinstance(text, str) else str(text)


def _check_range(value: float, low: float, high: float, *, open_low: bool = False) -> None:
    if not (low < value <= high if open_low else low <= value <= high):
        bounds = f"more than {low:g}" if open_low else f"{_plain(low)}"
        raise ValidationError(f"is {_plain(value)}; it must be {bounds} to {_plain(high)}")


def _plain(value: float) -> str:
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a number of over 20 digits"
    return f"{value:g}"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "a list" if isinstance(value, list) else "an object")
