"""The form that answers must have: what constrains them, and what they are checked against."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any, Optional, Union

from rayllm_batch.engine.sampling import HALF_OF_A_PAIR
from rayllm_batch.errors import Interrupted, WorkloadError, is_deep, one_line, shown
from rayllm_batch.tasks.base import InvalidAnswer
from rayllm_batch.tasks.exact_number import dumped, number, plain
from rayllm_batch.tasks.json_arrow import TEXT, below, form_of, referred

WHAT = (
    "a pydantic model, a JSON schema as a dict, or a list of the texts to choose from, such as ['positive', 'negative']"
)


class OutputSchema:
    """`output_schema` of a workload, or of one row.

    given: a pydantic model, or any type that pydantic reads (a dataclass, an Enum, list[Model]); a JSON schema; or
    texts to
           choose from. where: what the user calls it, for errors.

    json_schema: what the engine keeps to; None for a choice. form: the column `parsed`.
    Raises WorkloadError where nothing can be checked against it.
    """

    def __init__(self, given: Any, where: str = "output_schema") -> None:
        self._adapter: Any = None
        self._validator: Any = None
        self.given: Any = given
        self.json_schema: Optional[dict[str, Any]] = None
        if isinstance(given, (list, tuple)):
            self.given = _choices(given, where)
            self.form = form_of({"type": "string"})
        elif isinstance(given, Mapping):
            self.given = self.json_schema = _checked_schema(given, where)
            self.form = form_of(self.json_schema)
        else:
            self.json_schema, column = _schemas_of_type(given, where)
            self.form = form_of(column)

    def __getstate__(self) -> dict[str, Any]:
        """What pydantic and jsonschema compiled of it is made anew in each process."""
        return {**self.__dict__, "_adapter": None, "_validator": None}

    @property
    def is_type(self) -> bool:
        """Whether user code reads the answers: a type's validators."""
        return not isinstance(self.given, (list, dict))

    @property
    def constraint(self) -> dict[str, Any]:
        """As vLLM's structured_outputs."""
        return {"choice": list(self.given)} if self.json_schema is None else {"json": self.json_schema}

    def parse(self, text: str) -> Any:
        """The answer as a value of `form`. Raises InvalidAnswer, whose text names the field and says why."""
        return self.form.value(self._value(text))

    def as_json(self, text: str) -> str:
        """The same as JSON text."""
        return TEXT.value(self._value(text))

    def value(self, text: str) -> Any:
        """The answer as plain values, whatever column it becomes. Raises as `parse` does."""
        return plain(self._value(text))

    def _value(self, text: str) -> Any:
        if self.json_schema is None:
            if text.strip() not in self.given:
                raise InvalidAnswer(f"it is none of {', '.join(map(repr, self.given))[:200]}")
            return text.strip()
        value = _loaded(text)
        try:
            if not isinstance(self.given, Mapping):
                return self._read(value)
            self._check(value)
        except RecursionError:
            raise InvalidAnswer("its lists and objects hold each other in too many levels") from None
        return value

    def _check(self, value: Any) -> None:
        from jsonschema.exceptions import best_match

        if self._validator is None:
            from jsonschema.validators import validator_for
            from referencing import Registry

            kind = validator_for(self.json_schema, _newest())
            self._validator = kind(self.json_schema, registry=Registry())  # an empty one: nothing is fetched
        error = best_match(self._validator.iter_errors(value))
        if error is not None:
            said = error.message  # it begins with the value and ends with the reason
            said = said if len(said) <= 200 else f"{said[:90]} ... {said[-100:]}"
            raise InvalidAnswer(f"{_at(error.absolute_path)}{said}")

    def _read(self, value: Any) -> Any:
        """By the type's own validators, which may change it, and back to what JSON has."""
        from pydantic import TypeAdapter, ValidationError

        if self._adapter is None:
            self._adapter = TypeAdapter(self.given)
        # Of a number pydantic makes a Decimal by way of a float64; of a text it does not.
        text = dumped(value, quoted=_has_decimal(self._adapter.core_schema))
        try:
            return self._adapter.dump_python(self._adapter.validate_json(text), mode="json", by_alias=True)
        except ValidationError as problem:
            errors = problem.errors(include_url=False, include_context=False)
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            given = f", given {shown(errors[0]['input'], 100)}"
            raise InvalidAnswer(f"{_at(errors[0]['loc'])}{errors[0]['msg']}{given}{more}") from None
        except (RecursionError, Interrupted):
            raise
        except BaseException as problem:  # of a validator or a serializer of the user's, which may end the process
            raise InvalidAnswer(f"{getattr(self.given, '__name__', 'its type')} raised {one_line(problem)}") from None


