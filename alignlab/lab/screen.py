"""What a labelling desk shows: the pair, buttons, a field for keys, progress."""

import ipywidgets

from alignlab.errors import UserError
from alignlab.lab.page import box, render
from alignlab.talks import Text

KEYS = (
    "Keys work only in the field Key: click it, or reach it with Tab; then a (A is better), b (B is better), t (tie), s (skip), u (undo)."
)


def words(prompt: Text) -> str:
    """A prompt as text; of a conversation each message with its role."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


class Screen:
    """The widgets of a desk. They press its methods and show its state; they know nothing more.

    Keys are typed into a text field that is emptied after each. Keys pressed on a button would be JupyterLab's own (b adds a cell),
    so each button answers to Space and Enter alone.
    """

    def __init__(self, desk):
        self.desk = desk
        self.pair, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        self.bar = ipywidgets.IntProgress(description="Progress")
        self.field = ipywidgets.Text(description="Key", placeholder="a b t s u", continuous_update=True)
        acts = [
            ("A", "a", "Answer A is better", lambda: desk.choose("a")), ("B", "b", "Answer B is better", lambda: desk.choose("b")),
            ("Tie", "t", "Both are equally good", desk.tie), ("Skip", "s", "No answer to this pair", desk.skip),
            ("Undo", "u", "Take the last label back", desk.undo),
        ]  # fmt: skip
        self.acts = {key: act for _, key, _, act in acts}
        self.buttons = {key: ipywidgets.Button(description=name, tooltip=f"{words} (key {key})") for name, key, words, _ in acts}
        for key, button in self.buttons.items():
            button.on_click(lambda _, key=key: self.press(key))
        self.field.observe(self._typed, names="value")
        words = ipywidgets.HTML(render("desk_task", task=desk.task, keys=KEYS))
        row = box([*self.buttons.values(), self.field], "keys")
        self.box = box([words, self.pair, row, self.bar, self.status], "panel")
        self.refresh()

    def press(self, key: str) -> None:
        """What a button or a key does; other keys, and keys that cannot act now, do nothing."""
        if key in self.buttons and not self.buttons[key].disabled:
            try:
                self.acts[key]()
            except UserError as error:  # raised here it would vanish into the server's log
                self._say(str(error))

    def _typed(self, change) -> None:
        if change["new"]:
            self.field.value = ""
            self.press(change["new"][-1].lower())  # where two keys came in one message, the first has been here already

    def refresh(self) -> None:
        """Show the desk as it is now."""
        question = self.desk.current
        if question is None:
            self.pair.value = render("desk_done")
        else:
            self.pair.value = render("desk_pair", prompt=words(question.prompt), answers={"A": question.a, "B": question.b})
        for key, button in self.buttons.items():
            button.disabled = not self.desk.labels if key == "u" else question is None
        given, total = self.desk.progress
        self.bar.max = total
        self.bar.value = given
        self._say(self.desk.state)

    def _say(self, words: str) -> None:
        self.status.value = render("desk_status", words=words)
