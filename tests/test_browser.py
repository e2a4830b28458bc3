"""One widget in a real browser: a click on a handle in JupyterLab, and the picture changes."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = """
import torch
from e4t_minimal.inspection.trace import Trace
from e4t_minimal.inspection.widgets import Explorer

kept = Trace()
for step in range(4):
    generator = torch.Generator().manual_seed(step)
    kept.keep("latent", torch.randn(1, 3, 8, 8, generator=generator), step, None)
Explorer(kept)
"""
EDITOR = "document.querySelector('.jp-Notebook .jp-CodeCell .cm-content')"
PICTURE = "document.querySelector('.jp-OutputArea img.widget-image')"
LOADED = f"{PICTURE}?.naturalWidth ? {PICTURE}.src : ''"
SLIDER = (
    "document.querySelector('.jp-OutputArea .widget-slider .noUi-target, "
    ".jp-OutputArea .widget-slider .slider')"
)
READOUT = "document.querySelector('.jp-OutputArea .widget-readout').textContent"


def find_browser():
    """A Chromium's path, or None."""
    if path := os.environ.get("BROWSER_BIN"):
        return path
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, found), None)


BROWSER = find_browser()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what: str, ask, seconds: float):
    """What ask() returns as soon as that is true; nothing answers at first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := ask():
                return found
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{what} did not come within {seconds} seconds")


@contextmanager
def running(command: list[str], **options):
    """A program, until the block ends."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet, **options)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


class Page:
    """A tab, through the browser's own debugging protocol."""

    def __init__(self, url: str):
        import websocket

        self.socket = websocket.create_connection(url, timeout=60, suppress_origin=True)
        self.count = 0

    def do(self, method: str, **params):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.count:  # not one of the events between
                return answer["result"]

    def value(self, script: str):
        return self.do("Runtime.evaluate", expression=script)["result"].get("value")

    def box(self, element: str) -> dict | None:
        """Where an element is: x, y, width, height; None if it is not there."""
        return json.loads(self.value(f"JSON.stringify({element}?.getBoundingClientRect() ?? null)"))

    def click(self, x: float, y: float):
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press_shift_enter(self):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, modifiers=8, **key)


def write_notebook(path: Path):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(NOTEBOOK.strip())]
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, path)


def start_lab(folder: Path, port: int):
    """JupyterLab in a folder, with this package and a configuration of its own."""
    here = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, here)),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
    }
    options = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--IdentityProvider.token=",
    ]
    command = [sys.executable, "-m", "jupyterlab", *options]
    return running(command, cwd=folder, env=environment)


def start_browser(folder: Path, port: int, address: str):
    """A headless browser at an address, to be steered through a port."""
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1400,1000",
        f"--remote-debugging-port={port}",
        f"--user-data-dir={folder / 'profile'}",
    ]
    return running([BROWSER, *options, address])


def answers(address: str) -> bool:
    return urllib.request.urlopen(address, timeout=5).status == 200


def pages(address: str) -> list[dict]:
    tabs = json.load(urllib.request.urlopen(address, timeout=5))
    return [tab for tab in tabs if tab["type"] == "page"]


@pytest.fixture
def page(tmp_path):
    if BROWSER is None:
        pytest.skip("no browser found: install chromium, or name one in the variable BROWSER_BIN")
    pytest.importorskip("jupyterlab")
    write_notebook(tmp_path / "explore.ipynb")
    lab, debugger = free_port(), free_port()
    at_lab, at_debugger = f"http://127.0.0.1:{lab}", f"http://127.0.0.1:{debugger}"
    with ExitStack() as stack:
        stack.enter_context(start_lab(tmp_path, lab))
        wait_for("JupyterLab", lambda: answers(f"{at_lab}/api/status"), 120)
        address = f"{at_lab}/lab/tree/explore.ipynb"
        stack.enter_context(start_browser(tmp_path, debugger, address))
        tabs = wait_for("the browser", lambda: pages(f"{at_debugger}/json"), 60)
        page = Page(tabs[0]["webSocketDebuggerUrl"])
        yield page
        # what was there at the end, to look at
        screenshot = page.do("Page.captureScreenshot")["data"]
        (tmp_path / "page.png").write_bytes(base64.b64decode(screenshot))


def test_a_click_changes_the_picture(page):
    wait_for("the notebook", lambda: page.box(EDITOR), 120)
    idle = "document.body.innerText.includes('| Idle')"
    wait_for("its kernel", lambda: page.value(idle), 120)
    cell = page.box(EDITOR)
    page.click(cell["x"] + 20, cell["y"] + 8)
    page.press_shift_enter()
    at_first = wait_for("the explorer's picture", lambda: page.value(LOADED), 90)
    slider = wait_for("the slider", lambda: page.box(SLIDER), 10)
    page.click(slider["x"] + 0.9 * slider["width"], slider["y"] + slider["height"] / 2)
    wait_for("another picture", lambda: page.value(LOADED) not in ("", at_first), 60)
    assert page.value(READOUT) == "3"
