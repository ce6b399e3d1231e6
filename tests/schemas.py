"""Random JSON schemas of what the grammar library enforces, so small that random text gets to their end."""

import random
from typing import Any


def random_schema(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema that something satisfies; the same for the same state of `chance`."""
    simple = [_text, _integer, _number, _enum, _const, _boolean]
    kinds = simple if depth >= 3 else [*simple, _object, _object, _array, _any_of]
    return chance.choice(kinds if depth else [_object, _object, _array])(chance, depth)


def _object(chance: random.Random, depth: int) -> dict[str, Any]:
    names = [
        f"{chance.choice(['a', 'name', 'größe', 'x y', 'q_1'])}{index}"
        for index in range(chance.randint(1, 4))
    ]
    return {
        "type": "object",
        "properties": {name: random_schema(chance, depth + 1) for name in names},
        "required": [name for name in names if chance.random() < 0.7],
        "additionalProperties": False,
    }


def _array(chance: random.Random, depth: int) -> dict[str, Any]:
    least = chance.randint(0, 2)
    return {
        "type": "array",
        "items": random_schema(chance, depth + 1),
        "minItems": least,
        "maxItems": least + chance.randint(0, 2),
    }


def _any_of(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(chance, depth + 1) for _ in range(chance.randint(2, 3))]}


def _text(chance: random.Random, depth: int) -> dict[str, Any]:
    return chance.choice(
        [
            {"type": "string", "maxLength": chance.randint(1, 9)},
            {"type": "string", "minLength": 2, "maxLength": 6},
            {"type": "string", "pattern": "^[a-z]{2,5}-\\d{1,3}$"},
            {"type": "string", "format": chance.choice(["date", "uuid", "ipv4"])},
        ]
    )


def _integer(chance: random.Random, depth: int) -> dict[str, Any]:
    low = chance.randint(-50, 50)
    return chance.choice(
        [
            {"type": "integer", "minimum": low, "maximum": low + chance.randint(0, 500)},
            {
                "type": "integer",
                "exclusiveMinimum": low,
                "maximum": low + 40,
                "multipleOf": chance.randint(1, 5),
            },
        ]
    )


def _number(chance: random.Random, depth: int) -> dict[str, Any]:
    low = chance.randint(-20, 20) / 4
    return {"type": "number", "minimum": low, "exclusiveMaximum": low + chance.randint(1, 9)}


def _enum(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"enum": chance.sample(["red", "blau", "绿", 'a "b"', "\n", 1, 2.5, None, True, [1], {"k": 1}], 3)}


def _const(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"const": chance.choice(["fixed", 0, None, False])}


def _boolean(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"type": chance.choice(["boolean", "null", ["boolean", "null"]])}
