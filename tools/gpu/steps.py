"""Training steps, update included, of whole models and of encoders, in each of their forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from convmae.tools.gpu.battery import Case, Row, Setting
from convmae.tools.gpu.profiling import profiled
from convmae.tools.gpu.timing import Step, Timing, clear, operations, take_turns, with_peak

DTYPE = torch.bfloat16
Prepare = Callable[[int], tuple[nn.Module, Step]]  # for a batch: the model, and a step of it without its update


def pretraining(setting: Setting) -> list[Case]:
    """ConvMAE, FastConvMAE and MAE against the dense form, then compiled."""
    from convmae.tools.bench_pretrain import prepare_model

    size, pixels, batch = ("tiny", 32, 2) if setting.tiny else ("base", 224, 256)

    def model(form: str, method: str) -> Prepare:
        return lambda n: prepare_model(form, method, size, pixels, n, DTYPE, setting.device)

    found = []
    methods = (("convmae", "ConvMAE", 16), ("fastconvmae", "FastConvMAE", 24), ("mae", "MAE", 6))
    for method, title, seconds in methods:
        shipped = model("shipped", method)
        forms = {"shipped": shipped} if method == "mae" else {"dense": model("dense", method), "shipped": shipped}
        found.append(Case(f"{title}, {pixels} px", seconds, partial(_steps, setting, forms, batch)))
    for method, title, _ in methods[:1] if setting.tiny else methods:
        both = {"shipped": model("shipped", method), "compiled": compiled(model("shipped", method), setting)}
        found.append(Case(f"{title}, {pixels} px, compiled", 45, partial(_steps, setting, both, batch)))
    return found


def detection(setting: Setting) -> list[Case]:
    """The detection encoder against its plain form, and Mask R-CNN."""
    from convmae.detection.config import ModelOptions
    from convmae.tools import bench_detection
    from convmae.tools.bench_encoder import Case as Model

    size, pixels, window, batches = ("tiny", 64, 2, (1, 2)) if setting.tiny else ("base", 1024, 16, (1, 4))
    model = Model(bench_detection.build, size, pixels, 1, False, setting.device, DTYPE, window)
    narrow = model._replace(window=max(1, window // 2 - 1))
    found = []
    for batch in batches:
        forms = {
            "plain": encoder("plain", model),
            "shipped": encoder("shipped", model),
            f"shipped, windows of {narrow.window}": encoder("shipped", narrow),
        }
        run = partial(_encoder, setting, forms, batch, model)
        found.append(Case(f"encoder, {pixels} px, batch {batch}", 12, run))
    light = ModelOptions(
        size="tiny", window_size=2, fpn_channels=16, roi_sampled=16, box_convs=[], box_hidden=[16], mask_convs=[16]
    )
    options = light if setting.tiny else ModelOptions()

    def detector(batch: int) -> tuple[nn.Module, Step]:
        one = model._replace(batch=batch)
        whole = bench_detection.build_detector(one, options)
        return whole, bench_detection.detector_step(whole, one)

    for batch in (2,) if setting.tiny else (4, 8):
        run = partial(_steps, setting, {"shipped": detector}, batch)
        found.append(Case(f"Mask R-CNN, {pixels} px, batch {batch}", 10, run))
    both = {"shipped": encoder("shipped", model), "compiled": compiled(encoder("shipped", model), setting)}
    run = partial(_steps, setting, both, batches[-1])
    return [*found, Case(f"encoder, {pixels} px, batch {batches[-1]}, compiled", 60, run)]


def segmentation(setting: Setting) -> list[Case]:
    """The segmentation encoder against its plain form, and UPerNet."""
    from convmae.segmentation.config import ModelOptions
    from convmae.tools import bench_segmentation
    from convmae.tools.bench_encoder import Case as Model

    size, pixels, batch = ("tiny", 80, 2) if setting.tiny else ("base", 512, 16)
    model = Model(bench_segmentation.build, size, pixels, 1, False, setting.device, DTYPE)
    options = ModelOptions(size="tiny", decode_channels=16, aux_channels=16) if setting.tiny else None

    def segmenter(batch: int) -> tuple[nn.Module, Step]:
        one = model._replace(batch=batch)
        whole = bench_segmentation.build_segmenter(one, options)
        return whole, bench_segmentation.segmenter_step(whole, one)

    forms = {form: encoder(form, model) for form in ("plain", "shipped")}
    both = {"shipped": forms["shipped"], "compiled": compiled(forms["shipped"], setting)}
    return [
        Case(f"encoder, {pixels} px", 12, partial(_encoder, setting, forms, batch, model)),
        Case(f"UPerNet, {pixels} px", 12, partial(_steps, setting, {"shipped": segmenter}, batch)),
        Case(f"encoder, {pixels} px, compiled", 60, partial(_steps, setting, both, batch)),
    ]


def small(setting: Setting) -> list[Case]:
    """A tiny model on small pictures, whose kernels are shorter than their launches."""
    from convmae.tools.bench_pretrain import prepare_model

    pixels = 32 if setting.tiny else 96

    def model(batch: int) -> tuple[nn.Module, Step]:
        return prepare_model("shipped", "fastconvmae", "tiny", pixels, batch, DTYPE, setting.device)

    forms = {
        "shipped": model,
        "compiled": compiled(model, setting),
        "CUDA graph": compiled(model, setting, "reduce-overhead"),
    }
    return [
        Case(f"FastConvMAE tiny, {pixels} px, batch {batch}", seconds, partial(_steps, setting, forms, batch))
        for batch, seconds in ((2, 1),) * setting.tiny or ((128, 30), (32, 30))
    ]


def encoder(form: str, model: Any) -> Prepare:
    """An encoder with a training step of it."""
    from convmae.tools.bench_encoder import encoder_step

    def prepare(batch: int) -> tuple[nn.Module, Step]:
        one = model._replace(batch=batch)
        built = one.build(form, one)
        return built, encoder_step(built, one.images(), "step", one)

    return prepare


def compiled(prepare: Prepare, setting: Setting, mode: str | None = None) -> Prepare:
    """The model compiled as one graph; at tiny sizes the graph is only taken, not turned into code, which takes long."""

    def build(batch: int) -> tuple[nn.Module, Step]:
        model, step = prepare(batch)
        backend: dict[str, Any] = {"backend": "eager"} if setting.tiny else {"mode": mode}
        model.compile(fullgraph=True, dynamic=False, **backend)
        return model, step

    return build


def updated(model: nn.Module, step: Step, device: torch.device) -> Step:
    """A whole training step: AdamW follows the gradients."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-6, fused=device.type == "cuda")

    def run() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        step()
        optimizer.step()

    return run


