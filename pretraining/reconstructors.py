"""Several targets at once: the Mixture of Reconstructors (FastConvMAE) and mimicking (MR-MCMAE), as one list.

The mixture was published as a figure and a table, without formulas or code. As drawn: the decoder's first blocks are shared,
then every target has a branch of its own. What the figure leaves open is decided in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from convmae.backbones.layers import TransformerBlock
from convmae.backbones.masked import VisiblePatches
from convmae.pretraining.autoencoder import MaskedAutoencoder, select_patches
from convmae.pretraining.config import EMA, PIXELS, Target, module_name
from convmae.pretraining.patches import pad_to_patches
from convmae.pretraining.targets import check_targets, distance, normalize
from convmae.pretraining.teachers import EmaTeacher, Teacher


class Branch(nn.Module):
    """What a target at the decoder has for itself: transformer blocks, norm, and a linear head to the teacher's width."""

    def __init__(self, dim: int, heads: int, depth: int, out: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = nn.Linear(dim, out)
        self.apply(MaskedAutoencoder.init_linear)


class MixtureOfReconstructors(nn.Module):
    """A masked autoencoder that learns from a list of targets.

    The pixels' branch is the model's own last blocks, norm and head, so that the model stays what it was; with pixels alone
    the loss is the model's. Without pixels the model gives that branch up; without any target at the decoder, all of it.

    Args:
        model: the masked autoencoder, which is changed in place.
        targets: what is predicted.
        teachers: by name, one for each that the targets name; see `convmae.pretraining.teachers`.
        branch_depth: blocks at the decoder's end that each target has for itself.

    Raises:
        ValueError: targets that can't be (see `check_targets`), or more own blocks than the decoder has.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        targets: Sequence[Target],
        teachers: Mapping[str, Teacher],
        branch_depth: int = 1,
    ) -> None:
        super().__init__()
        check_targets(targets)
        dim, depth, heads = model.decoder_dims
        if not 0 <= branch_depth <= depth:
            raise ValueError(f"branch_depth is {branch_depth}; expected 0 to {depth}, the blocks of the decoder")
        self.model = model
        self.targets = list(targets)
        self.shared = depth - branch_depth
        self.teachers = nn.ModuleDict({module_name(name): teacher for name, teacher in teachers.items()})
        self.branches = nn.ModuleDict()
        for target in targets:
            out = teachers[target.teacher].dim
            if target.at == "encoder":
                self.branches[target.name] = nn.Linear(model.width, out)  # its input is normalised already
            elif target.teacher != PIXELS:
                self.branches[target.name] = Branch(dim, heads, branch_depth, out)
        if all(target.at == "encoder" for target in targets):
            model.remove_decoder()
        elif all(target.teacher != PIXELS for target in targets):
            model.remove_pixel_branch(self.shared)

    def forward(self, images: Tensor, mask_ratio: float, noise: Tensor | None = None) -> dict[str, Tensor]:
        """Returns ``loss`` [], the weighted sum, each target's own loss by its name, and the spread of an EMA's values.

        images, mask_ratio, noise: as for the model. The teachers see each image once, unmasked.
        """
        images = pad_to_patches(images)
        return self.reconstruct(images, self.teach(images), mask_ratio, noise)

    def reconstruct(
        self, images: Tensor, values: dict[str, Tensor], mask_ratio: float, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns what ``forward`` does, for images whose sides are multiples of 16 and what the teachers say of them."""
        visible = self.model.visible_patches(images, mask_ratio, noise)
        encoded = self.model.forward_encoder(images, visible)
        decoded = None
        if any(target.at == "decoder" for target in self.targets):
            decoded = self.model.forward_decoder(encoded, visible, self.shared)
        losses = {}
        for target in self.targets:
            if decoded is None or target.at == "encoder":
                pred, places = self.branches[target.name](encoded[: len(visible.ids)]), visible.in_images
            else:
                rows = visible.removed if target.tokens == "removed" else visible.in_views
                pred, places = self.decode(target, decoded, visible, rows), rows % (len(images) * visible.tokens)
            wanted = normalize(target, values[target.teacher]).flatten(0, 1).index_select(0, places)
            losses[target.name] = distance(target, pred, wanted)
        total = torch.stack([target.weight * losses[target.name] for target in self.targets]).sum()
        spread = {f"{EMA}_spread": token_spread(values[EMA])} if EMA in values else {}
        return {"loss": total, **losses, **spread}

    @torch.no_grad()
    def teach(self, images: Tensor) -> dict[str, Tensor]:
        """Returns each teacher's values [B, L, C], by its name."""
        return {
            name: self.teachers[module_name(name)](images)
            for name in dict.fromkeys(target.teacher for target in self.targets)
        }

    def decode(self, target: Target, decoded: Tensor, visible: VisiblePatches, rows: Tensor) -> Tensor:
        """Runs a target's own branch on what the shared blocks give; predicts `rows` [n] of all views' patches: [n, C]."""
        model = self.model
        if target.teacher == PIXELS:
            blocks, norm, pred = model.decoder_blocks[self.shared :], model.decoder_norm, model.decoder_pred
        else:
            own = cast(Branch, self.branches[target.name])
            blocks, norm, pred = own.blocks, own.norm, own.pred
        for block in blocks:
            decoded = model.run_block(block, decoded)
        return pred(norm(select_patches(decoded, visible, rows)))

    def static_methods(self) -> list[Callable]:
        """Returns what can be compiled: all but timm's teachers, whose code is not ours."""
        averages = [teacher for teacher in self.teachers.values() if isinstance(teacher, EmaTeacher)]
        return [self.reconstruct, *(teacher.forward for teacher in averages)]

    def update_teachers(self, momentum: float) -> None:
        """Moves the EMA teacher, where there is one, to ``momentum`` of itself and the rest of the model."""
        for teacher in self.teachers.values():
            if isinstance(teacher, EmaTeacher):
                teacher.update(self.model, momentum)


def token_spread(values: Tensor) -> Tensor:
    """Returns the deviation over tokens of layer-normalised values [B, L, C], over channels the mean: 0 is a collapse."""
    return nn.functional.layer_norm(values.float(), values.shape[-1:]).flatten(0, 1).std(0).mean()
