"""Trained arrays with the small ones end to end, as a training state keeps them.

In: arrays by dotted name. Out: fewer arrays, and the same again by name, traced or in numpy. XLA
compiles a loop for each array and formula, at some 10 ms each: clipping, AdamW, averaging and the
sum of a batch's parts were a third of a step's programs, most of it for biases and norms.
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

# Arrays of fewer elements than this are small: others would take time to put together.
SMALL = 2**18


class FlatParams(NamedTuple):
    """Which arrays make up which vectors; all others stay by themselves.

    What is saved is by name, and does not depend on this.
    """

    vectors: Mapping[str, Mapping[str, Shape]]

    def pack(self, arrays: Arrays) -> dict[str, Any]:
        """Dotted name -> array, but vectors in place of their members."""
        arrays = dict(arrays)
        for vector, members in self.vectors.items():
            parts = [arrays.pop(name).reshape(-1) for name in members]
            arrays[vector] = _numpy_of(parts[0]).concatenate(parts)
        return arrays

    def unpack(self, arrays: Arrays) -> dict[str, Any]:
        """What `pack` was given, in another order; its gradient is packed again."""
        arrays = dict(arrays)
        for vector, members in self.vectors.items():
            whole = arrays.pop(vector)
            ends = list(itertools.accumulate(math.prod(shape) for shape in members.values()))
            parts = _numpy_of(whole).split(whole, ends[:-1])
            named = zip(members.items(), parts, strict=True)
            arrays |= {name: part.reshape(shape) for (name, shape), part in named}
        return arrays

    def rules(self, rules: Mapping[str, Hashable]) -> dict[str, Any]:
        """The rules of packed arrays, of those of named ones."""
        rules = dict(rules)
        for vector, members in self.vectors.items():
            (rules[vector],) = {rules.pop(name) for name in members}
        return rules

    def pack_within(self, tree: Any) -> Any:
        """Pack every dict of named arrays in a tree, such as an optimiser's averages."""
        return _within(tree, self.pack, {name for names in self.vectors.values() for name in names})

    def unpack_within(self, tree: Any) -> Any:
        """Unpack every dict of packed arrays in a tree."""
        return _within(tree, self.unpack, set(self.vectors))


# Every array by itself.
UNPACKED = FlatParams({})


def pack_small(shapes: Mapping[str, Shape], rules: Mapping[str, Hashable]) -> FlatParams:
    """All small arrays that have the same rule make up a vector; `rules` has all that are trained.

    One rule for all of a vector's elements is a number in the program and no array.
    """
    small = {}
    for name, rule in rules.items():
        if math.prod(shapes[name]) < SMALL:
            small.setdefault(rule, {})[name] = tuple(shapes[name])
    return FlatParams({f"together.{i}": members for i, members in enumerate(small.values())})


def _numpy_of(array):
    """numpy for its own arrays, which JAX would compile a program to cut; else JAX's."""
    return np if isinstance(array, np.ndarray) else jnp


def _within(tree: Any, change: Callable[[Arrays], Arrays], names: set[str]) -> Any:
    def has_them(node):
        return bool(names) and isinstance(node, dict) and names <= node.keys()

    return jax.tree.map(lambda x: change(x) if has_them(x) else x, tree, is_leaf=has_them)
