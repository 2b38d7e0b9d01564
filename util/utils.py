"""`prompt_for_hugging_face_token`: the token that opens a model, asked for only where it must be."""

from __future__ import annotations

from rayllm_batch.errors import (
    GatedModelError,
    InvalidTokenError,
    ModelAccessError,
    ModelNotFoundError,
    TokenRequiredError,
)
from rayllm_batch.model.hub import check_model_access, find_token, remember_token, saved_tokens
from rayllm_batch.model.hub_client import model_page, tokens_page
from util.front_end import FrontEnd, front_end

TRIES = 3


def prompt_for_hugging_face_token(hf_model: str) -> str:
    """The Hugging Face token that opens `hf_model`, or `""` if none is needed.

    A public model, a local folder and `HF_HUB_OFFLINE=1` need none. Otherwise the token in HF_TOKEN is tried, then
    that of huggingface_hub's store, and then a person is asked, by a panel in JupyterLab and by an input box in VS
    Code and terminals. The call returns once there is an answer, and a token that it returns has been seen to open
    this very model. The token's `repr` hides it, so that no cell shows it.

    Raises:
        TokenRequiredError: A token is needed, and there is nobody to ask for one.
        InvalidTokenError: The Hub accepts neither a saved token nor one of three entered ones.
        GatedModelError: The token is good, but does not open this model.
        ModelNotFoundError: There is no such model, or the token does not open it.
        HubUnavailableError: The Hub cannot be reached, or answers with an error of its own.
    """
    try:
        return find_token(hf_model)
    except ModelAccessError as error:
        refusal = error
    asking = front_end()
    if asking is FrontEnd.NOBODY or not _another_token_may_help(refusal):
        raise refusal.with_traceback(None)
    if asking is FrontEnd.PANEL:
        from util.token_panel import TokenPanel as Question
    else:
        from util.token_line import TokenLine as Question
    with Question(hf_model) as question:
        return _ask(question, hf_model, refusal)


def _another_token_may_help(refusal: ModelAccessError) -> bool:
    if isinstance(refusal, ModelNotFoundError):  # missing, or private: without any token these look the same
        return next(saved_tokens(), None) is None
    return isinstance(refusal, (TokenRequiredError, InvalidTokenError, GatedModelError))


def _ask(question, hf_model: str, refusal: ModelAccessError) -> str:
    why = f"{refusal.why}\n{_what_to_enter(hf_model, refusal)}"
    for left in reversed(range(TRIES)):
        token = question.ask(why)
        try:
            if token:
                check_model_access(hf_model, token, source="the token you entered")
                note = _remember(token) if question.wants_remembering() else ""
                question.finish(f"The token opens {hf_model}.{note}")
                return token
            why = "Nothing was entered."
        except InvalidTokenError as error:
            refusal, why = error, error.why
        except ModelAccessError as error:
            refusal, why = error, error.why
            break
        why += f"\nEnter a token from {tokens_page()} ({left} of {TRIES} tries left)."
    question.finish(refusal.why)
    raise refusal.with_traceback(None)


def _what_to_enter(hf_model: str, refusal: ModelAccessError) -> str:
    if isinstance(refusal, ModelNotFoundError):
        return "If the name is wrong, interrupt this and correct it. If the model is private, enter a token that can read it."
    if isinstance(refusal, GatedModelError):
        return f"Request access at {model_page(hf_model)}, or enter the token of an account that has it."
    return (
        f"Create a token with read access at {tokens_page()} and enter it here. Its account needs access to the model: "
        f"request it at {model_page(hf_model)}."
    )


def _remember(token: str) -> str:
    try:
        remember_token(token)
    except ModelAccessError as error:
        return f" It is not remembered: {error.why}"
    return " It is remembered on this machine, in huggingface_hub's store."
