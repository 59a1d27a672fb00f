"""Prompts to embeddings, without computing the padding behind them."""

from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn


def encode_text(model: Any, tokens: Tensor) -> Tensor:
    """What `model.encode_text` gives for tokens [n, context], cut behind the longest prompt where that is exact.

    It is where attention looks only backwards and pooling reads the end of the prompt: then nothing that is read
    depends on the padding. Other text towers run whole.
    """
    text = _causal_text(model)
    if text is None:
        return model.encode_text(tokens)
    length = int(tokens.argmax(dim=-1).max()) + 1  # the end token is the largest of the vocabulary
    tokens = tokens[:, :length]
    x = text.token_embedding(tokens) + text.positional_embedding[:length]
    x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
    pooled = text_global_pool(text.ln_final(x), tokens, "argmax")
    if isinstance(text.text_projection, nn.Linear):
        return text.text_projection(pooled)
    return pooled if text.text_projection is None else pooled @ text.text_projection


def _causal_text(model: Any) -> Any | None:
    """The module with the parts of a causal text tower that pools its end token, or None."""
    if type(model) is CLIP:
        pool, text = model.text_pool_type, model
    elif type(getattr(model, "text", None)) is TextTransformer and model.text.cls_emb is None:
        pool, text = model.text.pool_type, model.text
        if model.text.use_pad_mask:
            return None
    else:
        return None
    causal = isinstance(getattr(text, "attn_mask", None), torch.Tensor)
    return text if causal and pool == "argmax" else None
