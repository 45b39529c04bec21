"""The job's network and data as torch objects, the same for every runner that needs them."""

import torch
from exchange import Job
from torch import nn

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


def network(job: Job, number: int = 0) -> nn.Sequential:
    """A perceptron with the parameters of the job's model of that number, in eval mode."""
    torch.set_num_threads(job.threads)
    state = {name: torch.from_numpy(values) for name, values in job.states[number].items()}
    weights = [values for name, values in state.items() if name.endswith("weight")]
    layers: list[nn.Module] = []
    for position, weight in enumerate(weights):
        if position:
            layers.append(ACTIVATIONS[job.activation]())
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
