"""One widget in a real browser: JupyterLab runs a notebook in headless Chromium, a click on a handle, and the picture changes."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

BROWSER = os.environ.get("BROWSER_BIN") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NOTEBOOK = """
import torch
from e4t_minimal.inspection.trace import Trace
from e4t_minimal.inspection.widgets import Explorer

kept = Trace()
for step in range(4):
    kept.keep("latent", torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(step)), step, None)
Explorer(kept)
"""
PICTURE = "document.querySelector('.jp-OutputArea img.widget-image')?.naturalWidth ? document.querySelector('.jp-OutputArea img.widget-image').src : ''"
SLIDER = "JSON.stringify(document.querySelector('.jp-OutputArea .widget-slider .noUi-target, .jp-OutputArea .widget-slider .slider')?.getBoundingClientRect() ?? null)"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(look, seconds: float, what: str):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := look():
                return found
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{what} did not come within {seconds} seconds")


class Page:
    """A tab, through the browser's own debugging protocol."""

    def __init__(self, url: str):
        import websocket

        self.socket, self.count = (
            websocket.create_connection(url, timeout=60, suppress_origin=True),
            0,
        )

    def do(self, method: str, **params):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.count:
            pass
        return answer["result"]

    def value(self, script: str):
        return self.do("Runtime.evaluate", expression=script)["result"].get("value")

    def click(self, x: float, y: float):
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


@pytest.fixture
def page(tmp_path):
    if BROWSER is None:
        pytest.skip("no browser found: install chromium, or name one in the variable BROWSER_BIN")
    pytest.importorskip("jupyterlab")
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(NOTEBOOK.strip())],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )
    nbformat.write(book, tmp_path / "look.ipynb")
    lab, debug = free_port(), free_port()
    path = os.pathsep.join(
        filter(None, (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")))
    )
    here = os.environ | {"PYTHONPATH": path, "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    quiet, running = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}, []
    try:
        running.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "jupyterlab",
                    "--no-browser",
                    "--allow-root",
                    "--ip=127.0.0.1",
                    f"--port={lab}",
                    "--IdentityProvider.token=",
                ],
                cwd=tmp_path,
                env=here,
                **quiet,
            )
        )
        wait(
            lambda: (
                urllib.request.urlopen(f"http://127.0.0.1:{lab}/api/status", timeout=5).status
                == 200
            ),
            120,
            "JupyterLab",
        )
        running.append(
            subprocess.Popen(
                [
                    BROWSER,
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                    "--window-size=1400,1000",
                    f"--remote-debugging-port={debug}",
                    f"--user-data-dir={tmp_path / 'profile'}",
                    f"http://127.0.0.1:{lab}/lab/tree/look.ipynb",
                ],
                **quiet,
            )
        )
        tabs = wait(
            lambda: [
                tab
                for tab in json.load(
                    urllib.request.urlopen(f"http://127.0.0.1:{debug}/json", timeout=5)
                )
                if tab["type"] == "page"
            ],
            60,
            "the browser",
        )
        page = Page(tabs[0]["webSocketDebuggerUrl"])
        yield page
        (tmp_path / "page.png").write_bytes(
            base64.b64decode(page.do("Page.captureScreenshot")["data"])
        )  # what was there at the end, to look at
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def test_a_click_changes_the_picture(page):
    wait(
        lambda: page.value("!!document.querySelector('.jp-Notebook .jp-CodeCell .cm-content')"),
        120,
        "the notebook",
    )
    wait(lambda: page.value("document.body.innerText.includes('| Idle')"), 120, "its kernel")
    x, y = json.loads(
        page.value(
            "(() => {const r = document.querySelector('.jp-Notebook .jp-CodeCell .cm-content').getBoundingClientRect(); "
            "return JSON.stringify([r.x + 20, r.y + 8])})()"
        )
    )
    page.click(x, y)
    for kind in ("keyDown", "keyUp"):  # shift + enter
        page.do(
            "Input.dispatchKeyEvent",
            type=kind,
            modifiers=8,
            key="Enter",
            code="Enter",
            windowsVirtualKeyCode=13,
        )
    before = wait(lambda: page.value(PICTURE), 90, "the explorer's picture")
    box = json.loads(wait(lambda: page.value(SLIDER), 10, "the slider"))
    page.click(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    wait(lambda: page.value(PICTURE) not in ("", before), 60, "another picture")
    assert page.value("document.querySelector('.jp-OutputArea .widget-readout').textContent") == "3"
