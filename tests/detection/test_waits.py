"""How often a training step makes the host wait for a GPU."""

from collections import Counter
from pathlib import Path

import torch
from tiny_detector import batch_of, small_config

from convmae.benchmarks.counting.host_waits import host_waits
from convmae.detection.data.coco import read_coco
from convmae.detection.model.detection_model import DetectionModel


def test_a_training_step_waits_for_the_proposals_and_for_how_many_boxes_there_are(split: Path) -> None:
    torch.manual_seed(0)
    config = small_config(norm="bn", pre_nms_train=2000, post_nms_train=1000, rpn_sampled=256, roi_sampled=512)
    model = DetectionModel(config, read_coco(split / "instances.json", split / "images").categories).train()
    batch = batch_of(split, config, (0, 1, 2, 3))
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        moved = model.data_preprocessor(batch)
        sum(model(**moved, mode="loss").values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    pinned = [batch["images"], batch["targets"]]
    waits = Counter((wait.op, wait.where.partition(":")[0]) for wait in host_waits(step, [model, optimizer], pinned))
    assert waits == {
        ("tolist", "detection/model/proposals.py"): 1,  # boxes with an area, of each picture
        ("torchvision::nms", "torchvision/ops/boxes.py"): 4,
        ("tolist", "detection/model/roi_heads.py"): 1,  # sampled boxes of each picture
        ("tolist", "detection/model/pooler.py"): 2,  # boxes of each level, for boxes and for masks
    }


def test_a_cascade_waits_for_each_stages_boxes_and_their_levels_too(split: Path) -> None:
    torch.manual_seed(0)
    data = read_coco(split / "instances.json", split / "images")

    def waits(cascade: bool) -> Counter[tuple[str, str]]:
        config = small_config(norm="bn", cascade=cascade)
        model, batch = DetectionModel(config, data.categories).train(), batch_of(split, config, (0, 1, 2, 3))
        found = host_waits(lambda: sum(model(**batch, mode="loss").values()).backward(), [model, batch])
        return Counter((wait.op, wait.where.partition(":")[0]) for wait in found)

    added = {("tolist", "detection/model/roi_heads.py"): 2, ("tolist", "detection/model/pooler.py"): 2}
    assert waits(cascade=True) - waits(cascade=False) == added


def test_a_batch_is_waited_for_as_often_as_another_but_for_its_suppression(split: Path) -> None:
    torch.manual_seed(0)
    config = small_config()
    model = DetectionModel(config, read_coco(split / "instances.json", split / "images").categories).train()

    def count(pictures: tuple[int, ...]) -> int:
        batch = batch_of(split, config, pictures)
        return len(host_waits(lambda: sum(model(**batch, mode="loss").values()).backward(), [model, batch]))

    assert [count((0,)), count((0, 1)), count((0, 1, 2, 0, 1, 2))] == [5, 6, 10]
    assert count((3, 3)) == 6  # no object: no masks, but the norms of other processes wait for this one
