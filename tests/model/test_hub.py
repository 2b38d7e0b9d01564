"""Access to a model, asked of a loopback Hub by the real huggingface_hub client."""

from __future__ import annotations

import pickle
import socket
import time
import traceback

import pytest

from rayllm_batch.errors import (
    GatedModelError,
    HubUnavailableError,
    InvalidTokenError,
    ModelAccessError,
    ModelNotFoundError,
    TokenRequiredError,
)
from rayllm_batch.model import hub as access
from rayllm_batch.model import hub_client
from rayllm_batch.secret import Secret

pytestmark = pytest.mark.usefixtures("isolated")


def refusal(model_id: str, token: str | None) -> ModelAccessError:
    """The error, after checking what every one of them has to keep: no token anywhere, no hidden cause."""
    with pytest.raises(ModelAccessError) as caught:
        access.check_model_access(model_id, token)
    error = caught.value
    assert error.__cause__ is None and error.__context__ is None
    if token:
        assert token not in str(error)
        frames = traceback.TracebackException.from_exception(error, capture_locals=True)
        of_package = [f for f in frames.stack if "rayllm_batch" in f.filename and "/tests/" not in f.filename]
        assert of_package
        assert not any(token in value for f in of_package for value in f.locals.values())
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


def test_public_model_needs_no_token():
    access.check_model_access("org/public", None)


@pytest.mark.parametrize("model", ["org/gated", "org/private"])
def test_right_token_opens(model):
    access.check_model_access(model, "hf_alice")


def test_gated_without_token(hub):
    error = refusal("org/gated", None)
    assert type(error) is TokenRequiredError
    for part in ("org/gated", "HF_TOKEN", f"{hub.url}/org/gated", f"{hub.url}/settings/tokens"):
        assert part in str(error)


def test_gated_without_access(hub):
    error = refusal("org/gated", "hf_bob")
    assert type(error) is GatedModelError
    assert f"{hub.url}/org/gated" in str(error) and "not in the authorized list" in str(error)


def test_fine_grained_token_says_which_permission_lacks():
    error = refusal("org/gated", "hf_narrow")
    assert type(error) is GatedModelError
    assert "fine-grained token settings" in str(error)


def test_a_mirrors_password_is_not_shown(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("://", "://me:verysecret@"))
    assert "verysecret" not in str(refusal("org/nope", None)) and "verysecret" not in hub_client.tokens_page()
    said = hub_client.HubClient("org/m", None)._clean("ProxyError: at http://me:verysecret@10.0.0.1:3128")
    assert said == "ProxyError: at http://***@10.0.0.1:3128"


def test_wrong_token():
    error = refusal("org/gated", "hf_wrong")
    assert type(error) is InvalidTokenError
    assert "HF_TOKEN" in str(error) and "org/gated" in str(error)


def test_wrong_token_where_the_hub_says_no_more_than_401(hub):
    hub.fail("auth-check", 401, message="Invalid username or password.")
    assert type(refusal("org/gated", "hf_wrong")) is InvalidTokenError
    assert type(refusal("org/gated", "hf_alice")) is ModelNotFoundError  # the token is good: it is the model


@pytest.mark.parametrize("token", ["hf_a b", "hf_ä", "export HF_TOKEN=x", "a\r\nX-Header: b"])
def test_what_cannot_be_a_token_is_not_sent(hub, token):
    assert type(refusal("org/gated", token)) is InvalidTokenError
    assert not hub.requests


def test_private_or_missing_without_token_look_the_same():
    for model in ("org/private", "org/missing"):
        error = refusal(model, None)
        assert type(error) is ModelNotFoundError
        assert model in str(error) and "spelling" in str(error) and "HF_TOKEN" in str(error)


def test_missing_with_token():
    error = refusal("org/missing", "hf_alice")
    assert type(error) is ModelNotFoundError and "There is no model org/missing" in str(error)


def test_name_that_no_model_can_have():
    assert type(refusal("a/b/c", None)) is ModelNotFoundError


def test_rate_limit_is_waited_out(hub, caplog, monkeypatch):
    monkeypatch.setattr(hub_client, "CHECK_SECONDS", 1.5)  # shorter than both waits together
    hub.fail("auth-check", 429, times=2, Retry_After="0")
    started = time.monotonic()
    access.check_model_access("org/gated", "hf_alice")
    assert time.monotonic() - started >= 2
    assert hub.asked("auth-check") == 3
    assert "trying again in 1 s" in caplog.text


