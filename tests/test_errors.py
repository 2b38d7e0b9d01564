"""The tree of errors at the head of errors.py is what they are."""

from __future__ import annotations

from rayllm_batch import errors


def tree(kind: type, depth: int = 0) -> list[str]:
    below = [
        inner for inner in kind.__subclasses__() if inner.__module__ == kind.__module__
    ]  # not those of other tests
    return ["    " * depth + kind.__name__, *(line for inner in below for line in tree(inner, depth + 1))]


def test_the_tree_that_is_drawn_is_that_of_the_classes() -> None:
    drawn = (errors.__doc__ or "").partition("\n\n")[2]
    assert drawn.splitlines() == tree(errors.RayLLMBatchError)
