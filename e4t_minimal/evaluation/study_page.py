"""A user study as one page in a notebook."""

import html
import io

import ipywidgets as widgets

from .study import Study

LABELS = {"left": "the left one", "right": "the right one", "neither": "cannot say"}


class StudyPage(widgets.VBox):
    """The question at hand, its pictures, and a button for each answer."""

    def __init__(self, study: Study):
        self.study = study
        self.question = widgets.HTML()
        self.pictures = widgets.Image(format="png")
        self.buttons = [self._button(choice, label) for choice, label in LABELS.items()]
        self._show()
        super().__init__([self.question, self.pictures, widgets.HBox(self.buttons)])

    def _button(self, choice: str, label: str) -> widgets.Button:
        button = widgets.Button(description=label)

        def vote(_):
            try:
                self.study.vote(choice)
            except (OSError, ValueError) as error:
                self.question.value = f"<b>Not kept:</b> {html.escape(str(error))} Try once more."
            else:
                self._show()

        button.on_click(vote)
        return button

    def _show(self):
        """The first question that remains, or that there is none."""
        remaining = self.study.remaining
        for button in self.buttons:
            button.disabled = not remaining
        if not remaining:
            self.question.value = "Thank you, that was all."
            self.pictures.value = b""
            return
        prompt = remaining[0].trial.prompt
        self.question.value = (
            f"<b>Which one is this person?</b> Asked for: “{prompt}”. {len(remaining)} to go."
        )
        data = io.BytesIO()
        remaining[0].sheet().save(data, "PNG")
        self.pictures.value = data.getvalue()
