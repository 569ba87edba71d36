"""Training steps, update included, of whole models and of encoders, in each of their forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module

import torch
from torch import nn

from convmae.benchmarks.bench_encoder import Case as Model
from convmae.benchmarks.bench_encoder import encoder_step
from convmae.benchmarks.gpu.battery import Case, Row, Setting
from convmae.benchmarks.gpu.device_timing import Step, Timing, clear, operations, take_turns, with_peak
from convmae.benchmarks.gpu.profiling import profiled
from convmae.engine.machine.compilation import compile_methods

DTYPE = torch.bfloat16
METHODS = {"convmae": ("ConvMAE", 16), "fastconvmae": ("FastConvMAE", 24), "mae": ("MAE", 6)}  # titles and seconds
Prepare = Callable[[int], tuple[nn.Module, Step]]  # for a batch: the model, and a step of it without its update


def pretraining(setting: Setting) -> list[Case]:
    """ConvMAE and FastConvMAE against their dense form, and MAE."""
    found = []
    for method, (title, seconds) in METHODS.items():
        forms = {form: autoencoder(form, method, setting) for form in ("dense", "shipped")[method == "mae" :]}
        found.append(Case(_titled(title, setting), seconds, partial(_steps, setting, forms, _sizes(setting)[2])))
    return found


def compiled(setting: Setting) -> list[Case]:
    """Models and encoders by `torch.compile`, in turn with what they were."""
    found = []
    for method in ("convmae", "fastconvmae", "mae")[: 1 if setting.tiny else 3]:
        name = _titled(METHODS[method][0], setting)
        found.append(_both(setting, name, autoencoder("shipped", method, setting), _sizes(setting)[2]))
    if not setting.tiny:
        detector = Model(_builder("bench_detection"), "base", 1024, 1, False, setting.device, DTYPE, 16)
        segmenter = Model(_builder("bench_segmentation"), "base", 512, 1, False, setting.device, DTYPE)
        found.append(_both(setting, "detection encoder, 1024 px", encoder("shipped", detector), 4))
        found.append(_both(setting, "segmentation encoder, 512 px", encoder("shipped", segmenter), 16))
    return found


def _builder(module: str) -> Callable[[str, Model], nn.Module]:
    """Its function `build`, looked for when it is called: what one module needs may be absent without harm to others."""
    return lambda form, model: import_module(f"convmae.benchmarks.{module}").build(form, model)


def _both(setting: Setting, name: str, prepare: Prepare, batch: int) -> Case:
    forms = {"shipped": prepare, "compiled": by_compiler(prepare, setting)}
    return Case(f"{name}, compiled", 45, partial(_steps, setting, forms, batch))


def _sizes(setting: Setting) -> tuple[str, int, int]:
    """Size, pixels and batch of pretraining."""
    return ("tiny", 32, 2) if setting.tiny else ("base", 224, 256)


def _titled(title: str, setting: Setting) -> str:
    return f"{title}, {_sizes(setting)[1]} px"


def autoencoder(form: str, method: str, setting: Setting) -> Prepare:
    """A masked autoencoder with a pretraining step of it."""
    from convmae.benchmarks.bench_pretrain import prepare_model

    size, pixels, _ = _sizes(setting)
    return lambda batch: prepare_model(form, method, size, pixels, batch, DTYPE, setting.device)


def detection(setting: Setting) -> list[Case]:
    """The detection encoder against its plain form, and Mask R-CNN."""
    from convmae.benchmarks import bench_detection
    from convmae.detection.config import ModelOptions

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
        case = f"encoder, {pixels} px, batch {batch}"
        found.append(Case(case, 12, partial(_encoder, setting, forms, batch, model)))
    light = ModelOptions(
        size="tiny", window_size=2, fpn_channels=16, roi_sampled=16, box_convs=[], box_hidden=[16], mask_convs=[16]
    )
    options = light if setting.tiny else ModelOptions()

    def detector(batch: int) -> tuple[nn.Module, Step]:
        one = model._replace(batch=batch)
        whole = bench_detection.build_detector(one, options)
        return whole, bench_detection.detector_step(whole, one)

    for batch in (2,) if setting.tiny else (4, 8):
        case = f"Mask R-CNN, {pixels} px, batch {batch}"
        found.append(Case(case, 10, partial(_steps, setting, {"shipped": detector}, batch)))
    return found


def segmentation(setting: Setting) -> list[Case]:
    """The segmentation encoder against its plain form, and UPerNet."""
    from convmae.benchmarks import bench_segmentation
    from convmae.segmentation.config import ModelOptions

    size, pixels, batch = ("tiny", 80, 2) if setting.tiny else ("base", 512, 16)
    model = Model(bench_segmentation.build, size, pixels, 1, False, setting.device, DTYPE)
    options = ModelOptions(size="tiny", decode_channels=16, aux_channels=16) if setting.tiny else None

    def segmenter(batch: int) -> tuple[nn.Module, Step]:
        one = model._replace(batch=batch)
        whole = bench_segmentation.build_segmenter(one, options)
        return whole, bench_segmentation.segmenter_step(whole, one)

    forms = {form: encoder(form, model) for form in ("plain", "shipped")}
    return [
        Case(f"encoder, {pixels} px", 12, partial(_encoder, setting, forms, batch, model)),
        Case(f"UPerNet, {pixels} px", 12, partial(_steps, setting, {"shipped": segmenter}, batch)),
    ]


def small(setting: Setting) -> list[Case]:
    """A tiny model on small pictures, whose kernels are shorter than their launches."""
    from convmae.benchmarks.bench_pretrain import prepare_model

    pixels = 32 if setting.tiny else 96

    def model(batch: int) -> tuple[nn.Module, Step]:
        return prepare_model("shipped", "fastconvmae", "tiny", pixels, batch, DTYPE, setting.device)

    forms = {
        "shipped": model,
        "compiled": by_compiler(model, setting),
        "CUDA graph": by_compiler(model, setting, "reduce-overhead"),
    }
    return [
        Case(f"FastConvMAE tiny, {pixels} px, batch {batch}", seconds, partial(_steps, setting, forms, batch))
        for batch, seconds in ((2, 1),) * setting.tiny or ((128, 30), (32, 30))
    ]


def encoder(form: str, model: Model) -> Prepare:
    """An encoder with a training step of it."""

    def prepare(batch: int) -> tuple[nn.Module, Step]:
        one = model._replace(batch=batch)
        built = one.build(form, one)
        return built, encoder_step(built, one.images(), "step", one)

    return prepare


def by_compiler(prepare: Prepare, setting: Setting, mode: str = "default") -> Prepare:
    """The model compiled as one graph, as `runtime.compile` does it; at tiny sizes no code is made of it, which takes long."""

    def build(batch: int) -> tuple[nn.Module, Step]:
        model, step = prepare(batch)
        compile_methods([model.forward], mode, "eager" if setting.tiny else "inductor")

        def run() -> None:
            torch.compiler.cudagraph_mark_step_begin()  # what graphs put out before is needed no more
            step()

        return model, run

    return build


def updated(model: nn.Module, step: Step, device: torch.device) -> Step:
    """A whole training step: AdamW follows the gradients."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-6, fused=device.type == "cuda")

    def run() -> None:
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
        steps[name], peaks[name] = with_peak(partial(_prepared, prepare, batch, device), device)
    work = operations(next(step for name, step in steps.items() if name not in _COMPILED))
    times = take_turns(steps, device, setting.repeats, seconds / 2)  # building and profiling take the rest
    for name, taken in times.items():
        rate = work / taken.seconds
        more = {"TFLOP/s": rate / 1e12, "share": setting.share("product", rate), "GiB": peaks[name]}
        yield {**_row(name, batch, "step", taken), **more}
    chosen = next((name for name in steps if name in _COMPILED), "shipped")
    yield from profiled(chosen, steps[chosen], device, times[chosen].seconds)


def _prepared(prepare: Prepare, batch: int, device: torch.device) -> Step:
    model, step = prepare(batch)
    return updated(model, step, device)


_COMPILED = ("compiled", "CUDA graph")


def _encoder(setting: Setting, forms: Mapping[str, Prepare], batch: int, model: Model, seconds: float) -> Iterator[Row]:
    """Yields rows of training steps, then of forward passes."""
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
