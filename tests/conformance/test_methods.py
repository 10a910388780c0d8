# SPDX-License-Identifier: Apache-2.0
"""The promises of every registered method, checked alike."""

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nts_plugins.cli.main import main
from nts_plugins.errors import InputError
from nts_plugins.files import load
from nts_plugins.rasterization import rasterize
from tests import runs
from tests.captures import load_meta, save_meta, write_capture, write_regions
from tests.conformance.conftest import STEPS, WARM_START, Trained, busy_options, first_of_its_kind, registered_methods


def test_the_methods_of_this_package_are_registered() -> None:
    expected = {"splat", "splat-paper", "splat-dynamic", "splatfacto-nts", "splatfacto-nts-dynamic"}
    assert expected <= set(registered_methods())


def test_config_builds_and_bears_its_name(method: str) -> None:
    import yaml
    from nerfstudio.configs.method_configs import all_descriptions, all_methods

    config = all_methods[method]
    assert config.method_name == method and len(all_descriptions[method]) > 20
    parsed = runs.parse(method)
    assert parsed.method_name == method
    again = yaml.load(yaml.dump(copy.deepcopy(parsed)), Loader=yaml.Loader)
    assert type(again.pipeline.model) is type(parsed.pipeline.model) and again.optimizers == parsed.optimizers


def test_help_is_printed(method: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        runs.parse(method, "--help")
    assert caught.value.code in (0, None)
    text = capsys.readouterr().out
    assert "--pipeline.model" in text and "nerfstudio-data" in text


def test_loss_falls(trained: Trained) -> None:
    assert len(trained.losses) == STEPS and all(map(math.isfinite, trained.losses))
    # Compared at full resolution, before the opacity reset of the busy settings. Splats of pixels begin with colours of
    # the pixels, and where no network has to learn them there is little to gain.
    good = getattr(trained.trainer.pipeline.model.config, "mode", None) == "free"
    assert np.mean(trained.losses[88:100]) < (0.95 if good else 0.8) * np.mean(trained.losses[10:22])


def test_densification_keeps_everything_in_step(trained: Trained) -> None:
    model, optimizers = trained.trainer.pipeline.model, trained.trainer.optimizers.optimizers
    assert (model.num_points != trained.initial_count) is not hasattr(model, "readout")
    for name, value in model.gauss_params.items():
        assert len(value) == model.num_points, name
        if not value.requires_grad:
            continue
        assert name in optimizers, f"{name} has no optimizer"
        (held,) = optimizers[name].param_groups[0]["params"]
        assert held is value
        for moment in optimizers[name].state.get(value, {}).values():
            assert moment.ndim == 0 or moment.shape == value.shape


def render(pipeline: Any) -> List[Dict[str, torch.Tensor]]:
    pipeline.eval()
    pairs = pipeline.datamanager.fixed_indices_eval_dataloader
    return [pipeline.model.get_outputs_for_camera(camera) for camera, _ in pairs]


def test_what_was_saved_renders_the_same(trained: Trained) -> None:
    before = render(trained.trainer.pipeline)
    after = render(runs.load(trained.folder))
    for first, second in zip(before, after, strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, atol=1e-5, rtol=0, msg=lambda text, name=name: name + text)


def test_checkpoint_holds_plain_data(trained: Trained) -> None:
    state = torch.load(runs.checkpoint(trained.folder), weights_only=True)
    assert state["step"] == STEPS - 1
    assert (trained.folder / "config.yml").is_file()
    assert [path for path in trained.folder.iterdir() if path.name.startswith(".")] == []


def test_evaluation_is_stable_and_finite(trained: Trained, tmp_path: Path) -> None:
    results = [runs.evaluate(trained.folder, tmp_path / f"{name}.json", tmp_path / "pictures") for name in "ab"]
    assert results[0].keys() == results[1].keys() and all(map(math.isfinite, results[0].values()))
    assert {"psnr", "ssim", "psnr_std", "ssim_std", "gaussian_count", "model_mb", "fps"} <= results[0].keys()
    assert results[0]["psnr"] == results[1]["psnr"]
    state = torch.load(runs.checkpoint(trained.folder), weights_only=True)["pipeline"]
    kept = [value for name, value in state.items() if isinstance(value, torch.Tensor) and "camera_opt" not in name]
    held = sum(value.numel() * value.element_size() for value in kept)
    assert results[0]["model_mb"] == pytest.approx(held / 1e6) and results[0]["fps"] > 0
    rows = json.loads((tmp_path / "pictures" / "per_image.json").read_text())["rows"]
    assert [row["image"] for row in rows] == ["003.png", "007.png"]
    assert np.mean([row["psnr"] for row in rows]) == pytest.approx(results[0]["psnr"])
    assert len({tuple(row) for row in rows}) == 1
    assert len(list((tmp_path / "pictures").glob("eval_img_*.png"))) == 2


def test_export_opens(trained: Trained, tmp_path: Path) -> None:
    export = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=ImportError).ExportGaussianSplat
    from plyfile import PlyData

    export(load_config=trained.folder / "config.yml", output_dir=tmp_path).main()
    vertices = PlyData.read(str(tmp_path / "splat.ply"))["vertex"]
    names = [each.name for each in vertices.properties]
    assert 0 < len(vertices) <= trained.trainer.pipeline.model.num_points
    assert {"x", "f_dc_0", "opacity", "scale_2", "rot_3"} <= set(names)
    assert all(np.isfinite(vertices[name]).all() for name in names)


