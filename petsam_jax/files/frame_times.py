"""When each frame of a file that is written begins and ends, in the whole ticks that it counts."""


class FrameTimes:
    """What is rounded off one frame is not lost to all of them; none lasts no time at all."""

    def __init__(self, ticks: int):
        """So many a second."""
        self._ticks, self._seconds, self._end = ticks, 0.0, 0

    def next(self, seconds: float) -> tuple[int, int]:
        """Start and length of the frame that comes next and is shown for so long."""
        start = self._end
        self._seconds += seconds
        self._end = max(start + 1, round(self._seconds * self._ticks))
        return start, self._end - start
