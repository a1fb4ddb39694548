"""FLUX with the photo as a second image stream: diffusers' own classes, whose blocks carry its tokens along.

The photo's tokens pass through the same weights as the image's, at time 0 and with positions of their own, and
attention runs over text, image and photo together. In ASASR's release the LoRA works on the photo's tokens alone while
text and image pass through the base; `LoraTokens` names both forms. Source: OminiControl, arXiv 2411.15098, section 3,
as used by ASASR, arXiv 2605.23264.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import Tensor

LoraTokens = Literal["photo", "all"]
"""Which tokens pass through the LoRA: the photo's alone, as released, or text's and image's too."""
Rotary = tuple[Tensor, Tensor]
Heads = tuple[Tensor, Tensor, Tensor]
Module = Any
"""A part of a diffusers block; its own attributes are used."""


class Stream(NamedTuple):
    """Tokens of one kind on their way through a block."""

    tokens: Tensor
    """(b, n, width)."""
    time: Tensor
    """(b, width): the embedding that modulates them."""
    bare: bool
    """Whether they pass through the base alone where a layer has a LoRA."""


def _layer(module: Module, bare: bool) -> Module:
    """Return a layer, or what a LoRA was put around."""
    return module.get_base_layer() if bare and hasattr(module, "get_base_layer") else module


def _modulate(norm: Module, stream: Stream, count: int) -> tuple[Tensor, ...]:
    """Return the normed tokens and the further `count` - 2 modulations of an adaptive norm, (b, 1, width) each."""
    parts = _layer(norm.linear, stream.bare)(norm.silu(stream.time)).unsqueeze(1).chunk(count, dim=-1)
    return norm.norm(stream.tokens) * (1 + parts[1]) + parts[0], *parts[2:]


def _heads(attention: Module, tokens: Tensor, bare: bool, names: Sequence[str], norms: Sequence[str]) -> Heads:
    """Return queries, keys and values of one stream, (b, n, heads, width) each; the first two are normed."""
    query, key, value = (
        _layer(getattr(attention, name), bare)(tokens).unflatten(-1, (-1, attention.head_dim)) for name in names
    )
    norm_query, norm_key = (getattr(attention, name) for name in norms)
    return norm_query(query), norm_key(key), value


def _image_heads(attention: Module, tokens: Tensor, bare: bool) -> Heads:
    return _heads(attention, tokens, bare, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))


def _text_heads(attention: Module, tokens: Tensor, bare: bool) -> Heads:
    names = ("add_q_proj", "add_k_proj", "add_v_proj")
    return _heads(attention, tokens, bare, names, ("norm_added_q", "norm_added_k"))


def _attend(attention: Module, streams: Sequence[Heads], rotary: Rotary) -> tuple[Tensor, ...]:
    """Return what every stream reads from all of them, (b, n, heads * width) each."""
    query, key, value = (torch.cat(parts, dim=1) for parts in zip(*streams, strict=True))
    query, key = (apply_rotary_emb(part, rotary, sequence_dim=1) for part in (query, key))
    own = attention.processor
    read = dispatch_attention_fn(
        query, key, value, backend=own._attention_backend, parallel_config=own._parallel_config
    )
    return read.flatten(2, 3).to(query.dtype).split([stream[0].shape[1] for stream in streams], dim=1)


def _finish(stream: Stream, read: Tensor, modulation: Sequence[Tensor], norm: Module, feed: Module) -> Tensor:
    """Return the tokens after attention and the feed-forward layers, both gated; `read` is projected already."""
    gate, shift, scale, feed_gate = modulation
    tokens = stream.tokens + gate * read
    enter, dropout, leave = feed.net
    normed = norm(tokens) * (1 + scale) + shift
    inner = dropout(enter.gelu(_layer(enter.proj, stream.bare)(normed)))
    return tokens + feed_gate * _layer(leave, stream.bare)(inner)


def _bounded(tokens: Tensor) -> Tensor:
    """Keep half-precision text tokens within their range, as diffusers does."""
    return tokens.clip(-65504, 65504) if tokens.dtype == torch.float16 else tokens


