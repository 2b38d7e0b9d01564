"""Rows with pictures, sound or film, in the CPU stage: their media read and checked, their places in the prompt found.

What is decoded here is decoded to be checked; what travels is the bytes as they were given, a tenth of the pixels.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np

from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import EngineError, one_line
from rayllm_batch.media.media_error import MediaError, NotAllowed
from rayllm_batch.media.medium import Medium
from rayllm_batch.media.reader import MediaReader
from rayllm_batch.media.rules import MediaRules
from rayllm_batch.tasks.chat import texts_in
from rayllm_batch.workers.prompts import OF_MEDIA, MediaNotTaken, PromptJob, as_parts, render, takes_parts, told
from rayllm_batch.workers.tokenizer import model_folder

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
READ_IO = {"video.num_frames"}  # of media_io_kwargs
READ_AT_ONCE, READ_BYTES = 32, 2 << 30  # media, and what they may have at most: those of whole rows


class Gone(str):
    """The error of a row whose media cannot be had, though the workload allows them and the model takes such."""


KINDS = {"image": "image_processor", "video": "video_processor", "audio": "feature_extractor"}  # what reads each


@dataclass(frozen=True)
class MediaPrompts:
    """rules: what may be read. limits: of a row's media of a kind, where the config has some. model: whose processor it
    is; name: as the config calls it. processor_kwargs: the engine's mm_processor_kwargs. as_text: the engine renders
    the prompts itself. blind: the name of an engine that takes none, "" of others. unread: settings of the config that
    would decide how media are read, if they were not read here. length: the config's max_model_len, if it has one.
    """

    rules: MediaRules
    model: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    processor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    as_text: bool = False
    blind: str = ""
    unread: str = ""
    name: str = "the model"
    length: Optional[int] = None

    @classmethod
    def of(cls, config: EngineConfig, rules: MediaRules, model: Optional[str] = None) -> MediaPrompts:
        """model: another place of its files than the config's model_id. Raises ConfigError."""
        kwargs = config.engine_kwargs
        given = kwargs.get("limit_mm_per_prompt") or {}
        given = given.items() if isinstance(given, dict) else ()
        counts = {kind: its.get("count") if isinstance(its, dict) else its for kind, its in given}
        limits = {kind: count for kind, count in counts.items() if isinstance(count, int)}
        if kwargs.get("language_model_only"):
            limits = dict.fromkeys(KINDS, 0)
        processor_kwargs = kwargs.get("mm_processor_kwargs") or {}
        kind = config.engine_kind
        blind = "" if kind.takes_media else config.llm_engine
        io = kwargs.get("media_io_kwargs") or {}
        names = {f"{of}.{name}" for of, its in io.items() for name in its or {}} if isinstance(io, dict) else set[str]()
        unread = ", ".join(sorted(names - READ_IO))
        where, name, length = model or config.model_id, config.model_id, kwargs.get("max_model_len")
        length = length if type(length) is int and length > 0 and not kind.tokenizes else None
        return cls(rules, where, limits, processor_kwargs, kind.tokenizes, blind, unread, name, length)

    def read(self, rows: Sequence[tuple[int, list[tuple[str, Any]]]], job: PromptJob) -> Iterator[tuple[int, Any]]:
        """Of each row its media, as the column has them, or its error: what is read at once is some rows', in parallel.

        rows: of each its number, and its media's kinds and sources.
        """
        reader = MediaReader(self.rules)
        for some in self._together(rows):
            found = iter(reader.read_all([one for _, its in some for one in its]))
            for number, its in some:
                yield number, self.of_row([next(found) for _ in its], job)

    def found(self, sources: Sequence[tuple[str, Any]]) -> list[Any]:
        """One row's alone, each a Medium or a MediaError."""
        return MediaReader(self.rules).read_all(sources)

    def _together(self, rows: Sequence[tuple[int, list[Any]]]) -> Iterator[list[tuple[int, list[Any]]]]:
        """Rows of so few media that none of them meets the reader's bound on all that it gives at once; those of one
        row may.
        """
        most, some, count = max(1, min(READ_AT_ONCE, READ_BYTES // self.rules.max_bytes)), list[Any](), 0
        for row in rows:
            if some and count + len(row[1]) > most:
                yield some
                some, count = [], 0
            some.append(row)
            count += len(row[1])
        if some:
            yield some

    def of_row(self, found: list[Any], job: PromptJob) -> Any:
        """As the column has them, or the row's error."""
        if error := next((one for one in found if isinstance(one, MediaError)), None):
            which = f"{found.index(error) + 1} of {len(found)}: " if len(found) > 1 else ""
            text = f"{OF_MEDIA}{which}{one_line(error, named=False)}"
            return text if isinstance(error, NotAllowed) else Gone(text)
        try:
            tokens = [0] * len(found) if self.as_text else _tokens(self._processor(job), found, self.processor_kwargs)
        except Exception as problem:  # a picture that is too narrow for the model, say
            return f"{OF_MEDIA}the model's processor does not take it: {one_line(problem)}"
        seen = set[tuple[str, str]]()  # a picture that comes again travels once
        media = []
        for one, its in zip(found, tokens, strict=True):
            data = None if (one.kind, one.digest) in seen else one.data
            media.append({**vars(one), "data": data, "tokens": its})
            seen.add((one.kind, one.digest))
        return media

    def check(self, messages: Sequence[Mapping[str, Any]], job: PromptJob) -> Counter[str]:
        """The kinds of their media. Raises MediaNotTaken where the model takes none such, or not so many."""
        kinds = Counter(kind for message in messages for kind in media_in(message))
        if self.blind:
            kind, count = next(iter(kinds.items()))
            raise MediaNotTaken(f"it has {_number(count, kind)}, but llm_engine {self.blind} takes text alone")
        if self.unread:
            only = f"of its settings only {', '.join(READ_IO)} is read"
            raise MediaNotTaken(f"media_io_kwargs in engine_kwargs has {self.unread}, without effect here: {only}")
        processor = None if self.as_text else self._processor(job)
        if (
            self.length is not None and sum(kinds.values()) >= self.length
        ):  # else thousands of URLs would be fetched first
            media = " and ".join(_number(count, kind) for kind, count in kinds.items())
            raise MediaNotTaken(f"it has {media}, of a token or more each, but max_model_len is {self.length:,}")
        for kind, count in kinds.items():
            if not self.as_text and getattr(processor, KINDS[kind], None) is None:
                takes = [one for one in KINDS if getattr(processor, KINDS[one], None) is not None]
                only = f"takes {' and '.join(takes)}" if takes else "is one for text alone"
                raise MediaNotTaken(f"it has {_number(count, kind)}, but {self.name} {only}: use one that takes it")
            if count > self.limits.get(kind, count):
                most = f"limit_mm_per_prompt in engine_kwargs allows {self.limits[kind]}"
                raise MediaNotTaken(f"it has {_number(count, kind)}, but {most}")
        return kinds

    def render(
        self,
        tokenizer: Any,
        messages: list[dict[str, Any]],
        job: PromptJob,
        tools: Optional[list[dict[str, Any]]],
        own: Mapping[str, Any],
    ) -> str:
        """The text that the model sees, with their placeholders. Raises MediaNotTaken, and what `render` does."""
        kinds = self.check(messages, job)
        processor = self._processor(job)
        written = {kind: _placeholders(processor, kind) for kind in KINDS}
        for text in (text for message in messages for text in texts_in(message["content"])):
            if own_token := next((token for its in written.values() for token in its if token in text), None):
                raise MediaNotTaken(f"its text has {own_token!r}, which stands for media in this model's prompts")
        template = getattr(processor, "chat_template", None)
        if job.chat_template is None and isinstance(template, str):  # as vLLM prefers it, but not beside tools
            own = {**own, "chat_template": template} if not tools else own
        if takes_parts(tokenizer, own.get("chat_template")):
            chat = [{**message, "content": as_parts(message["content"])} for message in messages]
        else:
            chat = [{**message, "content": _flat(message["content"], written, self.name)} for message in messages]
        text = render(tokenizer, chat, job, tools, own)
        for kind, count in kinds.items():
            if written[kind] and all(text.count(token) != count for token in written[kind]):
                places = " or ".join(str(text.count(token)) for token in written[kind])
                raise MediaNotTaken(f"the prompt has {places} places for its {_number(count, kind)}: see chat_template")
        return text

    def _processor(self, job: PromptJob) -> Any:
        """transformers' of the model; with nothing of KINDS where it is one for text alone."""
        cache = sys.__dict__.setdefault("_rayllm_batch_processor", {})  # as with tokenizer_of
        key = repr((self.model, job.tokenizer_kwargs))
        if key not in cache:
            cache.clear()
            folder = model_folder(self.model, job)
            if not any((Path(folder) / name).exists() for name in PROCESSOR_FILES):
                cache[key] = None  # and the import, which takes ten seconds, is spared
                return None
            from transformers import AutoProcessor

            try:
                cache[key] = AutoProcessor.from_pretrained(folder, **job.tokenizer_kwargs)
            except Exception as error:
                raise told(
                    EngineError(f"The processor of {self.name} cannot be loaded: {one_line(error)}"), job
                ) from None
        return cache[key]


def media_in(message: Mapping[str, Any]) -> list[str]:
    """The kinds of a checked message's media."""
    content = message["content"]
    return [] if isinstance(content, str) else [part["type"] for part in content if part["type"] != "text"]


def _number(count: int, kind: str) -> str:
    return f"{count} {kind}{'' if count == 1 or kind == 'audio' else 's'}"


def _placeholders(processor: Any, kind: str) -> list[str]:
    """What may stand for one medium in a prompt's text, before the engine makes as many tokens of it as it takes."""
    names = [f"{kind}_token", *(["boi_token"] if kind == "image" else [])]
    found = (getattr(processor, name, None) for name in names)
    return [token for token in found if isinstance(token, str) and token]


def _flat(content: Any, written: Mapping[str, list[str]], model: str) -> str:
    """For templates that take texts alone: the placeholders first, a line each, as vLLM writes them."""
    if isinstance(content, str):
        return content
    kinds = [part["type"] for part in content if part["type"] != "text"]
    if unknown := next((kind for kind in kinds if not written[kind]), None):
        raise MediaNotTaken(
            f"the chat template of {model} takes texts alone, and its processor names no {unknown}_token"
        )
    return "\n".join([*(written[kind][0] for kind in kinds), *texts_in(content)])


def _tokens(processor: Any, media: Sequence[Medium], kwargs: Mapping[str, Any]) -> list[int]:
    """That each takes beside its placeholder; 0 where the processor does not tell, as of films.

    transformers makes `_get_num_multimodal_tokens` for vLLM. What it does not count, such as the tokens around a
    picture in some models, the engine's reply corrects.
    """
    asked = getattr(processor, "_get_num_multimodal_tokens", None)
    sizes = {one.digest: (one.height, one.width) for one in media if one.kind == "image"}
    tokens: dict[str, int] = {}
    if asked is not None and sizes:
        counts = asked(image_sizes=list(sizes.values()), **kwargs).num_image_tokens or [1] * len(sizes)
        tokens = {digest: count - 1 for digest, count in zip(sizes, counts, strict=True)}
    for one in media:
        if one.kind == "audio" and one.digest not in tokens:
            tokens[one.digest] = _of_sound(processor, one.seconds)
    return [tokens.get(one.digest, 0) for one in media]


def _of_sound(processor: Any, seconds: float) -> int:
    """Of silence as long as it: there is no other way to ask."""
    try:
        token, rate = processor.audio_token, processor.feature_extractor.sampling_rate
        silence = np.zeros(max(1, round(seconds * rate)), dtype=np.float32)
        found = processor(text=token, audio=[silence], sampling_rate=rate)["input_ids"]
        return len(found[0]) - len(processor.tokenizer(token)["input_ids"])
    except Exception:  # one that is asked otherwise: the engine's reply will tell
        return 0
