"""A dataset on the Hugging Face Hub as the place of answers.

A write there is a commit, and the Hub limits how many there may be, so a run does not write to it as it goes: it works
in a folder of this machine, and when all rows are in it, that folder's files become those of the dataset. Where this
machine has no such folder, and the dataset has one of the same job, it is fetched first, and the run goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

from rayllm_batch.errors import (
    HubUnavailableError,
    InvalidTokenError,
    ModelAccessError,
    OutputError,
    TokenRequiredError,
)
from rayllm_batch.model.hub import is_offline, saved_tokens
from rayllm_batch.model.hub_client import HubClient, endpoint, model_page, site, tokens_page
from rayllm_batch.output import dataset_card
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.part_file import encoded
from rayllm_batch.output.place import INSIDE, OutputPlace
from rayllm_batch.output.records import NAME, Manifest
from rayllm_batch.secret import Secret

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

    from rayllm_batch.output.folder import OutputFolder

_URI = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@(refs/pr/\d+|[^/@]+))?(?:/(.*))?")
MANIFEST = f"{INSIDE}/manifest.json"
CHANGING = (MANIFEST, f"{INSIDE}/order.ids")  # of a folder's files those that do not keep their content
OF_THE_HUB = ("README.md", ".gitattributes")  # in a repository's root: they say nothing of what is in it
COMMIT_FILES, COMMIT_BYTES = 500, 8 << 30  # of one commit; from storages that are read into memory, MEMORY_BYTES
MEMORY_BYTES = 1 << 30
SHARD_BYTES = 256 << 20  # of a run in memory, as Arrow has it
LIST_SECONDS = 60.0
SLOWEST = 50_000  # bytes/s; who is slower for a whole commit is taken for silent

Content = Union[str, bytes]  # a file's path, or what is in it
log = logging.getLogger("rayllm_batch")


def is_hub(path: object) -> bool:
    return isinstance(path, str) and path.startswith("hf://")


@dataclass(frozen=True)
class HubPlace:
    """path: of the folder in the repository, "" for its root."""

    repo: str
    branch: str = "main"
    path: str = ""

    @classmethod
    def of(cls, given: str) -> HubPlace:
        """given: hf://datasets/owner/name[@branch][/path], or owner/name. Raises OutputError."""
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        form = f"hf://datasets/owner/name, or hf://datasets/owner/name@branch/folder, given {given!r}."
        uri = given if is_hub(given) else f"hf://datasets/{given}"
        found = _URI.fullmatch(uri.rstrip("/"))
        if found is None:
            raise OutputError(f"Answers on the Hugging Face Hub go into a dataset: {form}")
        repo, branch, path = found[1], urllib.parse.unquote(found[2] or "main"), (found[3] or "").strip("/")
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise OutputError(
                f"{repo!r} is no name of a dataset ({str(error).splitlines()[0]}). It must be {form}"
            ) from None
        if re.fullmatch(r"[0-9a-f]{40}", branch):
            raise OutputError(f"{branch!r} is a commit, which cannot be added to. Name a branch, or none: {form}")
        parts = path.split("/") if path else []
        if any(not re.fullmatch(r"[\w+= -][\w.+= -]*", part) or part == INSIDE for part in parts):
            raise OutputError(
                f"{path!r} cannot be a folder of a dataset here: letters, digits and _ - + = can be in its name, and "
                f"dots, not first. It must be {form}"
            )
        return cls(repo, branch, path)

    def __str__(self) -> str:
        branch = "" if self.branch == "main" else f"@{self.branch}"
        return f"hf://datasets/{self.repo}{branch}{'/' if self.path else ''}{self.path}"

    @property
    def config_name(self) -> str:
        return self.path.replace("/", "-") or "default"

    def inside(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def work_folder(self) -> Path:
        """Where a run works whose answers go here, if no other folder is given."""
        from huggingface_hub import constants

        home = os.environ.get("HF_HOME") or constants.HF_HOME
        name = "--".join(["datasets", *self.repo.split("/")])
        more = (
            ""
            if (self.branch, self.path) == ("main", "")
            else f"@{urllib.parse.quote(f'{self.branch}/{self.path}', safe='')}"
        )
        return Path(home).expanduser() / "rayllm_batch" / f"{name}{more}"


class File(NamedTuple):
    """size: bytes. load: its path, or its content where it is on no disk of this machine."""

    size: int
    load: Callable[[], Content]
    is_local: bool = True


@dataclass(frozen=True)
class Remote:
    """What is there. sha: of the branch's last commit; None where there is no such branch, or no repository.

    files: sizes in bytes by their names below the place's path. manifest: what its folder's manifest says.
    """

    is_there: bool = False
    is_private: bool = True
    sha: Optional[str] = None
    files: dict[str, int] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    card: str = ""


class HubFolder:
    """given: see HubPlace.of. token: None for that of the environment. folder: where a run works whose answers go here;
    None for one in HF_HOME. Raises OutputError, TokenRequiredError.
    """

    def __init__(
        self,
        given: str,
        token: Optional[str] = None,
        folder: Union[str, os.PathLike[str], None] = None,
        source: str = "the token given",
    ) -> None:
        self.place = HubPlace.of(given)
        self.folder = self.place.work_folder() if folder is None else Path(folder).expanduser().absolute()
        if "://" in str(folder):
            raise OutputError(f"work_folder must be a folder of this machine, given {str(folder)!r}.")
        if is_offline():
            raise OutputError(f"HF_HUB_OFFLINE=1 is set, so nothing can be written to {self.place}. Unset it.")
        found = next(saved_tokens(), None)
        source, secret = (source, Secret(token)) if token else found or ("no token", Secret(""))
        if not secret:
            raise TokenRequiredError(
                f"Answers are to go to {self.place}, which needs a Hugging Face token, and none was found.",
                f"Create one that may write at {tokens_page()}, and set HF_TOKEN to it.",
            )
        self._client = _Writer(self.place.repo, secret, source, "dataset")

    def look(self) -> Remote:
        """Raises ModelAccessError where this token cannot write there, OutputError for a card that is no card."""
        user = self._client.ask(lambda api: api.whoami())
        remote = self._client.ask(self._listed, seconds=LIST_SECONDS)
        if remote.is_there:
            repo = self.place.repo
            self._client.ask(lambda api: api.auth_check(repo, repo_type="dataset", write=True))
        else:
            self._check_may_create(user)
        dataset_card.parted(remote.card)
        return remote

    def begin(self, job: Job, make: bool = True) -> None:
        """Before a run in its folder: whether its answers can go there at all, and what is there already.

        make: the repository, private, and the branch are made where they are missing, and the folder is fetched where
        there are no rows in it yet. Raises ModelAccessError, OutputError.
        """
        remote, folder = self.look(), self.folder
        known = [] if not folder.is_dir() else [name for name in os.listdir(folder) if NAME.fullmatch(name)]
        has_rows = bool(known)
        if has_rows and (aside := folder / INSIDE / "set_aside").is_dir():
            known += os.listdir(aside)
        self._check_is_free(remote, job.fingerprint, known if has_rows else None, str(folder))
        if not make:
            return
        self._create(remote, private=True)
        if remote.manifest and not has_rows:
            self._fetch(remote, folder)
        print(f"The rows are in {folder} meanwhile, and go to {self.place} when they are complete.", flush=True)

    def push(
        self,
        files: Mapping[str, File],
        job: Job,
        told: Mapping[str, str],
        schema: Optional[pa.Schema] = None,
        *,
        private: bool = True,
        overwrite: bool = False,
        replaced: Sequence[str] = (),
        where: str,
    ) -> str:
        """Make these the files that are there. Returns the address of a page of it.

        Files that are there already are not sent again, and the last commit has the card: whatever is interrupted, the
        same again goes on. files: by their names, parts and what is in INSIDE. replaced: parts that these came in place
        of. where: they are, for messages.
        """
        try:
            remote = self.look()
            if not overwrite:
                self._check_is_free(remote, job.fingerprint, [*files, *replaced], where)
            self._create(remote, private)
            if not remote.sha:
                remote = self.look()
            self._send(remote, files, told, schema)
        except (HubUnavailableError, _PushError) as error:
            raise OutputError(
                f"The answers could not be pushed to {self.place}: {error.why} Nothing is lost: they are in {where}. "
                "Run the same again: it continues."
            ) from None
        return f"{model_page(self.place.repo, 'dataset')}"

    def _send(
        self, remote: Remote, files: Mapping[str, File], told: Mapping[str, str], schema: Optional[pa.Schema]
    ) -> None:
        place, sha = self.place, remote.sha
        parts = [name for name in files if not name.startswith(INSIDE)]
        globs = [f"{kind}-*.{ending}" for kind in ("part", "failed") for ending in ("parquet", "jsonl")]
        paths = [place.inside(glob) for glob in globs if any(Path(name).match(glob) for name in parts)]
        card = dataset_card.written(remote.card, place.config_name, paths, told, schema)
        stale = [name for name in remote.files if name not in files and not self._is_of_the_hub(name)]
        left = [name for name, file in files.items() if name in CHANGING or remote.files.get(name) != file.size]
        groups = list(_groups(sorted(left, key=lambda name: name != MANIFEST), files))
        for i, names in enumerate(groups, start=1):
            is_last = i == len(groups)
            size = sum(files[name].size for name in names)
            if size >= MEMORY_BYTES:
                print(f"Pushing {len(names):,} files ({size / (1 << 30):.1f} GiB) to {place} ...", flush=True)

            title = f"Answers of rayllm_batch{'' if is_last else f' ({i} of {len(groups)})'}"
            its = {place.inside(name): files[name].load for name in names}
            if is_last:
                its[dataset_card.NAME] = card.encode
            commit = partial(self._commit, sha=sha, title=title, files=its, gone=stale if is_last else [])
            sha = self._client.ask(commit, seconds=LIST_SECONDS * 5 + size / SLOWEST)

    def _commit(
        self, api: Any, sha: Optional[str], title: str, files: Mapping[str, Callable[[], Content]], gone: Sequence[str]
    ) -> str:
        """On top of the commit `sha`. Returns the new one."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        place = self.place
        operations: list[Any] = [CommitOperationAdd(path, load()) for path, load in files.items()]
        operations += [CommitOperationDelete(place.inside(name)) for name in gone]
        where = {"repo_type": "dataset", "revision": place.branch, "parent_commit": sha}
        try:
            return api.create_commit(place.repo, operations, commit_message=title, **where).oid
        except RuntimeError as error:  # of the upload of one file, whose own error is the cause
            raise error.__cause__ or error from None

    def _listed(self, api: Any) -> Remote:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        place, files = self.place, dict[str, int]()
        try:
            is_private = bool(api.dataset_info(place.repo).private)
        except RepositoryNotFoundError:
            return Remote()
        try:
            sha = api.dataset_info(place.repo, revision=place.branch).sha
        except RevisionNotFoundError:
            return Remote(True, is_private)
        try:
            for entry in api.list_repo_tree(
                place.repo, place.path or None, recursive=True, repo_type="dataset", revision=sha
            ):
                if hasattr(entry, "size"):
                    files[entry.path.removeprefix(f"{place.path}/") if place.path else entry.path] = entry.size
        except EntryNotFoundError:
            pass

        def read(name: str) -> str:
            url = hf_hub_url(place.repo, name, repo_type="dataset", revision=sha, endpoint=endpoint())
            response = get_session().get(url, headers=build_hf_headers(token=self._client.token), follow_redirects=True)
            try:
                hf_raise_for_status(response)
            except EntryNotFoundError:
                return ""
            return response.content.decode("utf-8", "replace")

        manifest = _loads(read(place.inside(MANIFEST)) if MANIFEST in files else "")
        return Remote(True, is_private, sha, files, manifest, read(dataset_card.NAME))

    def _check_may_create(self, user: Mapping[str, Any]) -> None:
        """As far as the token tells beforehand. Raises ModelAccessError."""
        owner, name = self.place.repo.split("/")[0], user.get("name")
        own = [str(one) for one in [name, *(org.get("name") for org in user.get("orgs") or ())]]
        missing = f"There is no dataset {self.place.repo} on {site()} that {self._client.source} can see"
        if owner not in own:
            near = "" if len(own) > 8 else f" It can under {', '.join(own)}."
            raise ModelAccessError(f"{missing}, and under {owner!r} it cannot make one.{near}", "Check the name.")
        if ((user.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
            raise ModelAccessError(f"{missing}, and it may only read.", _advice())

    def _create(self, remote: Remote, private: bool) -> None:
        place = self.place
        if not remote.is_there:
            self._client.ask(
                lambda api: api.create_repo(place.repo, repo_type="dataset", private=private, exist_ok=True)
            )
        elif private and not remote.is_private:
            log.warning("%s is public: everyone can read what is pushed to it.", model_page(place.repo, "dataset"))
        if not remote.sha and place.branch != "main":
            self._client.ask(
                lambda api: api.create_branch(place.repo, branch=place.branch, repo_type="dataset", exist_ok=True)
            )

    def _check_is_free(self, remote: Remote, fingerprint: str, known: Optional[Sequence[str]], where: str) -> None:
        """Raises OutputError where a push would replace what is somebody else's. known: parts, now or before, of the
        folder `where`; None where it is to be fetched.
        """
        others = sorted(name for name in remote.files if not self._is_of_the_hub(name))
        replace = "Give another name, branch or folder, or replace them: batch.push_to_hub(..., overwrite=True)."
        if others and remote.manifest.get("fingerprint") != fingerprint:
            what = "answers of another job" if remote.manifest else "other files"
            raise OutputError(f"{self.place} holds {what} ({_first(others)}). {replace}")
        if known is None:
            return
        if unknown := [name for name in others if NAME.fullmatch(name) and name not in set(known)]:
            raise OutputError(
                f"{self.place} holds answers of this job that are not in {where} ({_first(unknown)}), as if it had "
                f"been run elsewhere too. With another work_folder=, they are fetched and continued. {replace}"
            )

    def _is_of_the_hub(self, name: str) -> bool:
        return not self.place.path and name in OF_THE_HUB

    def _fetch(self, remote: Remote, folder: Path) -> None:
        """The folder as it was pushed, its manifest last."""
        place = self.place
        parts = [name for name in remote.files if NAME.fullmatch(name)]
        if any(f"{INSIDE}/rows/{name}.ids" not in remote.files for name in parts):
            raise OutputError(
                f"{place} was pushed from a run in memory, whose rows have no ids, so it cannot be continued. Give "
                "another name, branch or folder, or replace it: batch.push_to_hub(..., overwrite=True)."
            )
        print(f"Fetching {len(parts):,} files of answers from {place} ...", flush=True)
        fetched = folder.with_name(f"{folder.name}.fetched")
        wanted = [place.inside(name) for name in (*parts, f"{INSIDE}/*")]

        def fetch(api: Any) -> None:
            api.snapshot_download(
                place.repo, repo_type="dataset", revision=remote.sha, local_dir=fetched, allow_patterns=wanted
            )

        self._client.ask(fetch, patiently=True)
        root = fetched / place.path
        files = [path for path in root.rglob("*") if path.is_file() and ".cache" not in path.relative_to(root).parts]
        for path in sorted(files, key=lambda path: path.name == "manifest.json"):
            at = folder / path.relative_to(root)
            at.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, at)
        shutil.rmtree(fetched)


def replaced_in(folder: OutputFolder) -> list[str]:
    """The parts that were put aside."""
    return [info.base_name for info in folder.place.listed(folder.place.inside("set_aside"))]


def files_of(folder: OutputFolder) -> dict[str, File]:
    """Those of a folder that make it the folder of its job, by their names."""
    place = folder.place
    names = [*folder.parts, *(f"{INSIDE}/rows/{name}.ids" for name in folder.parts), *CHANGING]
    infos = place.fs.get_file_info([f"{place.root}/{name}" for name in names])
    return {name: _file(place, info.path, info.size) for name, info in zip(names, infos, strict=True) if info.is_file}


def _file(place: OutputPlace, path: str, size: int) -> File:
    return File(size, (lambda: path) if place.is_local else (lambda: place.read(path)), place.is_local)


def write_shards(
    answers: ray.data.Dataset, root: Path, job: Job, failed: int
) -> tuple[dict[str, File], tuple[str, ...], int]:
    """The rows of a run in memory as such a folder: its files, the columns that are JSON text in them, and the rows.

    A file's name has a digest of its content, so that the same rows have the same names.
    """
    import pyarrow as pa

    place, as_text, rows = OutputPlace(root), dict[str, None](), 0
    place.fs.create_dir(place.inside(), recursive=True)
    waiting: list[pa.Table] = []

    def write() -> None:
        nonlocal rows
        table = pa.concat_tables(waiting, promote_options="default")
        file = encoded(table, "parquet")
        digest = hashlib.sha256(file.content).hexdigest()[:8]
        number = 1 + sum(path.suffix == ".parquet" for path in root.iterdir())
        (root / f"part-{number:06d}-{digest}.parquet").write_bytes(file.content)
        as_text.update(dict.fromkeys(file.as_text))
        rows += table.num_rows
        waiting.clear()

    for table in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
        waiting.append(table)
        if sum(one.nbytes for one in waiting) >= SHARD_BYTES:
            write()
    if waiting:
        write()
    Manifest(job, "parquet", "complete", rows, None, failed).write(place)
    paths = [path for path in root.rglob("*") if path.is_file()]
    files = {path.relative_to(root).as_posix(): _file(place, str(path), path.stat().st_size) for path in paths}
    return files, tuple(as_text), rows


class _PushError(ModelAccessError):
    """What the Hub, or the way to it, did to a push."""


class _Writer(HubClient):
    """Of a dataset that is to be written."""

    def _closed(self, error: Exception, status: int, token_is_valid: Callable[[], bool]) -> ModelAccessError:
        if status == 401:
            return InvalidTokenError(
                f"The Hugging Face Hub does not accept {self.source}, so nothing can be written to {self.model_id}: it "
                "is mistyped, expired or revoked.",
                _advice(),
            )
        if status == 403:
            return ModelAccessError(
                f"{self.source[:1].upper()}{self.source[1:]} may not write to the dataset {self.model_id}."
                f"{self._server_says(error)}",
                _advice(),
            )
        return ModelAccessError(f"There is no dataset {self.model_id} on {site()}.{self._server_says(error)}")

    def _refused(self, error: Exception, status: int) -> ModelAccessError:
        if status == 412:
            return _PushError(f"{self.model_id} was changed meanwhile, perhaps by another run.")
        found = super()._refused(error, status)
        return found if isinstance(found, HubUnavailableError) else _PushError(found.why)

    def _no_answer(self, error: Exception, downloading: bool) -> ModelAccessError:
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            return HubUnavailableError(f"{site()} fell silent.", "Check the network, and run the same again.")
        return HubUnavailableError(
            f"{site()} could not be written to ({type(error).__name__}: {self._clean(str(error))}).",
            "Check the network, its proxy and HF_ENDPOINT, and run the same again.",
        )


def _advice() -> str:
    return f"Create a token that may write at {tokens_page()}, and set HF_TOKEN to it."


def _groups(names: Sequence[str], files: Mapping[str, File]) -> Iterator[list[str]]:
    """What goes into one commit each; at least one."""
    group: list[str] = []
    size = 0
    for name in names:
        most = COMMIT_BYTES if files[name].is_local else MEMORY_BYTES
        if group and (len(group) == COMMIT_FILES or size + files[name].size > most):
            yield group
            group, size = [], 0
        group.append(name)
        size += files[name].size
    yield group


def _first(names: Sequence[str]) -> str:
    shown = [name for name in names if not name.startswith(INSIDE)][:3]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")


def _loads(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}
