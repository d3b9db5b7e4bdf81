"""The interface of a source of images, mixing of sources by weight, and the validation split.

A source is a sequence of `Example`s that can be read in any order, as Grain needs it. Its names and
groups are known without decoding an image, so splits and breakdowns by group are cheap.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

# Between the name of an image and the number of an instance in it.
INSTANCE_MARK = "#"
# Longest pass over a mix; beyond that, the names alone would fill the memory.
MAX_PASS = 10_000_000


@dataclasses.dataclass(frozen=True)
class Example:
    """One image and the mask of one pet in it, both at the image's own resolution."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w"]  # 0 background, 1 pet, 2 ignore
    name: str
    group: str  # e.g. the breed


@runtime_checkable
class Source(Protocol):
    """Random access to examples; `names` and `groups` run parallel to the indices.

    Several threads may read at once. Images come at full resolution; decoding JPEGs smaller would
    save only 4 % (1.42 -> 1.36 ms) for 256-pixel training, since 98 % of the pets have a side under
    512, and would blur crops.
    """

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def groups(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Subset:
    """The examples of a source at `indices`, in that order."""

    def __init__(self, source: Source, indices: Sequence[int]):
        self._source = source
        self._indices = [int(index) for index in indices]
        self.names = tuple(source.names[index] for index in self._indices)
        self.groups = tuple(source.groups[index] for index in self._indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._indices[index]]


class MixedSource:
    """Several sources in one: a share of `weights[i] / sum(weights)` comes from source i.

    One pass shows every example of every source at least once. The source that is largest for its
    weight is shown once; the others repeat until they have their share (to within one example),
    spread evenly over the pass.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float | int]):
        """Raises ValueError for an empty source or a weight that is not a positive number."""
        if not sources or len(sources) != len(weights):
            raise ValueError(
                f"weights: expected one for each source, and at least one source, "
                f"got {len(sources)} sources and {len(weights)} weights"
            )
        shares = np.asarray(weights, np.float64)
        if not (np.isfinite(shares) & (shares > 0)).all():
            raise ValueError(
                f"weights: must be positive numbers, got {list(weights)}; "
                "leave a source out of the mix instead of giving it weight 0"
            )
        sizes = np.array([len(source) for source in sources])
        if not sizes.all():
            raise ValueError(f"sources: number {int(np.argmin(sizes))} of the mix is empty")
        self._sources = list(sources)
        counts = np.ceil(shares * (sizes / shares).max() - 1e-9)
        if counts.sum() > MAX_PASS:
            raise ValueError(
                f"weights: {list(weights)} for sources of {sizes.tolist()} examples make a pass of "
                f"{counts.sum():.0f} examples, more than {MAX_PASS:,}; lower the weight of the "
                "small source, or shorten the large one"
            )
        counts = counts.astype(int)
        place = np.concatenate([np.arange(count) for count in counts])
        # Example j of a source's n belongs at (j + 1/2) / n of the pass.
        order = np.argsort((place + 0.5) / np.repeat(counts, counts), kind="stable")
        self._which = np.repeat(np.arange(len(sizes)), counts)[order]
        self._index = (place % np.repeat(sizes, counts))[order]
        self.names = self._collect(lambda source: source.names)
        self.groups = self._collect(lambda source: source.groups)

    def _collect(self, field: Callable[[Source], Sequence[str]]) -> tuple[str, ...]:
        columns = [field(source) for source in self._sources]
        return tuple(columns[w][i] for w, i in zip(self._which, self._index, strict=True))

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, index: int) -> Example:
        return self._sources[self._which[index]][int(self._index[index])]


def image_name(name: str) -> str:
    """The name of an example's image: "cat#2" -> "cat"."""
    stem, _, number = name.rpartition(INSTANCE_MARK)
    return stem if stem and number.isdecimal() else name


def name_hash(name: str, seed: int = 0) -> float:
    """A number in [0, 1) that depends only on the image's name and the seed."""
    key = f"{seed}/{image_name(name)}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=6).digest(), "big") / 2**48


def is_validation(
    names: Sequence[str], groups: Sequence[str], share: float, seed: int = 0
) -> list[bool]:
    """Which examples are for validation: those whose name hashes below `share`.

    The rule looks at one name at a time, so an example never changes sides when data is added. The
    price is that the share is exact only on average: each group gives `share` of its n images, give
    or take sqrt(share * n). A group of two images or more that would give none gives the one with
    the smallest hash; only that one may go back to training when the group grows. Instances of one
    image stay together.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share: expected a validation share in [0, 1), got {share}")
    hashes = [name_hash(name, seed) for name in names]
    of_group: dict[str, set[float]] = {}
    for value, group in zip(hashes, groups, strict=True):
        of_group.setdefault(group, set()).add(value)
    # Below a group's limit are the hashes under the share, or else its smallest one.
    limits = {
        group: max(share, np.nextafter(min(values), 1)) if share > 0 and len(values) > 1 else share
        for group, values in of_group.items()
    }
    return [bool(h < limits[group]) for h, group in zip(hashes, groups, strict=True)]


def split_validation(source: Source, share: float, seed: int = 0) -> tuple[Subset, Subset]:
    """The training and the validation part of a source, by `is_validation`."""
    chosen = is_validation(source.names, source.groups, share, seed)
    kept = [index for index, valid in enumerate(chosen) if not valid]
    held_out = [index for index, valid in enumerate(chosen) if valid]
    return Subset(source, kept), Subset(source, held_out)
