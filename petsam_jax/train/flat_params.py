"""Trained arrays with the small ones concatenated into vectors, as a training state holds them.

In: arrays by dotted name. Out: fewer arrays, and back; traced or in numpy. XLA compiles a loop for
each array and formula, at some 10 ms each: clipping, AdamW, averaging and summing microbatches were
a third of a step's programs, most of it for biases and norms.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Arrays = Mapping[str, Any]
Shape = tuple[int, ...]

# Arrays below this many elements are packed; copying larger ones would take time.
SMALL = 2**18


class FlatParams(NamedTuple):
    """Which arrays each vector concatenates; all other arrays stay as they are.

    Checkpoints hold the unpacked arrays and do not depend on this.
    """

    vectors: Mapping[str, Mapping[str, Shape]]

    def pack(self, arrays: Arrays) -> dict[str, Any]:
        """Replace the members of each vector by the vector."""
        arrays = dict(arrays)
        for vector, members in self.vectors.items():
            parts = [arrays.pop(name).reshape(-1) for name in members]
            arrays[vector] = _numpy_of(parts[0]).concatenate(parts)
        return arrays

    def unpack(self, arrays: Arrays) -> dict[str, Any]:
        """The inverse of `pack`, up to the order of names; its gradient is packed again."""
        arrays = dict(arrays)
        for vector, members in self.vectors.items():
            whole = arrays.pop(vector)
            ends = list(itertools.accumulate(math.prod(shape) for shape in members.values()))
            parts = _numpy_of(whole).split(whole, ends[:-1])
            named = zip(members.items(), parts, strict=True)
            arrays |= {name: part.reshape(shape) for (name, shape), part in named}
        return arrays

    def rules(self, rules: Mapping[str, Hashable]) -> dict[str, Any]:
        """The rules of packed arrays, from those of the named ones."""
        rules = dict(rules)
        for vector, members in self.vectors.items():
            (rules[vector],) = {rules.pop(name) for name in members}
        return rules

    def pack_within(self, tree: Any) -> Any:
        """Pack every dict of named arrays in a tree, such as an optimiser's averages."""
        return _map_dicts(
            tree, self.pack, {name for names in self.vectors.values() for name in names}
        )

    def unpack_within(self, tree: Any) -> Any:
        """Unpack every dict of packed arrays in a tree."""
        return _map_dicts(tree, self.unpack, set(self.vectors))


# Packs nothing.
UNPACKED = FlatParams({})


def pack_small(shapes: Mapping[str, Shape], rules: Mapping[str, Hashable]) -> FlatParams:
    """One vector for all small arrays that share a rule; `rules` has all trained arrays.

    A rule that all elements of a vector share is a constant in the program, not an array.
    """
    small: dict[Hashable, dict[str, Shape]] = {}
    for name, rule in rules.items():
        if math.prod(shapes[name]) < SMALL:
            small.setdefault(rule, {})[name] = tuple(shapes[name])
    return FlatParams({f"together.{i}": members for i, members in enumerate(small.values())})


def _numpy_of(array):
    """numpy for numpy arrays, which JAX would compile a program to slice; otherwise jax.numpy."""
    return np if isinstance(array, np.ndarray) else jnp


def _map_dicts(tree: Any, change: Callable[[Arrays], Arrays], names: set[str]) -> Any:
    def has_names(node):
        return bool(names) and isinstance(node, dict) and names <= node.keys()

    return jax.tree.map(lambda x: change(x) if has_names(x) else x, tree, is_leaf=has_names)
