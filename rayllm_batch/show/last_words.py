"""What a run says when it is over: rows answered, rows failed and why, where the answers are, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from rayllm_batch.measures.failures import CHARACTERS, OTHERS
from rayllm_batch.show.row_table import shortened

MOST_FREQUENT = 3


def most_frequent(counts: Mapping[str, tuple[int, str]]) -> list[str]:
    """A line each, the most frequent first, and one for the rest."""
    ordered = sorted(counts.values(), key=lambda item: (item[1].endswith(OTHERS), -item[0]))
    lines = [f"  {rows:,} x {shortened(example, CHARACTERS)}" for rows, example in ordered[:MOST_FREQUENT]]
    if rest := sum(rows for rows, _ in ordered[MOST_FREQUENT:]):
        lines.append(f"  {rest:,} x other errors")
    return lines


def of_invalid(invalid: Mapping[str, tuple[int, str]], reasks: int, mended: int) -> list[str]:
    """A line of how many answers were not valid, and why; none where all were. mended: rows."""
    if not invalid:
        return []
    count = sum(answers for answers, _ in invalid.values())
    again = f"; {reasks:,} asked for again, which mended {mended:,} row(s)" if reasks else ""
    return [f"{count:,} invalid answers{again}:", *most_frequent(invalid)]


def of_truncated(rows: int) -> list[str]:
    """A line of how many rows' texts were cut; none where none was."""
    if not rows:
        return []
    return [f"{rows:,} row(s) had a text that was cut to truncate_prompt_tokens; the column `truncated` says which."]


def of_known(new: int, known: int, gone: int, failed_and_gone: int = 0, from_file: bool = False) -> list[str]:
    """Lines of a run that went on in a folder. gone: from the data, with answers. from_file: a dataset_file's rows."""
    why = "or does load_dataset read other rows each time?"
    if from_file:
        why = "or is it another dataset_file (--input), or a smaller dataset_fraction?"
    stay = f" from the data and keep their answers ({why})" if gone else ""
    lines = [f"{new:,} rows are new, {known:,} were known, {gone:,} are gone{stay}."]
    if failed_and_gone:
        rows, they, are = ("row", "It", "is") if failed_and_gone == 1 else ("rows", "They", "are")
        there = f"{failed_and_gone:,} {rows} in the folder {are} no longer in the input"
        lines.append(f"{there}. {they} had failed, and {are} set aside.")
    return lines


def of_memory(
    rows: int, failed: int, took: object, errors: Mapping[str, tuple[int, str]], invalid: Sequence[str] = ()
) -> str:
    """invalid: lines of `of_invalid`."""
    lines = [_first(rows, failed, took), *most_frequent(errors), *invalid]
    where = "in memory only, in the Dataset that run() returns: run(output_path) writes them as they come."
    lines.append(f"The answers are {where}")
    return "\n".join(lines)


def of_folder(
    rows: int,
    failed: int,
    took: object,
    errors: Mapping[str, tuple[int, str]],
    *,
    path: str,
    output_format: str,
    alike: bool,
    id_column: Optional[str],
    answer_column: str = "generated_text",
    nested_integers: bool = False,
    invalid: Sequence[str] = (),
    of_csv: bool = False,
) -> str:
    """alike: all parts have one schema. id_column: whose values stand in the files as they were.

    nested_integers: there are some in structs or lists. invalid: lines of `of_invalid`. of_csv: the rows' cells are
    text, for which another reader would guess types.
    """
    lines = [_first(rows, failed, took), *most_frequent(errors), *invalid]
    read = _read(path, output_format, alike, nested_integers)
    how = read or "the Dataset that run() returns has them"
    lines.append(f"The answers are in {path}, each beside the columns of its row: {how}.")
    if id_column and read:
        columns = [id_column, answer_column, "error"]
        table = "table, read with dtype=str and keep_default_na=False" if of_csv else "table"
        lines.append(f"  With your {table}: table.merge({read}[{columns!r}], on={id_column!r}, how='left')")
    if failed:
        how = "with the same call and retry_failed=True (--retry-failed)"
        lines.append(f"  Failed rows run again, also after a fix, {how}.")
    return "\n".join(lines)


def _read(path: str, output_format: str, alike: bool, nested_integers: bool) -> str:
    """Python that reads it; "" where none is short. Of parts that differ, pandas would give the first one's columns
    and types.

    Nor is it for what guesses types: the text 2024-01-02 would be a time, and no join would find it.
    """
    if "://" in path and "?" in path:  # options that pandas does not know
        return ""
    if output_format == "parquet" and alike:
        exact = ", dtype_backend='pyarrow'" if nested_integers else ""  # else those beside nulls are floats
        return f"pd.read_parquet({path!r}{exact})"
    if "://" in path:
        return ""
    files = f"glob.glob({f'{path}/*.{output_format}'!r})"
    if output_format == "parquet":
        return f"pd.concat(map(pd.read_parquet, {files}))"
    return f"pd.DataFrame(json.loads(line) for file in {files} for line in open(file, encoding='utf-8'))"


def _first(rows: int, failed: int, took: object) -> str:
    return f"{rows:,} rows, {failed:,} failed, {rows - failed:,} answered; {took}"
