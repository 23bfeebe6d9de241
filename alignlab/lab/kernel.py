"""The Jupyter kernel while a cell runs: how a front end's messages get in between two steps."""

import asyncio
import importlib.metadata
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager


def kernel():
    """The Jupyter kernel that this code runs in, or None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None)


@asynccontextmanager
async def messages() -> AsyncIterator[Callable[[], Awaitable]]:
    """Gives a function that lets the front end's messages in; which way works depends on the kernel's version."""
    if kernel() is None:
        yield lambda: asyncio.sleep(0)
    elif tuple(int(part) for part in importlib.metadata.version("ipykernel").split(".")[:2]) >= (7, 4):
        with _acknowledged(kernel()):
            yield _yield_to_kernel
    else:
        from jupyter_ui_poll import ui_events

        async with ui_events() as poll:
            yield lambda: poll(50)


@contextmanager
def _acknowledged(running) -> Iterator[None]:
    """Have every widget's message answered by the status "idle", which ipykernel 7.4 leaves out while a cell runs.

    A slider sends its next value only after that answer, so that without it each control would act once a run.
    """
    handle, cell = running.shell_handlers["comm_msg"], running.get_parent("shell")

    def handle_and_answer(stream, ident, message):
        try:
            return handle(stream, ident, message)
        finally:
            for state, parent in (("idle", message), ("busy", cell)):  # and busy again, for the cell is
                running.session.send(running.iopub_socket, "status", {"execution_state": state}, parent=parent)

    running.shell_handlers["comm_msg"] = handle_and_answer
    try:
        yield
    finally:
        running.shell_handlers["comm_msg"] = handle


async def _yield_to_kernel() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)
