"""Adapts the last layers of an encoder to labelled texts: `otvet train --deep`.

The layers learn to draw texts of one intent together (supervised contrastive loss, Khosla et al. 2020) and to tell the
intents apart (cross-entropy), from states that the frozen lower layers, in their serving form, gave once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from nlu.deep_encoder import DeepEncoder, Layered, Tap, upper_graph
from nlu.encoder import clean
from nlu.kernel_solver import IntArray

_LAYERS: Final = {12: 4, 6: 3}  # of so many layers the last so many
_CLASSES, _EACH = 24, 2  # of a step
_PART: Final = 16  # texts that go through the layers together: of like length, so that there is little padding
_RATE: Final = 1e-4
_HEAD_RATE: Final = 2e-3
_TEMPERATURE: Final = 0.07
_SHARPNESS: Final = 16.0
_MOST_TOKENS: Final = 64


class Adaptation:
    """What the lower layers make of all texts; adapts the last ones as often as is wanted."""

    def __init__(self, base: Layered, texts: Sequence[str]) -> None:
        """Runs the encoder over folded texts once. Raises EncodingError."""
        self._base = base
        self._layers = _LAYERS[base.layers]
        tap = base.tap(self._layers)
        known = {clean(text): tap(clean(text)) for text in texts}
        self._tap: Tap = lambda text: known[text] if text in known else tap(text)
        self._states = [torch.from_numpy(known[clean(text)][1][:_MOST_TOKENS].copy()) for text in texts]

    def adapt(self, rows: IntArray, labels: IntArray, *, seed: int) -> DeepEncoder:
        """Train on `rows` of the texts with their class numbers; deterministic on one machine.

        Blocks: a second makes one to four steps of the default encoder, see `steps_for`.
        """
        steps = steps_for(len(rows))
        present, compact = np.unique(labels, return_inverse=True)
        with _alone(seed):
            layers = _layers(self._base, self._layers)
            head = torch.nn.Linear(self._base.dim, len(present))
            optimiser = torch.optim.AdamW(
                [{"params": layers.parameters(), "lr": _RATE}, {"params": head.parameters(), "lr": _HEAD_RATE}],
                weight_decay=0.01,
            )
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimiser, lambda step: min(1.0, (step + 1) / 10) * max(0.05, 1 - step / steps)
            )
            random = np.random.default_rng(seed)
            members = [np.flatnonzero(compact == number) for number in range(len(present))]
            layers.train()
            for _ in range(steps):
                classes = random.permutation(len(present))[:_CLASSES]
                batch = np.concatenate([random.permutation(members[number])[:_EACH] for number in classes])
                vectors = self._vectors(layers, rows[batch])
                wanted = torch.from_numpy(compact[batch])
                loss = _contrast(vectors, wanted) + functional.cross_entropy(
                    head(vectors) * _SHARPNESS, wanted, label_smoothing=0.05
                )
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                optimiser.zero_grad()
                schedule.step()
        weights = {name: values.numpy().copy() for name, values in layers.state_dict().items()}
        return DeepEncoder(self._base, upper_graph(self._base, weights, self._layers), self._tap)

    def _vectors(self, layers: torch.nn.ModuleList, rows: IntArray) -> Tensor:
        """Unit vectors of texts, in order."""
        order = sorted(range(len(rows)), key=lambda index: len(self._states[rows[index]]))
        parts = []
        for start in range(0, len(order), _PART):
            states = [self._states[rows[index]] for index in order[start : start + _PART]]
            hidden = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
            lengths = torch.tensor([len(each) for each in states])
            mask = torch.arange(hidden.shape[1])[None] < lengths[:, None]
            with torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported()):
                for layer in layers:
                    made = layer(hidden, attention_mask=torch.where(mask, 0.0, -1e4)[:, None, None])
                    hidden = made[0] if isinstance(made, tuple) else made
            kept = mask[..., None].float()
            parts.append(functional.normalize((hidden.float() * kept).sum(1) / kept.sum(1), dim=1))
        places = torch.empty(len(order), dtype=torch.long)
        places[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[places]


def steps_for(rows: int) -> int:
    """Steps of 48 texts: about four times through few rows, at most 200; more gained nothing."""
    return min(200, max(50, rows // 12))


def _layers(base: Layered, count: int) -> torch.nn.ModuleList:
    config = BertConfig(
        hidden_size=base.dim,
        num_attention_heads=base.heads,
        intermediate_size=4 * base.dim,
        layer_norm_eps=base.epsilon,
    )
    config._attn_implementation = "sdpa"
    layers = torch.nn.ModuleList(BertLayer(config) for _ in range(count))  # type: ignore[no-untyped-call]
    layers.load_state_dict({name: torch.from_numpy(each) for name, each in base.upper_weights(count).items()})
    return layers


def _contrast(vectors: Tensor, labels: Tensor) -> Tensor:
    """For each text, how far the others of its class are from being the nearest; texts alone in it do not count."""
    same = torch.eye(len(vectors), dtype=torch.bool)
    likeness = (vectors @ vectors.T / _TEMPERATURE).masked_fill(same, -1e9)
    friends = (labels[:, None] == labels[None]) & ~same
    count = friends.sum(1)
    losses = -(functional.log_softmax(likeness, 1) * friends).sum(1) / count.clamp(min=1)
    return losses[count > 0].sum() / max(1, int((count > 0).sum()))


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """Own random numbers and one thread; afterwards everything is as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
