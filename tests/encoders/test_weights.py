# SPDX-License-Identifier: Apache-2.0
"""Where weights of the hub are looked for, and that a machine without internet has its answer at once."""

import logging
import time
from pathlib import Path
from typing import Any, Dict, List
from urllib.error import URLError

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import EntryNotFoundError

from nts_plugins.encoders import weights
from nts_plugins.errors import InputError

REPOSITORY, FILES = "somebody/a-model", ("best.safetensors", "usual.bin")


class Hub:
    """In the place of the hub: which files it has, or what it raises; what it was asked."""

    def __init__(self, files: Any = (), error: Any = None) -> None:
        self.files, self.error = files, error
        self.asked: List[str] = []
        self.fetched: List[str] = []
        self.levels: List[int] = []

    def metadata(self, url: str, **_: Any) -> None:
        name = url.rpartition("/")[2]
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        if name not in self.files:
            raise EntryNotFoundError(f"404 {name}")

    def download(self, repository: str, name: str) -> str:
        self.fetched.append(f"{repository}/{name}")
        self.levels.append(logging.getLogger("huggingface_hub").getEffectiveLevel())
        return f"/cache/{name}"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dict[str, Path]:
    """Empty folders of torch and of the hub."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return {"own": tmp_path / "torch" / "checkpoints" / "somebody--a-model", "hub": tmp_path / "hub"}


def use(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Hub:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", hub.metadata)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.download)
    return hub


def fetch() -> Path:
    return weights.fetched_from_hub(REPOSITORY, FILES, "a model", "--mine")


def failure() -> str:
    with pytest.raises(InputError) as caught:
        fetch()
    said = str(caught.value)
    assert ".." not in said and "\n" not in said
    return said


@pytest.mark.parametrize("name", FILES)
def test_a_file_where_the_message_says_is_found(
    places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hub = use(monkeypatch, Hub(error=OSError("no way out")))
    said = failure()
    assert f"Put usual.bin or best.safetensors from https://huggingface.co/{REPOSITORY} into {places['own']}," in said
    hub.asked.clear()
    places["own"].mkdir(parents=True)
    (places["own"] / name).write_text("weights")
    assert fetch() == places["own"] / name and not hub.asked


@pytest.mark.parametrize("name", FILES)
def test_what_the_hub_keeps_is_found_without_asking_it(
    places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hub, kept = use(monkeypatch, Hub(FILES)), places["hub"] / "models--somebody--a-model"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0123")
    (kept / "snapshots" / "0123").mkdir(parents=True)
    (kept / "snapshots" / "0123" / name).write_text("weights")
    assert fetch() == kept / "snapshots" / "0123" / name
    assert not hub.asked and not hub.fetched


@pytest.mark.parametrize("has, wanted", [(FILES, FILES[0]), (FILES[1:], FILES[1])])
def test_the_first_file_that_the_hub_has_is_fetched(
    places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch, has: Any, wanted: str
) -> None:
    hub, logger = use(monkeypatch, Hub(has)), logging.getLogger("huggingface_hub")
    monkeypatch.setattr(logger, "level", logging.INFO)
    assert fetch() == Path("/cache") / wanted
    assert hub.fetched == [f"{REPOSITORY}/{wanted}"]
    assert hub.levels == [logging.ERROR] and logger.level == logging.INFO


def test_a_repository_without_such_a_file_is_explained(
    places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = use(monkeypatch, Hub())
    assert f"failed: {REPOSITORY} has no best.safetensors and no usual.bin. Put usual.bin" in failure()
    assert hub.asked == list(FILES)


def test_a_hub_that_cannot_be_reached_is_asked_once(places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    hub = use(monkeypatch, Hub(error=OSError("Name or service not known.\nAnd more.")))
    said = failure()
    assert said.startswith(
        "The weights of a model are not on this machine. Fetching them failed: https://huggingface.co cannot be "
        "reached (Name or service not known). Put "
    )
    assert said.endswith(", or say where it is with --mine.")
    assert hub.asked == [FILES[0]] and not hub.fetched


def test_what_the_hub_answers_is_told_from_its_silence(
    places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError("401 Client Error. (Request ID: 12)")
    error.response = type("Response", (), {"status_code": 401})()  # type: ignore[attr-defined]
    use(monkeypatch, Hub(error=error))
    assert "failed: https://huggingface.co answers with the error 401. Put" in failure()


def test_a_hub_that_does_not_answer_is_not_waited_for(places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Hub())
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: time.sleep(5))
    monkeypatch.setattr(weights, "PATIENCE", 0.2)
    start = time.monotonic()
    assert "cannot be reached (no answer within 0.2 seconds). Put" in failure()
    assert time.monotonic() - start < 3


def test_offline_means_offline(places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    hub = use(monkeypatch, Hub(FILES))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "failed: the hub is not asked, because HF_HUB_OFFLINE is set. Put" in failure()
    assert not hub.asked and not hub.fetched


def test_the_hubs_own_program_gives_up_at_once_and_says_nothing(
    places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """It would try for 23 seconds for each file, and print a dozen lines."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda _, name: f"http://127.0.0.1:9/{name}")
    start = time.monotonic()
    assert "cannot be reached (" in failure()
    assert time.monotonic() - start < 5
    assert capfd.readouterr() == ("", "")


