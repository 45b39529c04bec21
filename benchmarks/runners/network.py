"""The job's network and data as torch objects, the same for every runner that needs them."""

import torch
from exchange import Job
from torch import Tensor, nn
from transformer import Transformer

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


_HEADS = 4


def network(job: Job, number: int = 0) -> nn.Module:
    """The job's model of that number, in eval mode: a perceptron, or a transformer where there are token embeddings."""
    torch.set_num_threads(job.threads)
    state = {name: torch.from_numpy(values) for name, values in job.states[number].items()}
    return _transformer(state) if "tokens.weight" in state else _perceptron(state, job.activation)


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """``[batch]`` Cross-entropy of every example, summed over its positions where it has several."""
    each = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return each.view(labels.shape).flatten(1).sum(1) if labels.dim() > 1 else each


def _transformer(state: dict[str, Tensor]) -> nn.Module:
    """Only linear layers are trained: the peers score no others, so that all sides have the same parameters."""
    vocabulary, width = state["tokens.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    net = Transformer(
        vocabulary, width=width, heads=_HEADS, layers=layers, length=len(state["positions.weight"])
    )
    net.load_state_dict(state)
    for module in net.modules():
        if isinstance(module, nn.Embedding | nn.LayerNorm):
            module.requires_grad_(False)
    return net.eval()


def _perceptron(state: dict[str, Tensor], activation: str) -> nn.Module:
    weights = [values for name, values in state.items() if name.endswith("weight")]
    layers: list[nn.Module] = []
    for position, weight in enumerate(weights):
        if position:
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(weight.shape[1], weight.shape[0]))
    net = nn.Sequential(*layers).to(weights[0].dtype)
    net.load_state_dict(state)
    return net.eval()


def dataset(pair: tuple) -> torch.utils.data.TensorDataset:
    """Inputs and labels as a TensorDataset."""
    return torch.utils.data.TensorDataset(torch.from_numpy(pair[0]), torch.from_numpy(pair[1]))


def loader(pair: tuple, size: int) -> torch.utils.data.DataLoader:
    """Batches in order."""
    return torch.utils.data.DataLoader(dataset(pair), batch_size=size, shuffle=False)