def _choices(given: Union[list, tuple], where: str) -> list[str]:
    texts = [one.strip() if isinstance(one, str) else "" for one in given]
    wrong = next((one for one, text in zip(given, texts, strict=True) if not text or HALF_OF_A_PAIR.search(text)), None)
    if not given or wrong is not None or len(set(texts)) < len(texts):
        why = "it is empty" if not given else "one comes twice" if wrong is None else f"it holds {shown(wrong)}"
        raise WorkloadError(f"{where}, as a list, must be different texts to choose from, but {why}.")
    return texts


def _checked_schema(given: Mapping[Any, Any], where: str) -> dict[str, Any]:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        if is_deep(given):
            raise ValueError("its parts hold each other in more than 100 levels")
        schema = json.loads(json.dumps(given, allow_nan=False))
        if HALF_OF_A_PAIR.search(json.dumps(schema, ensure_ascii=False)):
            raise ValueError("it holds half of a surrogate pair, which is no text")
        if not isinstance(schema.get("$schema", ""), str):
            raise ValueError(f"its $schema is {shown(schema['$schema'])}")
        kind = validator_for(schema, _newest())
        if schema and not schema.keys() & kind.VALIDATORS.keys():
            inner = [key for key in ("schema", "json_schema", "json") if isinstance(schema.get(key), dict)]
            hint = f"give what stands in its {inner[0]!r}" if inner else "{} takes any JSON"
            raise ValueError(f"none of its keys ({', '.join(schema)[:100]}) says what an answer must be; {hint}")
        _check_references(schema, schema)
        kind.check_schema(schema)
    except SchemaError as problem:
        raise WorkloadError(f"{where} is no JSON schema: {_at(problem.absolute_path)}{problem.message[:300]}") from None
    except (TypeError, ValueError) as problem:
        raise WorkloadError(f"{where} must be {WHAT}: {one_line(problem, named=False)}") from None
    return schema


def _check_references(part: Any, root: Any) -> None:
    """Raises ValueError for a $ref that points out of the schema, or to nothing in it."""
    for key in ("$ref", "$dynamicRef", "$recursiveRef") if isinstance(part, Mapping) else ():
        reference = part.get(key)
        if isinstance(reference, str) and referred(root, reference) is None:
            raise ValueError(f"{key} {reference!r} must point to a part of the schema itself, such as '#/$defs/Name'")
    if isinstance(part, Mapping) and part is not root and isinstance(part.get("$id"), str):
        raise ValueError(
            f"a part of it has an $id, {part['$id'][:100]!r}, of which its own $refs would be: leave it out"
        )
    for inner in part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ():
        _check_references(inner, root)


def _schemas_of_type(given: Any, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an answer of this type must be, and what it becomes: validators and serializers may change it."""
    from pydantic import TypeAdapter

    def plain(schema: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps(schema), parse_constant=lambda name: None)  # a default of NaN

    try:
        if inspect.isroutine(given):  # pydantic would make a form of its arguments
            raise TypeError("which is code, not a type")
        adapter = TypeAdapter(given)
        return plain(adapter.json_schema(mode="validation")), plain(adapter.json_schema(mode="serialization"))
    except Exception as problem:  # pydantic raises many kinds
        raise WorkloadError(f"{where} must be {WHAT}, but is {shown(given)}: {one_line(problem, 200)}") from None


def _has_decimal(core_schema: Any) -> bool:
    if isinstance(core_schema, dict):
        return core_schema.get("type") == "decimal" or any(map(_has_decimal, core_schema.values()))
    return isinstance(core_schema, (list, tuple)) and any(map(_has_decimal, core_schema))


def _loaded(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"it holds {name}, which JSON does not have")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"one of its objects has the key {key[:50]!r} twice")
            found[key] = value
        return found

    try:  # engines let a tab in a string pass
        return json.loads(text, strict=False, parse_constant=refuse, parse_float=number, object_pairs_hook=unique)
    except (ValueError, RecursionError) as problem:
        raise InvalidAnswer(f"it is no JSON: {one_line(problem, 200, named=False)}") from None


def _newest() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator


def _at(path: Any) -> str:
    named = ""
    for part in path:
        named = f"{named}[{part}]" if isinstance(part, int) else below(named, str(part))
    return f"field {named!r}: " if named else ""
