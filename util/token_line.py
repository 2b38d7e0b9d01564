"""The question for a token in one line: a terminal, VS Code's overlay, or a notebook's own input box."""

from __future__ import annotations

from getpass import getpass

from rayllm_batch.secret import Secret


class TokenLine:
    """One question for a token; the input is not shown."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id

    def __enter__(self) -> TokenLine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def ask(self, why: str) -> Secret:
        """The token a person enters, empty where nobody can."""
        print(why, flush=True)
        try:
            return Secret(getpass(f"Hugging Face token for {self._model_id} (input is hidden): ").strip())
        except (EOFError, NotImplementedError):  # the input was closed; the front end has no input box after all
            return Secret("")

    def wants_remembering(self) -> bool:
        """Whether to store the token, asked once it is known to be right."""
        try:
            answer = input("Remember it on this machine, as `hf auth login` does? [y/N] ")
        except (EOFError, NotImplementedError):
            return False
        return answer.strip().lower() in ("y", "yes")

    def finish(self, outcome: str) -> None:
        print(outcome, flush=True)
