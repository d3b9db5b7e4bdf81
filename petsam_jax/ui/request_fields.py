"""Checked fields of a request: each function raises BadRequest with the field and what it takes."""


class BadRequest(ValueError):
    """An invalid request; the message names the field."""


def read_dict(name: str, value: object, keys: set[str]) -> dict:
    """A dictionary with no other keys than these."""
    if not isinstance(value, dict):
        raise BadRequest(f"{name}: expected a dictionary")
    if unknown := sorted(set(value) - keys):
        raise BadRequest(f"{name}: unknown {', '.join(unknown)}; expected {sorted(keys)}")
    return value


def read_list(name: str, value: object, limit: int) -> list:
    """A list of at most `limit` elements."""
    if not isinstance(value, list):
        raise BadRequest(f"{name}: expected a list")
    if len(value) > limit:
        raise BadRequest(f"{name}: {len(value)} elements; the limit is {limit}")
    return value


def read_number(name: str, value: object, least: float | int, most: float | int) -> float:
    """A number within bounds, as a float."""
    # bool is an int, and NaN is within no bounds.
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise BadRequest(f"{name}: {value!r:.40}; expected a number from {least:g} to {most:g}")
    return float(value)


def read_int(name: str, value: object, least: int, most: int) -> int:
    """A whole number within bounds."""
    if read_number(name, value, least, most) != int(value):
        raise BadRequest(f"{name}: {value!r:.40}; expected a whole number")
    return int(value)


def read_bool(name: str, value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise BadRequest(f"{name}: expected true or false")
    return value


def read_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if value not in choices:
        raise BadRequest(f"{name}: {value!r:.40}; expected one of {', '.join(choices)}")
    return str(value)
