"""Fields of a request, checked: each raises BadRequest with the field and what is wanted of it."""


class BadRequest(ValueError):
    """A request that makes no sense; the message names the field."""


def dictionary(name: str, said: object, known: set[str]) -> dict:
    """A dictionary with no keys but these."""
    if not isinstance(said, dict):
        raise BadRequest(f"{name}: want a dictionary")
    if unknown := sorted(set(said) - known):
        raise BadRequest(f"{name}: unknown {', '.join(unknown)}; known are {sorted(known)}")
    return said


def listed(name: str, said: object, most: int) -> list:
    """A list of at most so many."""
    if not isinstance(said, list):
        raise BadRequest(f"{name}: want a list")
    if len(said) > most:
        raise BadRequest(f"{name}: {len(said)} of them; at most {most} are taken")
    return said


def number(name: str, said: object, least: float | int, most: float | int) -> float:
    """A number within bounds, as a float."""
    # bool is an int, and NaN is within no bounds.
    if isinstance(said, bool) or not isinstance(said, int | float) or not least <= said <= most:
        raise BadRequest(f"{name}: {said!r:.40}; want a number from {least:g} to {most:g}")
    return float(said)


def whole(name: str, said: object, least: int, most: int) -> int:
    """A whole number within bounds."""
    if number(name, said, least, most) != int(said):
        raise BadRequest(f"{name}: {said!r:.40}; want a whole number")
    return int(said)