def test_what_nts_export_writes_draws_the_same_without_nerfstudio(trained: Trained, tmp_path: Path) -> None:
    where = ["--load-config", str(trained.folder / "config.yml"), "--output-dir", str(tmp_path / "scene")]
    assert main(["export", *where, "--bake", "--camera", "1"]) == 0
    scene = load(tmp_path / "scene")
    pipeline = runs.load(trained.folder, "inference")
    pipeline.model.exposes = False  # Files are of middle brightness.
    if "pixels" in pipeline.model.heads:
        del pipeline.model.heads["pixels"]  # They do not hold what it adds.
    outputs = pipeline.model.get_outputs_for_camera(pipeline.datamanager.train_dataset.cameras[1:2])
    expected, factor, close = outputs["rgb"], 1, 1e-5
    if hasattr(pipeline.model, "codec"):
        # Files hold the colours that latents look like, but for those that are cut off at 0.
        factor, close = pipeline.model.codec.factor, 0.02
        expected = outputs["latent_colors"][::factor, ::factor]
    view, about = scene.about["view"], scene.about
    frame = json.loads((trained.folder / "dataparser_transforms.json").read_text())
    assert {name: about[name] for name in ("transform", "scale")} == frame
    raster = rasterize(
        scene.gaussians,
        torch.tensor(view["viewmat"])[None],
        torch.tensor(view["K"])[None] / torch.tensor([factor, factor, 1.0])[:, None],
        view["width"] // factor,
        view["height"] // factor,
        textures=scene.textures,
        background=scene.background,
        antialiased=scene.antialiased,
    )
    torch.testing.assert_close(raster.colors[0].clamp(0, 1), expected, atol=close, rtol=0)
    assert (scene.textures is not None) == hasattr(trained.trainer.pipeline.model, "texture")
    export = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=ImportError).ExportGaussianSplat
    from plyfile import PlyData

    export(load_config=trained.folder / "config.yml", output_dir=tmp_path).main()
    assert main(["export", *where[:3], str(tmp_path / "plain")]) == 0
    theirs, ours = (PlyData.read(str(tmp_path / name))["vertex"].data for name in ("splat.ply", "plain/splats.ply"))
    assert theirs.dtype.names == ours.dtype.names and np.array_equal(theirs, ours)


def test_pictures_with_alpha_go_the_whole_way(method: str, tmp_path: Path) -> None:
    """Commands that do not open the pictures cannot know of their alpha, and load the same checkpoint."""
    capture = write_capture(tmp_path / "capture", moving=True)
    for path in (capture / "images").glob("*.png"):
        with Image.open(path) as image:
            picture = image.convert("RGBA")
        picture.putalpha(Image.new("L", picture.size, 200))
        picture.save(path)
    write_regions(capture)
    folder = runs.train(method, capture, tmp_path / "outputs", 12, *busy_options(method))
    assert math.isfinite(runs.evaluate(folder, tmp_path / "results.json")["psnr"])
    export = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=ImportError).ExportGaussianSplat
    export(load_config=folder / "config.yml", output_dir=tmp_path).main()
    assert (tmp_path / "splat.ply").stat().st_size > 0
    (camera, _), *_ = runs.load(folder).datamanager.fixed_indices_eval_dataloader
    pictures = [runs.load(folder, mode).model.get_outputs_for_camera(camera)["rgb"] for mode in ("test", "inference")]
    assert torch.equal(*pictures)


def elements_of(module: nn.Module) -> List[Any]:
    """Every viewer element that is an attribute of a module or of one of its children."""
    from nerfstudio.viewer.viewer_elements import ViewerElement

    found = [value for value in vars(module).values() if isinstance(value, ViewerElement)]
    for child in module.children():
        found += elements_of(child)
    return found


def test_viewer_starts_and_finds_every_element(trained: Trained, tmp_path: Path) -> None:
    from nerfstudio.configs.base_config import ViewerConfig
    from nerfstudio.viewer.viewer import Viewer

    pipeline = runs.load(trained.folder)
    viewer = Viewer(
        ViewerConfig(websocket_host="127.0.0.1"),
        log_filename=tmp_path / "viewer.log",
        datapath=Path(pipeline.datamanager.get_datapath()),
        pipeline=pipeline,
    )
    try:
        viewer.init_scene(pipeline.datamanager.train_dataset, "completed", pipeline.datamanager.eval_dataset)
        assert len(viewer.camera_handles) == 6
        found = {id(element) for _, element in viewer.viewer_elements}
        assert elements_of(pipeline) and {id(element) for element in elements_of(pipeline)} <= found
    finally:
        viewer.viser_server.stop()


