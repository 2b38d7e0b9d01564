"""Access to a model on the Hugging Face Hub: which token opens it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from rayllm_batch.errors import (
    GatedModelError,
    HubUnavailableError,
    InvalidTokenError,
    ModelAccessError,
    ModelNotFoundError,
    TokenRequiredError,
)
from rayllm_batch.model.hub_client import CHECK_SECONDS, HubClient, call, site, tokens_page
from rayllm_batch.secret import Secret


def is_local(model_id: str) -> bool:
    """Whether the model is a folder, or a bucket's address, rather than a name on the Hub.

    Anything written as a path counts, there or not: the driver may lack a folder that every worker has.
    """
    return "://" in model_id or model_id.startswith(("/", "./", "../", "~")) or os.path.isdir(model_id)


def is_offline() -> bool:
    """Whether huggingface_hub was told to stay offline, also where that was said after its import."""
    from huggingface_hub import constants

    now = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return constants.HF_HUB_OFFLINE or now.upper() in constants.ENV_VARS_TRUE_VALUES


def check_model_access(model_id: str, token: str | None, *, source: str = "the token given") -> None:
    """Return if `token` opens `model_id`; without a token, if the model is open to everyone.

    The Hub is asked for CHECK_SECONDS at most, a rate limit aside; it is not asked about a local model, nor offline.

    Args:
        source: Where the token comes from, as the messages name it.

    Raises:
        TokenRequiredError: The model is gated, and there is no token.
        InvalidTokenError: The Hub does not accept the token.
        GatedModelError: The token is good, but does not open this model.
        ModelNotFoundError: There is no such model, or it is private and the token does not open it.
        HubUnavailableError: No network, no answer in time, a server error, or a rate limit that lasts too long.
    """
    if is_local(model_id) or is_offline():
        return
    token = Secret(token) if token else None
    if token and not re.fullmatch(r"[!-~]+", token):
        raise InvalidTokenError(
            f"{source[:1].upper()}{source[1:]} cannot be a Hugging Face token: it holds blanks or other characters "
            "that no token has.",
            f"Copy it again from {tokens_page()}.",
        )
    HubClient(model_id, token, source).ask(lambda api: api.auth_check(model_id))


def check_dataset_access(dataset_id: str) -> None:
    """As `check_model_access`, of a dataset, with the token that huggingface_hub sends, or without one."""
    source, token = next(saved_tokens(), ("no token", None))
    client = HubClient(dataset_id, token, source, "dataset")
    client.ask(lambda api: api.auth_check(dataset_id, repo_type="dataset"))


def saved_tokens() -> Iterator[tuple[str, Secret]]:
    """The tokens of this machine, each with its place in words: `HF_TOKEN`, then huggingface_hub's own store."""
    from huggingface_hub import constants, get_token

    first = None
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if not first and (first := Secret(os.environ.get(name, "").strip())):
            yield f"the token in {name}", first
    if first:  # get_token() would answer with the variable once more
        path = Path(constants.HF_TOKEN_PATH)
        stored = Secret(path.read_text().strip() if path.is_file() else "")
    else:
        stored = Secret(call(get_token)[0] or "")  # it may renew the token of a browser login
    if stored and stored != first:
        yield "the token in huggingface_hub's store", stored


def find_token(model_id: str) -> str:
    """The token of this machine that opens `model_id`, or `""` if none is needed.

    Raises:
        ModelAccessError: As `check_model_access`; of several refusals, that of the last token tried.
    """
    for source, token in (("no token", Secret("")), *saved_tokens()):
        try:
            check_model_access(model_id, token, source=source)
            return token or ""
        except (TokenRequiredError, InvalidTokenError, GatedModelError, ModelNotFoundError) as error:
            refusal: ModelAccessError = error
    raise refusal.with_traceback(None)


def remember_token(token: str) -> None:
    """Put the token into huggingface_hub's store, where `hf auth login` puts it, and nowhere else.

    Raises:
        HubUnavailableError: The Hub, which is asked for the token's name, does not answer.
        ModelAccessError: The store cannot be written.
    """
    from huggingface_hub import login

    token = Secret(token)
    _, error = call(lambda: login(token=token, add_to_git_credential=False))
    if isinstance(error, TimeoutError):
        raise HubUnavailableError(f"{site()} did not answer within {CHECK_SECONDS:.0f} s.")
    if error is not None:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ModelAccessError(f"The token could not be stored: {reason}.")
