"""Start and duration of each frame of a file being written, in whole ticks of its clock."""


class FrameTimes:
    """Rounding errors do not add up, and each frame lasts at least one tick."""

    def __init__(self, ticks: int):
        """`ticks` per second."""
        self._ticks, self._seconds, self._end = ticks, 0.0, 0

    def next(self, seconds: float) -> tuple[int, int]:
        """Start and duration of the next frame, which is shown for `seconds`."""
        start = self._end
        self._seconds += seconds
        self._end = max(start + 1, round(self._seconds * self._ticks))
        return start, self._end - start