def test_every_output_can_be_shown(trained: Trained) -> None:
    """The viewer maps one channel to a colour map, shows three as they are, and fails on two."""
    for outputs in render(trained.trainer.pipeline):
        for name, value in outputs.items():
            assert value.ndim == 3 and value.shape[-1] != 2 and torch.isfinite(value).all(), name
            if value.shape[-1] == 3:
                assert 0.0 <= float(value.min()) and float(value.max()) <= 1.0, name


def kill_after_first_checkpoint(command: List[str], folder: Path) -> int:
    """Run a training, end it with SIGKILL once it has saved, and return the step of its newest checkpoint."""
    with open(folder.parent / "log.txt", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            limit = time.monotonic() + 120
            while not list(folder.glob("*/*/*/nerfstudio_models/*.ckpt")):
                assert process.poll() is None and time.monotonic() < limit, (folder.parent / "log.txt").read_text()
                time.sleep(0.02)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    return max(int(path.stem.split("-")[1]) for path in folder.glob("*/*/*/nerfstudio_models/*.ckpt"))


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_resuming_after_a_kill_equals_an_uninterrupted_run(
    method: str, strategy: str, capture: Path, tmp_path: Path
) -> None:
    """The same splats in the same places, though both strategies draw random numbers."""
    if not first_of_its_kind(method):
        pytest.skip("another method of the same parts is tested")
    extra = busy_options(method)
    if strategy != "default":
        if method != "splat":
            pytest.skip("the strategy is the backbone's, and is tested with it")
        extra += ["--pipeline.model.strategy", "mcmc"]
    program = "from nerfstudio.scripts.train import entrypoint; entrypoint()"
    killed = tmp_path / "killed"
    arguments = runs.arguments(capture, killed, 100_000, "--steps-per-save", "20", *extra)
    saved = kill_after_first_checkpoint([sys.executable, "-c", program, method, *arguments], killed)
    assert saved >= 20
    total = saved + 30
    (models,) = killed.glob("*/*/*/nerfstudio_models")
    resumed = runs.train(method, capture, tmp_path / "resumed", total, "--load-dir", str(models), *extra)
    whole = runs.train(method, capture, tmp_path / "whole", total, *extra)
    states = [torch.load(runs.checkpoint(run), weights_only=True) for run in (resumed, whole)]
    assert [state["step"] for state in states] == [total - 1] * 2
    first, second = (state["pipeline"] for state in states)
    assert first.keys() == second.keys() and len(second["_model.gauss_params.means"]) != 60
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert value.shape == second[name].shape, name
            torch.testing.assert_close(value, second[name], atol=1e-5, rtol=1e-5)
    rates = [{name: each["param_groups"][0]["lr"] for name, each in state["optimizers"].items()} for state in states]
    assert rates[0] == rates[1]


def test_a_finished_run_is_not_trained_further(trained: Trained, capture: Path, tmp_path: Path, capsys: Any) -> None:
    models = str(trained.folder / "nerfstudio_models")
    options = busy_options(trained.method)
    with pytest.raises(SystemExit) as caught:
        runs.train(trained.method, capture, tmp_path / "outputs", STEPS, "--load-dir", models, *options)
    assert caught.value.code == 0 and "Nothing to do" in capsys.readouterr().out
    assert not (tmp_path / "outputs").exists()


def test_a_checkpoint_of_another_method_is_refused(trained: Trained, capture: Path, tmp_path: Path) -> None:
    state = torch.load(runs.checkpoint(trained.folder), weights_only=True)
    foreign = tmp_path / "step-000000129.ckpt"
    state["pipeline"]["_model.field.weight"] = state["pipeline"].pop("_model.gauss_params.quats")
    torch.save(state, foreign)
    options = ("--load-checkpoint", str(foreign), *busy_options(trained.method))
    with pytest.raises(InputError, match="gauss_params.quats.*unknown here, field.weight"):
        runs.trainer(trained.method, capture, tmp_path / "outputs", STEPS + 5, *options)
    assert not list(tmp_path.glob("outputs/**/config.yml")), "a refused run leaves nothing behind"


def test_masked_pictures_train(method: str, capture: Path, tmp_path: Path) -> None:
    """nerfstudio asks for metrics before losses, and what the mask hides must not cut the way back to the splats."""
    masked = tmp_path / "masked"
    shutil.copytree(capture, masked)
    meta = load_meta(masked)
    left = np.zeros((meta["h"], meta["w"]), np.uint8)
    left[:, : meta["w"] // 2] = 255
    Image.fromarray(left).save(masked / "mask.png")
    save_meta(masked, {**meta, "frames": [{**frame, "mask_path": "mask.png"} for frame in meta["frames"]]})
    options = ["0" if option == str(WARM_START) else option for option in busy_options(method)]
    trainer = runs.trainer(method, masked, tmp_path / "outputs", 3, *options)
    before = trainer.pipeline.model.gauss_params["features_dc"].detach().clone()
    trainer.train()
    assert not torch.equal(trainer.pipeline.model.gauss_params["features_dc"], before)
