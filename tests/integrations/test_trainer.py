"""Hugging Face's Trainer, given one of these optimizers, trains as with torch's own."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

import thalweg as tw

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

STEPS = 8


def model() -> torch.nn.Module:
    """A language model of the Llama family, small but whole, with weights of its own."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=23,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
    )
    return transformers.LlamaForCausalLM(config)


def data() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(23, (24, 12), generator=generator)
    return [{"input_ids": row, "labels": row} for row in rows]


def trained(made, folder: Path, checkpoint: Path | None = None):
    """The model after all steps, and what took each step of each of its parameters."""
    net = model()
    optimizer = made(tw.decay_groups(net, 0.1), lr=3e-2)
    taken = set()

    def note(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        taken.update(optimizer.backend_of(p) for p in net.parameters())

    if isinstance(optimizer, tw.Optimizer):
        optimizer.register_step_post_hook(note)
    trainer = transformers.Trainer(
        net,
        transformers.TrainingArguments(
            str(folder),
            max_steps=STEPS,
            save_steps=STEPS // 2,
            per_device_train_batch_size=4,
            max_grad_norm=0.5,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=data(),
        optimizers=(
            optimizer,
            transformers.get_linear_schedule_with_warmup(optimizer, 2, STEPS),
        ),
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    assert trainer.state.global_step == STEPS
    return net, taken


def assert_close(found: torch.nn.Module, expected: torch.nn.Module, tolerance: float) -> None:
    for (name, p), q in zip(found.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance, msg=name)


def test_it_trains_as_with_torchs_own(tmp_path: Path) -> None:
    ours, taken = trained(tw.AdamW, tmp_path / "ours")
    torchs, _ = trained(torch.optim.AdamW, tmp_path / "torchs")
    assert_close(ours, torchs, 1e-6)
    with pytest.raises(AssertionError):
        assert_close(ours, model(), 1e-2)
    assert taken == {"fused"}


def test_a_run_that_is_resumed_ends_where_the_other_did(tmp_path: Path) -> None:
    whole, _ = trained(tw.AdamW, tmp_path / "whole")
    checkpoint = tmp_path / "whole" / f"checkpoint-{STEPS // 2}"
    resumed, taken = trained(tw.AdamW, tmp_path / "resumed", checkpoint)
    assert_close(resumed, whole, 0)
    assert taken == {"fused"}
