"""Failed rows by what their errors say, which begins with the stage that failed; invalid answers by the reason. Flat in
memory, however many there are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from rayllm_batch.data.read_options import OF_FILE

MAX_KINDS = 100  # kept; rows of others count together, by their stage
MAX_STAGES = 20
MOST_OF_STAGE = 40  # characters
CHARACTERS = 200
OTHERS = "other errors"
OTHER = "other"  # the stage of errors that name none
STAGE = re.compile(r"[^\W\d]+([ .-][^\W\d]+)*")  # words, by which errors are shown together
PLACE, LINE = re.compile(r" of (?P<quote>['\"]).*?(?P=quote)", re.DOTALL), re.compile(r"(?:: | is )['\"]")
GIVEN = re.compile(r", given |, but is ")  # what follows is the value: so write pydantic's errors and our own
VALUE = re.compile(
    r"""^(?:'.*'|".*"|[\[{].*[\]}]|-?\d\S*|True|False|None) (?=is |are |does |has |should )""", re.DOTALL
)  # jsonschema's

Errors = dict[str, tuple[int, str]]  # by `kind_of`: rows, and one of their errors


def kind_of(error: str) -> str:
    """Errors that differ in numbers alone, such as lengths, are of one kind; so are answers by their reason, and lines
    that could not be read by theirs, whatever file they are of.

    To tell kinds apart, and not to be shown: an example of the kind is.
    """
    error = error[:CHARACTERS]
    stage, colon, said = error.partition(": ")
    if stage == "answer":
        error = f"{stage}{colon}{reason_of(said)}"
    if stage == OF_FILE:
        error = f"{stage}{colon}{LINE.split(PLACE.sub('', said, count=1))[0]}"
    return re.sub(r"\d+(,\d{3})*", "0", error)


def reason_of(complaint: str) -> str:
    """What was wrong with an answer, without the value that was: of many answers, each has another."""
    field, at, said = complaint.partition("': ") if complaint.startswith("field '") else ("", "", complaint)
    if "is a required property" not in said:
        said = VALUE.sub("it ", said, count=1)
    return f"{field}{at}{GIVEN.split(said)[0]}"


def stage_of(error: str) -> str:
    """What its text begins with, such as parse_row; OTHER where that is no name."""
    stage = error.partition(":")[0]
    return stage if len(stage) <= MOST_OF_STAGE and STAGE.fullmatch(stage) else OTHER


def count(errors: Errors, error: str, rows: int = 1) -> None:
    """Add rows with an error; or, below 0, take them out."""
    kind = kind_of(error)
    for other in (f"{stage_of(error)}: {OTHERS}", f"{OTHER}: {OTHERS}"):
        if kind not in errors and len(errors) >= MAX_KINDS + (MAX_STAGES if kind.endswith(OTHERS) else 0):
            kind = error = other
    known, example = errors.get(kind, (0, error[: CHARACTERS + 1]))
    errors[kind] = (known + rows, example)
    if not errors[kind][0]:
        del errors[kind]


def counted(texts: Iterable[str]) -> Errors:
    errors: Errors = {}
    for text in texts:
        count(errors, text)
    return errors


def by_stage(errors: Mapping[str, tuple[int, str]]) -> dict[str, int]:
    stages: Counter[str] = Counter()
    for rows, error in errors.values():
        stages[stage_of(error)] += rows
    return dict(stages)
