# SPDX-License-Identifier: Apache-2.0
"""Drive nerfstudio's viewer as a person does: a program serves it, a real Chromium shows it, the mouse clicks."""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, List, Optional

import numpy as np
from PIL import Image

CHROMIUM_FLAGS = [
    # Tests run as root in containers, and without a GPU: WebGL is drawn in software.
    *("--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    # No calls to the outside.
    *("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
]
PANEL = 320
"""Width in pixels of the control panel at the right edge."""
SIZE = (900, 640)
"""Of the browser's window."""
STILL = 3
"""Screenshots in a row, 0.4 s apart, that look like the one before when a picture counts as finished."""


class Served:
    """A running nerfstudio program with a viewer."""

    def __init__(self, process: subprocess.Popen, log: Path, port: int) -> None:
        self.process = process
        self.log = log
        self.address = f"http://127.0.0.1:{port}"

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def assert_healthy(self) -> None:
        """The program runs, or has ended well, and reported no exception from any of its threads."""
        assert self.process.poll() in (None, 0), self.output()
        assert "Traceback" not in self.output(), self.output()


@contextmanager
def serve(command: List[str], folder: Path, timeout: float = 90.0) -> Iterator[Served]:
    """Start an ns-* command with a viewer on a free port, wait until it answers, and end it afterwards."""
    port = _free_port()
    beside_python = Path(sys.executable).parent / command[0]
    program = str(beside_python) if beside_python.exists() else shutil.which(command[0])
    assert program, f"{command[0]} is not installed"
    host = ["--viewer.websocket-host", "127.0.0.1", "--viewer.websocket-port", str(port)]
    log = folder / f"{command[0]}.log"
    with log.open("wb") as stream:
        environment = {**os.environ, "COLUMNS": "200"}
        arguments = [program, *command[1:], *host]
        process = subprocess.Popen(arguments, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    served = Served(process, log, port)
    try:
        wait_until(lambda: _answers(port), timeout, "the viewer to answer", served)
        yield served
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class ViewerPage:
    """nerfstudio's viewer in a browser."""

    def __init__(self, page, served: Served) -> None:
        self.page = page
        self.served = served
        self.errors: List[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(served.address, wait_until="domcontentloaded")
        page.get_by_text("Connected", exact=True).wait_for(timeout=60_000)

    def picture(self) -> np.ndarray:
        """[H, W, 3] float in [0, 1]: what the canvas shows, without the control panel, title and axes."""
        shot = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        width, height = shot.size
        return np.asarray(shot.crop((0, 60, width - PANEL, height - 60)), dtype=np.float32) / 255

    def settled(self, accept: Callable[[np.ndarray], bool], what: str, timeout: float = 120.0) -> np.ndarray:
        """The first picture that ``accept`` takes and that no longer changes: the viewer refines what it draws, and
        on a busy machine what it drew first stands for a while."""
        before: Optional[np.ndarray] = None
        still = 0
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            self.served.assert_healthy()
            current = self.picture()
            same = before is not None and float(np.abs(current - before).mean()) < 2e-3
            still = still + 1 if same and accept(current) else 0
            if still == STILL:
                return current
            before = current
            time.sleep(0.4)
        raise AssertionError(f"waited {timeout:.0f} s for {what}\n{self.served.output()}")

    def choose(self, dropdown: str, option: str) -> None:
        """Pick an option of a dropdown of the control panel."""
        self.page.get_by_label(dropdown, exact=True).first.click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def write(self, field: str, text: str) -> None:
        """Fill a text field of the control panel."""
        label = self.page.locator("label", has_text=field).first
        label.locator("xpath=ancestor::div[.//input][1]//input").fill(text)

    def options(self, dropdown: str) -> List[str]:
        """What a dropdown of the control panel offers."""
        self.page.get_by_label(dropdown, exact=True).first.click()
        names = self.page.get_by_role("option").all_inner_texts()
        self.page.keyboard.press("Escape")
        return [name.strip() for name in names]

    def slide(self, slider: str, key: str) -> None:
        """Move a slider of the control panel by a key: Home for the least value, End for the largest."""
        control = self.page.get_by_text(slider, exact=True).first.evaluate_handle("label => label.htmlFor")
        self.page.locator(f"[id='{control.json_value()}'] [role=slider]").press(key)

    def ends(self, slider: str) -> List[str]:
        """What is written at both ends of a slider of the control panel."""
        control = self.page.get_by_text(slider, exact=True).first.evaluate_handle("label => label.htmlFor")
        return self.page.locator(f"[id='{control.json_value()}'] [class*=markLabel]").all_inner_texts()

    def read(self, start: str) -> str:
        """A text of the control panel that begins with these words, all of which can be seen."""
        found = self.page.locator("p", has_text=start).first
        cut = found.evaluate("each => each.scrollWidth > each.clientWidth || each.scrollHeight > each.clientHeight + 1")
        assert not cut, f"some of this is out of sight: {found.inner_text()}"
        return " ".join(found.inner_text().split())

    def drag(self, dx: int, dy: int) -> None:
        """Turn the view: drag from the middle of the canvas."""
        x, y = (SIZE[0] - PANEL) // 2, SIZE[1] // 2
        mouse = self.page.mouse
        mouse.move(x, y)
        mouse.down()
        mouse.move(x + dx, y + dy, steps=8)
        mouse.up()


@contextmanager
def open_viewer(chromium: str, served: Served) -> Iterator[ViewerPage]:
    """Open the program's page in headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM_FLAGS)
        try:
            page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
            page.set_default_timeout(30_000)
            yield ViewerPage(page, served)
        finally:
            browser.close()


def wait_until(condition: Callable[[], bool], timeout: float, what: str, served: Served) -> None:
    """Poll a condition; fail early, with the program's output, when the program has ended."""
    until = time.monotonic() + timeout
    while not condition():
        assert served.process.poll() is None, f"ended while waiting for {what}\n{served.output()}"
        assert time.monotonic() < until, f"waited {timeout:.0f} s for {what}\n{served.output()}"
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False
