"""Random weights that make the tiny models talk: varied text that depends on the pictures, seldom an end."""

import math
import zlib

import tokenizers
import torch
from torch import nn

EMBEDDING_STD = 1.0
LINEAR_GAIN = 1.8
LOGIT_STD = 3.0
QUERY_KEY_NORM = 2.0
"""Middle of Qwen3's query and key norms; at 1 attention is too even, and the text runs in circles."""
UGLY_SHARE = 0.7
"""Factor for the rows of tokens that are no whole characters or cannot be printed: they shall be seldom."""
SALT = "fox"
"""Chosen so that with seed 0 the answers of every family end now and then, but seldom within fifty tokens."""


def fill(model: nn.Module, seed: int) -> None:
    """Give every weight a value that depends on its name and the seed alone."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(f"{SALT} {seed} {name}".encode()))
            noise = torch.empty(parameter.shape).normal_(generator=generator)
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter.copy_(QUERY_KEY_NORM + 0.1 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(float(name.endswith("weight")) + 0.1 * noise)
            elif "embed" in name and parameter.ndim == 2:
                parameter.copy_(EMBEDDING_STD * noise)
            else:
                parameter.copy_(LINEAR_GAIN / math.sqrt(parameter[0].numel()) * noise)


def shape_head(head: nn.Linear, tokenizer: tokenizers.Tokenizer, ends: tuple[str, ...]) -> None:
    """Scale the output rows: of the special tokens only the end tokens can win, and ugly tokens seldom do."""
    shares = torch.ones(head.weight.shape[0])
    for number in range(len(shares)):
        shares[number] = UGLY_SHARE if _is_ugly(tokenizer.decode([number])) else 1.0
    shares[list(tokenizer.get_added_tokens_decoder())] = 0.0
    shares[[tokenizer.token_to_id(text) for text in ends]] = 1.0
    with torch.no_grad():
        head.weight *= (LOGIT_STD * shares / head.weight.norm(dim=1))[:, None]


def _is_ugly(text: str) -> bool:
    return "\ufffd" in text or not text.replace("\n", "").isprintable()
