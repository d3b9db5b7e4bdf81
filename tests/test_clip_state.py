"""ClipState: changes go through its methods, can be undone, and nothing else makes any."""

import ast
from pathlib import Path

import numpy as np
import pytest

import petsam_jax.predict
from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.predict.video.clip_state import UNDO_STEPS, ClipState
from petsam_jax.predict.video.crops import View
from petsam_jax.predict.video.tracks import PromptedFrame, RecentFrame, TrackedFrame

FOLDER = Path(petsam_jax.predict.__file__).parent
# Methods of containers that change them.
MUTATORS = {
    *("add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove"),
    *("setdefault", "sort", "update", "put", "drop"),
}
VIEW = View(0, 0, 8, 8)
LOGITS, POINTER, MEMORY = np.zeros((2, 2), np.float32), np.zeros(3), np.zeros((1, 1, 3))


def prompted(*points):
    prompt = Prompt(points, (1,) * len(points))
    return PromptedFrame(prompt, True, False, "", LOGITS, 1.0, POINTER, MEMORY, VIEW, VIEW)


TRACKED, RECENT = TrackedFrame("", 1.0, POINTER, False), RecentFrame(LOGITS, MEMORY, VIEW)


@pytest.fixture
def state():
    """One object, prompted on frame 3 and tracked on frames 3 and 4."""
    state = ClipState(reach=2)
    state.put_prompt(3, 7, prompted((1, 2)))
    for frame in (3, 4):
        state.put_tracked(frame, 7, TRACKED, RECENT)
    return state


def test_prompts_count_before_what_was_tracked(state):
    assert state.object_ids == [7] and state.ids_on(4) == [7] and state.ids_on(5) == []
    assert state.prompt(3, 7) == Prompt(((1, 2),), (1,)) and state.prompt(4, 7) is None
    assert isinstance(state.at(3, 7), PromptedFrame) and state.at(4, 7) is TRACKED
    assert state.at(3, 8) is None and state.prompt(3, 8) is None
    assert list(state.prompted(7)) == [3] and list(state.tracked(7)) == [3, 4]
    assert not state.prompted(8) and not state.tracked(8)
    assert [entry[:2] for entry in state.recent_entries()] == [(3, 7), (4, 7)]
    state.put_tracked(6, 7, TRACKED, RECENT)
    assert state.recent(3, 7) is None and state.recent(4, 7) is RECENT


def test_changes_are_undone_in_turn_and_tracked_frames_stay(state):
    state.put_prompt(3, 7, prompted((1, 2), (3, 4)))
    state.put_prompt(0, 9, prompted((5, 5)))
    state.clear_prompts(3, [7])
    assert state.at(3, 7) is TRACKED
    state.remove(9)
    state.put_tracked(5, 7, TRACKED, RECENT)
    seen = []
    while state.undo():
        seen.append((state.object_ids, len(getattr(state.prompt(3, 7), "points", ()))))
    assert seen == [([7, 9], 0), ([7, 9], 2), ([7], 2), ([7], 1), ([], 0)]
    assert not state.undo()


def test_the_version_counts_changes_but_not_those_of_tracking(state):
    versions = [state.version]
    for change, *given in (
        (state.put_prompt, 3, 7, prompted((1, 2), (3, 4))),
        (state.clear_prompts, 3, [7]),
        (state.undo,),
        (state.put_tracked, 5, 7, TRACKED, RECENT),
        (state.update_prompt, 3, 7, prompted((1, 2))),
        (state.remove, 7),
        (state.clear,),
    ):
        change(*given)
        versions.append(state.version)
    assert np.diff(versions).tolist() == [1, 1, 1, 0, 0, 1, 1]
    assert state.object_ids == [] and state.recent_entries() == [] and not state.undo()


def test_the_history_is_bounded(state):
    for _ in range(UNDO_STEPS + 5):
        state.put_prompt(3, 7, prompted((1, 2)))
    assert sum(state.undo() for _ in range(UNDO_STEPS + 5)) == UNDO_STEPS


def test_what_is_read_cannot_be_written(state):
    for frames in (state.prompted(7), state.tracked(7)):
        with pytest.raises(TypeError):
            frames[0] = prompted((1, 2))
    with pytest.raises(AttributeError):
        state.version = 3


def is_state(node):
    """Whether an expression is a `ClipState`, by its name."""
    name = getattr(node, "attr", getattr(node, "id", None))
    return name in ("state", "_state")


def within_state(node):
    """Whether an expression is an attribute, an item or a result of a `ClipState`."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
        if is_state(node):
            return True
    return False


def changes(tree):
    """Lines that change a `ClipState` in another way than by its own methods."""
    for node in ast.walk(tree):
        targets = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = node.func
            if called.attr in MUTATORS and within_state(called.value):
                yield node.lineno
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and is_state(node.value):
            yield node.lineno
        for target in targets:
            parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
            if any(within_state(part) for part in parts):
                yield node.lineno


def test_nothing_outside_changes_the_state():
    files = [path for path in FOLDER.rglob("*.py") if path.name != "clip_state.py"]
    assert any("state." in path.read_text() for path in files)
    found = {path.name: list(changes(ast.parse(path.read_text()))) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("code", "is_change"),
    [
        ("self._state.objects = {}", True),
        ("state.version += 1", True),
        ("inputs.state.objects[1].prompted[3] = record", True),
        ("del session._state.objects[1]", True),
        ("state.objects.setdefault(1, one)", True),
        ("a, state.prompted(1)[2] = 3, 4", True),
        ("state._history.clear()", True),
        ("state.clear()", False),
        ("state.put_prompt(3, 7, record)", False),
        ("self._state = ClipState(3)", False),
        ("known = state.at(3, 7)", False),
    ],
)
def test_changes_are_recognised(code, is_change):
    assert bool(list(changes(ast.parse(code)))) == is_change