class ConditionedDoubleBlock(FluxTransformerBlock):  # type: ignore[misc]
    """A double block that carries a second image stream."""

    def forward(self, text: Stream, image: Stream, photo: Stream, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens of text, image and photo."""
        attention = self.attn
        text_in, *text_modulation = _modulate(self.norm1_context, text, 6)
        image_in, *image_modulation = _modulate(self.norm1, image, 6)
        photo_in, *photo_modulation = _modulate(self.norm1, photo, 6)
        heads = (
            _text_heads(attention, text_in, text.bare),
            _image_heads(attention, image_in, image.bare),
            _image_heads(attention, photo_in, photo.bare),
        )
        text_read, image_read, photo_read = _attend(attention, heads, rotary)
        text_read = _layer(attention.to_add_out, text.bare)(text_read)
        image_read, photo_read = (
            attention.to_out[1](_layer(attention.to_out[0], stream.bare)(read))
            for stream, read in ((image, image_read), (photo, photo_read))
        )
        return (
            _bounded(_finish(text, text_read, text_modulation, self.norm2_context, self.ff_context)),
            _finish(image, image_read, image_modulation, self.norm2, self.ff),
            _finish(photo, photo_read, photo_modulation, self.norm2, self.ff),
        )


class ConditionedSingleBlock(FluxSingleTransformerBlock):  # type: ignore[misc]
    """A single block that carries a second image stream; text and image are one stream in it."""

    def forward(self, joint: Stream, photo: Stream, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Return the tokens of text with image, and of the photo."""
        streams = (joint, photo)
        normed, gates = zip(*(_modulate(self.norm, stream, 3) for stream in streams), strict=True)
        heads = [_image_heads(self.attn, tokens, stream.bare) for tokens, stream in zip(normed, streams, strict=True)]
        reads = _attend(self.attn, heads, rotary)
        done = []
        for stream, tokens, gate, read in zip(streams, normed, gates, reads, strict=True):
            inner = self.act_mlp(_layer(self.proj_mlp, stream.bare)(tokens))
            leave = _layer(self.proj_out, stream.bare)(torch.cat([read, inner], dim=2))
            done.append(_bounded(stream.tokens + gate * leave))
        return done[0], done[1]


class ConditionedFlux(FluxTransformer2DModel):  # type: ignore[misc]
    """FLUX's transformer with the photo's tokens beside the image's; made by `condition_flux`."""

    lora_tokens: LoraTokens

    def forward(
        self, hidden_states: Tensor, *, photo: Tensor, photo_ids: Tensor, encoder_hidden_states: Tensor,
        pooled_projections: Tensor, timestep: Tensor, img_ids: Tensor, txt_ids: Tensor, guidance: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the velocity of the image's tokens (b, n, 64) beside the photo's (b, m, 64).

        `timestep` and `guidance` hold one number per sample, the first in [0, 1]; ids are (n, 3), (m, 3) and (t, 3).
        """
        bare = self.lora_tokens == "photo"
        image_tokens = _layer(self.x_embedder, bare)(hidden_states)
        text_tokens = self.context_embedder(encoder_hidden_states)
        time = self._time(timestep.to(image_tokens.dtype), guidance, pooled_projections)
        photo_time = self._time(torch.zeros_like(timestep, dtype=image_tokens.dtype), guidance, pooled_projections)
        rotary = self.pos_embed(torch.cat((txt_ids, img_ids, photo_ids)))
        text, image = Stream(text_tokens, time, bare), Stream(image_tokens, time, bare)
        second = Stream(self.x_embedder(photo), photo_time, False)
        for block in self.transformer_blocks:
            done = self._through(block, text, image, second, rotary)
            text, image, second = (s._replace(tokens=t) for s, t in zip((text, image, second), done, strict=True))
        joint = Stream(torch.cat([text.tokens, image.tokens], dim=1), time, bare)
        for block in self.single_transformer_blocks:
            done = self._through(block, joint, second, rotary)
            joint, second = joint._replace(tokens=done[0]), second._replace(tokens=done[1])
        return self.proj_out(self.norm_out(joint.tokens[:, text.tokens.shape[1] :], time))

    def _time(self, timestep: Tensor, guidance: Tensor | None, pooled: Tensor) -> Tensor:
        if guidance is None:
            return self.time_text_embed(timestep * 1000, pooled)
        return self.time_text_embed(timestep * 1000, guidance.to(timestep.dtype) * 1000, pooled)

    def _through(self, block: Module, *inputs: Stream | Rotary) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)


def condition_flux(transformer: FluxTransformer2DModel, *, lora_tokens: LoraTokens = "photo") -> ConditionedFlux:
    """Let a loaded FLUX transformer, quantised or with LoRA sets or not, take the photo's tokens; changes it in place.

    No weight is added or copied: only the classes of the transformer and of its blocks change.
    """
    transformer.__class__ = ConditionedFlux
    transformer.lora_tokens = lora_tokens
    for blocks, kind in (
        (transformer.transformer_blocks, ConditionedDoubleBlock),
        (transformer.single_transformer_blocks, ConditionedSingleBlock),
    ):
        for block in blocks:
            block.__class__ = kind
    return transformer
