"""Lightning, given one of these optimizers, trains as with torch's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg as tw

lightning = pytest.importorskip("lightning.pytorch")

# Lightning's own: what it uses of torch, and advice that a run of eight steps does not need.
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
    ),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]

STEPS = 8


class Module(lightning.LightningModule):
    """A small classifier, its optimizer and its schedule.

    Attributes:
        taken: what took each step of each parameter.
    """

    def __init__(self, made: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))
        self.made = made
        self.taken: set[str | None] = set()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.made(self.parameters(), lr=3e-2, weight_decay=0.1)
        if isinstance(optimizer, tw.Optimizer):
            optimizer.register_step_post_hook(self.note)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def note(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        self.taken |= {optimizer.backend_of(p) for p in self.parameters()}


def data() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 6, generator=generator)
    # All in one batch: from the end of an epoch Lightning goes on with a batch too many.
    return DataLoader(TensorDataset(x, torch.arange(16) % 3), batch_size=16)


def trainer(folder: Path, steps: int = STEPS, clip: float | None = None) -> Any:
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        gradient_clip_val=clip,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def trained(made: Any, folder: Path, clip: float | None = None) -> Module:
    module = Module(made)
    trainer(folder, clip=clip).fit(module, data())
    return module


def assert_close(found: Module, expected: Module, tolerance: float) -> None:
    for p, q in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance)


def test_it_trains_as_with_torchs_own(tmp_path: Path) -> None:
    ours = trained(tw.AdamW, tmp_path)
    torchs = trained(torch.optim.AdamW, tmp_path)
    assert_close(ours, torchs, 1e-6)
    assert ours.taken == {"fused"}


def test_gradients_are_clipped_before_the_step(tmp_path: Path) -> None:
    # With SGD, because the size of gradients makes next to no difference to Adam.
    ours = trained(tw.SGD, tmp_path, clip=0.05)
    torchs = trained(torch.optim.SGD, tmp_path, clip=0.05)
    free = trained(tw.SGD, tmp_path)
    assert_close(ours, torchs, 1e-6)
    assert ours.taken == {"fused"}
    with pytest.raises(AssertionError):
        assert_close(ours, free, 1e-2)


def test_a_run_that_is_resumed_ends_where_the_other_did(tmp_path: Path) -> None:
    whole = trained(tw.AdamW, tmp_path)
    half, checkpoint = trainer(tmp_path, STEPS // 2), tmp_path / "half.ckpt"
    half.fit(Module(tw.AdamW), data())
    half.save_checkpoint(checkpoint)
    resumed, rest = Module(tw.AdamW), trainer(tmp_path)
    rest.fit(resumed, data(), ckpt_path=checkpoint)
    assert rest.global_step == STEPS
    assert_close(resumed, whole, 0)
    assert resumed.taken == {"fused"}