def test_rate_limit_by_the_other_header(hub):
    hub.fail("auth-check", 429, times=1, RateLimit='"api";r=0;t=0')
    access.check_model_access("org/public", None)
    assert hub.asked("auth-check") == 2


def test_rate_limit_that_lasts_too_long(hub):
    hub.fail("auth-check", 429, Retry_After="3600")
    error = refusal("org/public", None)
    assert type(error) is HubUnavailableError and "3601 s" in str(error)


def test_server_error_that_passes(hub):
    hub.fail("auth-check", 502, times=1)
    access.check_model_access("org/public", None)


def test_server_error_that_stays(hub, monkeypatch):
    monkeypatch.setattr(hub_client, "CHECK_SECONDS", 1)
    hub.fail("auth-check", 500)
    error = refusal("org/gated", "hf_alice")
    assert type(error) is HubUnavailableError and "500" in str(error)


def test_other_refusal(hub):
    hub.fail("auth-check", 451, message="Unavailable For Legal Reasons \x1b[31m hf_alice")
    error = refusal("org/gated", "hf_alice")
    assert type(error) is ModelAccessError
    assert "Legal Reasons" in str(error) and "\x1b" not in str(error)


def test_hanging_server(hub, monkeypatch):
    monkeypatch.setattr(hub_client, "CHECK_SECONDS", 1)
    hub.fail("auth-check", 0)
    started = time.monotonic()
    error = refusal("org/gated", "hf_alice")
    assert type(error) is HubUnavailableError and "within 1 s" in str(error)
    assert time.monotonic() - started < 10


def test_closed_port(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    error = refusal("org/gated", "hf_alice")
    assert type(error) is HubUnavailableError
    for part in (url, "org/gated", "HF_ENDPOINT", "HF_HUB_OFFLINE=1"):
        assert part in str(error)


def test_answer_of_a_proxy(hub, monkeypatch):
    hub.fail("auth-check", 407, message="<html>Log in to the proxy</html>")
    assert type(refusal("org/gated", "hf_alice")) is ModelAccessError


def test_local_and_offline_are_not_asked_about(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "llama").mkdir(parents=True)
    for model in (str(tmp_path), "models/llama", "/mnt/models/llama", "s3://bucket/llama", "~/llama"):
        access.check_model_access(model, "hf_wrong")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    access.check_model_access("org/gated", None)
    assert not hub.requests


def test_find_token_order(hub, isolated, monkeypatch):
    assert access.find_token("org/public") == ""
    with pytest.raises(TokenRequiredError):
        access.find_token("org/gated")
    isolated.mkdir(exist_ok=True)
    (isolated / "token").write_text("hf_alice\n")
    assert access.find_token("org/gated") == "hf_alice"
    monkeypatch.setenv("HF_TOKEN", "hf_bob")  # no access: the store's is tried next
    assert access.find_token("org/gated") == "hf_alice"
    (isolated / "token").write_text("hf_wrong")
    with pytest.raises(InvalidTokenError, match="the token in huggingface_hub's store"):
        access.find_token("org/gated")
    (isolated / "token").unlink()
    with pytest.raises(GatedModelError, match="The token in HF_TOKEN is valid, but has no access to org/gated"):
        access.find_token("org/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    asked = len(hub.requests)
    assert access.find_token("org/gated") == "hf_alice"
    assert len(hub.requests) == asked + 2


def test_remember_uses_the_store_only(hub, isolated):
    access.remember_token("hf_alice")
    files = {p.name for p in isolated.parent.rglob("*") if p.is_file() and "hf_alice" in p.read_text()}
    assert files == {"token", "stored_tokens"}
    assert (isolated / "token").stat().st_mode & 0o77 == 0
    with pytest.raises(ModelAccessError) as caught:
        access.remember_token("hf_wrong")
    assert "hf_wrong" not in str(caught.value)


def test_secret_hides_itself():
    secret = Secret("hf_alice")
    assert "hf_alice" not in repr(secret) and "hf_alice" not in repr({"HF_TOKEN": secret})
    assert secret == "hf_alice" and f"{secret}" == "hf_alice" and repr(Secret("")) == "Secret('')"
    assert type(pickle.loads(pickle.dumps(secret))) is Secret
