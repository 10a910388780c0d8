# SPDX-License-Identifier: Apache-2.0
"""The viewer draws in threads of its own, which nerfstudio ends at the first error and interrupts at any line."""

import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import Iterator

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.utils.rich_utils import CONSOLE

from nts_plugins.data.cameras import is_pinhole


def in_viewer() -> bool:
    """Whether the viewer asks, which draws in a thread of its own; training and the other commands use the main one."""
    return threading.current_thread() is not threading.main_thread()


def in_motion() -> bool:
    """Whether the viewer asks for a quick picture while somebody moves the view; a better one follows when it rests."""
    # Both viewers of nerfstudio keep that in their drawing thread.
    return in_viewer() and getattr(threading.current_thread(), "state", "high") in ("low_move", "low_static")


def drawable(camera: Cameras) -> Cameras:
    """The camera; in the viewer, where an error would end the drawing thread for good, a pinhole one in any case."""
    if is_pinhole(camera) or not in_viewer():
        return camera
    CONSOLE.print("[yellow]Splats are drawn through pinhole cameras only: the preview is a perspective one.")
    return replace(camera, camera_type=torch.full_like(camera.camera_type, CameraType.PERSPECTIVE.value))


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Nothing within this context is broken off by the viewer, which hears afterwards that the view has changed.

    nerfstudio draws under a trace function that raises at whatever line of Python the thread is when somebody moves the
    view. In the middle of an import that leaves modules that never work again: numba, which the first drawing imports,
    lacked a part of itself, and the viewer stood still. Between taking a lock and the line that gives it back it is no
    better. A drawing takes a fraction of a second, for which the viewer can wait; and so it must for the first one,
    which takes longer.
    """
    trace = sys.gettrace()
    if getattr(trace, "__name__", "") != "check_interrupt":  # what both viewers of nerfstudio call theirs
        yield  # Nobody traces, or a debugger does.
        return
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)
