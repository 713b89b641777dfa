"""A served bundle in a process of its own, which has never seen the classes of its networks: the logits of each mask."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from pwl_lab.loading.server import BundleServer

# The modules that define the networks lie here, and so does the process: it finds them as a reader's program does its own.
HELPERS = Path(__file__).parent
OPEN = """
import sys
import torch
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.loading.units import assemble
from pwl_lab.swap.masks import all_masks

address, inputs, answers = sys.argv[1:]
torch.set_num_threads(1)
samples = torch.load(inputs)
with ProgressiveModel.open(address, device="cpu", imports=True, keep_student=True) as model:
    model.wait(timeout=60)
    found = {mask: assemble(mask, model._student, model._teacher) for mask in all_masks(model.index.n_blocks)}
    with torch.inference_mode():
        logits = {mask: net(samples) for mask, net in found.items()}
    logits["predicted"] = model.predict(samples).logits
torch.save(logits, answers)
"""


def answers_elsewhere(bundle: Path, inputs: Tensor) -> dict[str, Tensor]:
    """The logits of every mask, and under `predicted` those of the model once it has loaded."""
    samples, answers = (bundle.with_name(f"{name}.pt") for name in ("samples", "answers"))
    torch.save(inputs, samples)
    with BundleServer(bundle) as server:
        command = [sys.executable, "-c", OPEN, server.url, str(samples), str(answers)]
        done = subprocess.run(command, cwd=HELPERS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(answers)
