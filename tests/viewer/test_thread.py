# SPDX-License-Identifier: Apache-2.0
"""The viewer's drawing thread, in which nerfstudio raises wherever a drawing is when somebody moves the view."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List

import pytest
import torch
from nerfstudio.viewer import render_state_machine
from nerfstudio.viewer_legacy.server import render_state_machine as legacy_render_state_machine
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException, SetTrace
from torch import Tensor

from nts_plugins.viewer.thread import interrupts_held
from tests.models.scenes import camera, make_model


@pytest.mark.parametrize("viewer", [render_state_machine, legacy_render_state_machine], ids=["viewer", "legacy"])
def test_a_drawing_is_whole_before_it_is_interrupted(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model().eval()
    expected = model.get_outputs_for_camera(camera())["rgb"]
    machine = object.__new__(viewer.RenderStateMachine)  # without a viewer; what it asks is whether to interrupt
    machine.interrupt_render_flag = False
    draw, drawn = model.get_outputs, []

    def drawing(of: Any) -> Dict[str, Tensor]:
        machine.interrupt_render_flag = True
        drawn.append(draw(of)["rgb"])
        return {}

    def view() -> None:
        with SetTrace(machine.check_interrupt):
            model.get_outputs_for_camera(camera())

    monkeypatch.setattr(model, "get_outputs", drawing)
    with ThreadPoolExecutor(1) as thread, pytest.raises(IOChangeException):
        thread.submit(view).result()
    assert len(drawn) == 1 and torch.equal(drawn[0], expected)


def test_a_debugger_stays() -> None:
    seen: List[Any] = []

    def look(frame: Any, event: str, argument: Any) -> Any:
        return look

    def traced() -> None:
        with SetTrace(look), interrupts_held():
            seen.append(sys.gettrace())

    with ThreadPoolExecutor(1) as thread:
        thread.submit(traced).result()
    assert seen == [look]