def test_other_servers_that_cannot_be_reached_are_named(
    places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, _: str) -> None:
        raise URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError) as caught:
        weights.fetched("https://somewhere.org/all/w.pt", "a model", "--mine")
    assert str(caught.value) == (
        "The weights of a model are not on this machine. Fetching them failed: somewhere.org cannot be reached "
        f"([Errno -2] Name or service not known). Put w.pt from https://somewhere.org/all into {places['own'].parent}, "
        "or say where it is with --mine."
    )


def test_a_full_disk_is_no_matter_of_the_hub(places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Hub(FILES))

    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    assert "failed: [Errno 28] No space left on device. Put" in failure()


# ---- what a library loads


class Library:
    """In the place of a class that has ``from_pretrained``: how it was asked, and what it raises where it may not ask
    the hub."""

    def __init__(self, lacks: Any = None) -> None:
        self.lacks = lacks
        self.asked: List[Dict[str, Any]] = []

    def load(self, repository: str, **more: Any) -> str:
        self.asked.append(more)
        if self.lacks is not None and more.get("local_files_only"):
            raise self.lacks
        return f"model of {repository}"


def load(library: Library) -> str:
    return weights.loaded(library.load, None, REPOSITORY, FILES[0], part="a part")


def test_what_is_kept_is_loaded_without_asking_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, library = use(monkeypatch, Hub(error=OSError("no way out"))), Library()
    monkeypatch.setattr(weights, "in_hub_cache", lambda repository, name: Path(repository) / name)
    assert load(library) == f"model of {REPOSITORY}"
    assert library.asked == [{"local_files_only": True, "part": "a part"}] and not hub.asked


def test_a_path_that_somebody_named_is_loaded_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, library = use(monkeypatch, Hub(FILES)), Library()
    path = Path("/of/somebody")
    assert weights.loaded(library.load, path, REPOSITORY, FILES[0], part="a part") == "model of /of/somebody"
    assert library.asked == [{"part": "a part"}] and not hub.asked


@pytest.mark.parametrize("lacks", [OSError("a part is missing"), KeyError("part")])
def test_what_is_kept_in_part_is_completed_from_the_hub(monkeypatch: pytest.MonkeyPatch, lacks: Any) -> None:
    hub, library = use(monkeypatch, Hub(FILES)), Library(lacks)
    monkeypatch.setattr(weights, "in_hub_cache", lambda repository, name: Path(repository) / name)
    assert load(library) == f"model of {REPOSITORY}"
    assert library.asked == [{"local_files_only": True, "part": "a part"}, {"part": "a part"}]
    assert hub.asked == [FILES[0]]


def test_a_library_is_not_let_try_where_the_hub_has_nothing(
    places: Dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library()
    use(monkeypatch, Hub(error=OSError("no way out.")))
    with pytest.raises(ConnectionError, match=r"https://huggingface.co cannot be reached \(no way out\)"):
        load(library)
    use(monkeypatch, Hub(FILES[1:]))
    with pytest.raises(FileNotFoundError, match=f"{REPOSITORY} has no {FILES[0]}"):
        load(library)
    assert not library.asked
    use(monkeypatch, Hub(FILES))
    assert load(library) == f"model of {REPOSITORY}" and library.asked == [{"part": "a part"}]
