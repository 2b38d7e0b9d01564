"""The panel that asks for a token in JupyterLab, and waits for the answer in the running cell."""

from __future__ import annotations

import html
import re

import ipywidgets as widgets
import traitlets
from IPython.display import display

from rayllm_batch.display import ipython_shell
from rayllm_batch.secret import Secret
from util.kernel_messages import WidgetMessages

SETTLE_SECONDS = 0.25  # the field's last change may arrive after the click or the Enter key that submits it


class TokenField(widgets.Password):
    """A password field whose content is not echoed to every other client of the kernel."""

    value = traitlets.Unicode("").tag(sync=True, echo_update=False)


class TokenPanel:
    """One question for a token, from `with` to its end. Other cells wait meanwhile, as for any cell that runs."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._submitted = False
        self._text = widgets.HTML()
        self._field = TokenField(placeholder="hf_…", continuous_update=False, layout={"width": "320px"})
        self._button = widgets.Button(description="Use this token", button_style="primary")
        self._remember = widgets.Checkbox(
            value=False, indent=False, description="Remember it on this machine, as “hf auth login” does"
        )
        self._remember.layout.width = "auto"  # by default too narrow for its text
        row = widgets.HBox([self._field, self._button])
        self._box = widgets.VBox([self._text, row, self._remember], layout={"padding": "4px 0", "max_width": "800px"})
        self._all = [self._text, self._field, self._button, self._remember, row, self._box]
        self._button.on_click(lambda _: self._submit())
        self._field.on_msg(lambda _, content, buffers: content.get("event") == "submit" and self._submit())
        self._messages = WidgetMessages(ipython_shell().kernel, {widget.model_id for widget in self._all})
        self._outcome = "Cancelled. Run the cell again to be asked again."

    def __enter__(self) -> TokenPanel:
        self._messages.__enter__()
        plain = (
            f"A panel asks for a Hugging Face token for {self._model_id}. This front end shows no widgets: interrupt "
        )
        plain += "the cell, set the environment variable HF_TOKEN, and restart the kernel."
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        bundle = {"text/plain": plain, "application/vnd.jupyter.widget-view+json": view}
        self._handle = display(bundle, raw=True, display_id=True)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._messages.__exit__()
        self._field.value = ""
        # A line in place of the widgets: it stays readable in the saved notebook, and no widget state is left to save.
        self._handle.update({"text/plain": self._outcome, "text/html": f"<p>{_links(self._outcome)}</p>"}, raw=True)
        for widget in self._all:
            for part in (getattr(widget, "style", None), widget.layout, widget):
                if part is not None:
                    part.close()

    def ask(self, why: str) -> Secret:
        """The token a person enters. Blocks; an interrupt raises KeyboardInterrupt."""
        self._say(why)
        self._enable(True)
        if self._submitted:  # not the first question: a second try needs no click into the field
            self._field.focus()
        while True:
            self._submitted = False
            while not self._submitted:
                self._messages.handle(0.5)
            while self._messages.handle(SETTLE_SECONDS):
                pass
            token = Secret(self._field.value.strip())
            self._field.value = ""
            if token:
                break
        self._enable(False)
        self._say("Asking the Hub whether this token opens the model …")
        return token

    def wants_remembering(self) -> bool:
        """Whether the box is ticked."""
        return self._remember.value

    def finish(self, outcome: str) -> None:
        """What stands in the panel's place afterwards."""
        self._outcome = outcome

    def _submit(self) -> None:
        self._submitted = True

    def _enable(self, enabled: bool) -> None:
        for widget in (self._field, self._button, self._remember):
            widget.disabled = not enabled

    def _say(self, text: str) -> None:
        title = "<b>Hugging Face token</b>"
        self._text.value = f'<div style="line-height: 1.5">{title}<br>{_links(text)}</div>'


def _links(text: str) -> str:
    """Text as HTML: escaped, as part of it comes from a server, its addresses made links."""
    link = r'<a href="\1" target="_blank" rel="noopener noreferrer" style="text-decoration: underline">\1</a>'
    return re.sub(r"(https?://[^\s,;<>]*[^\s,;:.<>'\"&()])", link, html.escape(text)).replace("\n", "<br>")
