"""Rank BERTs of several shapes, made from configs with random weights, by the loss that the model itself computes."""

import functools

import torch

import lswag_hooks as lh
from lswag_hooks.integrations import OwnLoss

VOCABULARY, LENGTH, SAMPLES = 200, 12, 8


def bert(layers: int, width: int, heads: int) -> torch.nn.Module:
    """A masked language model; nothing is downloaded."""
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=LENGTH,
        )
    )


def masked_text() -> lh.Batch:
    """Random tokens, of which every fourth is masked and asked for; put your tokenizer's output here."""
    tokens = torch.randint(5, VOCABULARY, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
    masked = torch.arange(LENGTH) % 4 == 0
    inputs = {"input_ids": tokens.masked_fill(masked, 4), "attention_mask": torch.ones_like(tokens)}
    return lh.Batch(inputs, tokens.masked_fill(~masked, -100))  # -100: not in the loss


def main() -> lh.Ranking | None:
    """Three shapes."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        print("skipped: this example needs transformers: pip install 'lswag-hooks[transformers]'")
        return None
    candidates = {
        f"{layers} layers of {width}": functools.partial(bert, layers, width, 2)
        for layers, width in ((1, 32), (2, 32), (2, 64))
    }
    ranking = lh.rank(candidates, masked_text(), "lswag, zico", loss=OwnLoss(), progress=False)
    print(ranking)
    return ranking


if __name__ == "__main__":
    main()