def _steps(setting: Setting, forms: Mapping[str, Prepare], batch: int, seconds: float) -> Iterable[Row]:
    return fitting(batch, partial(_measure, setting, forms, seconds), setting.device)


def _measure(setting: Setting, forms: Mapping[str, Prepare], seconds: float, batch: int) -> Iterator[Row]:
    """Yields a row for each form, and the profile of the shipped one's step."""
    device = setting.device
    steps, peaks = {}, {}
    for name, prepare in forms.items():
        build = lambda prepare=prepare: updated(*prepare(batch), device)  # noqa: E731
        steps[name], peaks[name] = with_peak(build, device)
    work = operations(next(step for name, step in steps.items() if name not in _COMPILED))
    times = take_turns(steps, device, setting.repeats, seconds)
    for name, taken in times.items():
        rate = work / taken.seconds
        more = {"TFLOP/s": rate / 1e12, "share": setting.share("product", rate), "GiB": peaks[name]}
        yield {**_row(name, batch, "step", taken), **more}
    chosen = next((name for name in steps if name in _COMPILED), "shipped")
    yield from profiled(chosen, steps[chosen], device, times[chosen].seconds)


_COMPILED = ("compiled", "CUDA graph")


def _encoder(setting: Setting, forms: Mapping[str, Prepare], batch: int, model: Any, seconds: float) -> Iterator[Row]:
    """Yields rows of training steps, then of forward passes."""
    from convmae.tools.bench_encoder import encoder_step

    yield from _steps(setting, forms, batch, 0.7 * seconds)
    clear(setting.device)
    one = model._replace(batch=batch)
    images = one.images()
    steps = {name: encoder_step(prepare(1)[0], images, "forward", one) for name, prepare in forms.items()}
    for name, taken in take_turns(steps, setting.device, setting.repeats, 0.3 * seconds).items():
        yield _row(name, batch, "forward", taken)


def _row(form: str, batch: int, mode: str, taken: Timing) -> Row:
    rate = batch / taken.seconds
    times = {"ms": taken.seconds * 1e3, "a second": rate, "spread": taken.spread, "steps": taken.steps}
    return {"form": form, "batch": batch, "mode": mode, **times}


def fitting(batch: int, rows: Callable[[int], Iterable[Row]], device: torch.device) -> Sequence[Row]:
    """Returns the rows at a batch, halved until it fits the GPU's memory."""
    while True:
        try:
            return list(rows(batch))
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        batch //= 2
        clear(device)
