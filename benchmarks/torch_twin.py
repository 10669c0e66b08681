"""The same towers and loss in torch, from the modules of `transformers`, and the training step that its user writes.

Beside ours: BERT normalises after each residual and ours before, BERT's embeddings have a norm where our towers have
one at their end, and q, k and v are three products there and one here. The picture tower is ViT without a [CLS].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from make_jax.config import Experiment, ImageConfig, TextConfig, TransformerConfig

Batch = dict[str, torch.Tensor]
NEEDED = ("query_ids", "title_ids", "image", "has_image", "product_key")  # of a batch

_GELU = "gelu_pytorch_tanh"  # as flax.linen.gelu


class Twin(nn.Module):
    """A batch → its loss, with title and picture fused by a fixed mean."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        model, objectives = experiment.model, experiment.objectives
        self._pad_id, self._margin, self._scale_max = model.pad_id, objectives.margin, objectives.scale_max
        vocabulary = model.vocab_size or 0, model.pad_id
        self.query, self.title = _bert(model.query, *vocabulary), _bert(model.title, *vocabulary)
        self.picture = _vit(model.image)
        widths = (text.transformer.width for text in (model.query, model.title, model.image))
        self.project = nn.ModuleList(nn.Linear(width, model.embedding, bias=False) for width in widths)
        share = objectives.scale / objectives.scale_max
        self.scale_logit = nn.Parameter(torch.tensor(share / (1 - share)).log())

    def forward(self, batch: Batch) -> torch.Tensor:
        query, _ = self._read(self.query, batch["query_ids"], 0)
        title, has_title = self._read(self.title, batch["title_ids"], 1)
        pixels = batch["image"][:, 0].permute(0, 3, 1, 2).float() / 127.5 - 1.0
        states = self.picture(pixel_values=pixels).last_hidden_state
        picture = F.normalize(self.project[2](states.mean(dim=1)), dim=-1)
        product = F.normalize(has_title * title + batch["has_image"] * picture, dim=-1)
        cosine = (query @ product.T).float()
        own = torch.eye(len(cosine), dtype=torch.bool, device=cosine.device)
        key = batch["product_key"]
        logits = self._scale_max * torch.sigmoid(self.scale_logit) * (cosine - self._margin * own)
        logits = logits.masked_fill((key[:, None] == key[None, :]) & ~own, float("-inf"))
        targets = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2

    def _read(self, tower: nn.Module, ids: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of texts, and whether there is one."""
        mask = ids != self._pad_id
        states = tower(input_ids=ids, attention_mask=mask).last_hidden_state
        count = mask.sum(dim=1, keepdim=True)
        mean = (states * mask[..., None]).sum(dim=1) / count.clamp(min=1)
        return F.normalize(self.project[number](mean), dim=-1), count > 0


class _Patches(nn.Module):
    """The patches of a picture and where they are: the embeddings of ViT without a [CLS]."""

    def __init__(self, vit: ViTModel, width: int) -> None:
        super().__init__()
        self.patch_embeddings = vit.embeddings.patch_embeddings
        self.positions = nn.Parameter(0.02 * torch.randn(1, self.patch_embeddings.num_patches, width))

    def forward(self, pixel_values: torch.Tensor, **_: object) -> torch.Tensor:
        return self.patch_embeddings(pixel_values) + self.positions


def _bert(text: TextConfig, vocab_size: int, pad_id: int) -> BertModel:
    config = BertConfig(
        vocab_size=vocab_size,
        max_position_embeddings=text.max_tokens,
        type_vocab_size=1,
        pad_token_id=pad_id,
        hidden_act=_GELU,
        attention_probs_dropout_prob=text.transformer.dropout,
        **_sizes(text.transformer),
    )
    return BertModel(config, add_pooling_layer=False)


def _vit(image: ImageConfig) -> ViTModel:
    size = (image.height, image.width)
    config = ViTConfig(image_size=size, patch_size=image.patch, hidden_act=_GELU, **_sizes(image.transformer))
    vit = ViTModel(config, add_pooling_layer=False)
    vit.embeddings = _Patches(vit, image.transformer.width)
    return vit


def _sizes(config: TransformerConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.width * config.mlp_ratio,
        "hidden_dropout_prob": config.dropout,
    }


def parameters(model: nn.Module) -> int:
    """How many there are."""
    return sum(parameter.numel() for parameter in model.parameters())


def train_step(experiment: Experiment, device: str, bf16: bool, compiled: bool) -> Callable[[Batch], torch.Tensor]:
    """One step of AdamW with clipping on a batch, which returns the loss; `bf16` by autocast."""
    settings = experiment.optimizer
    model = Twin(experiment).to(device).train()
    loss_of = torch.compile(model) if compiled else model
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or name.endswith(("_embeddings.weight", "positions"))
        (others if plain else decayed).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=True,
    )

    def step(batch: Batch) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        return loss.detach()

    return step
