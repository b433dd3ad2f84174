"""Losses and gradients equal those of other implementations, case by case.

The cases are tests/data/parity/*.npz and, where KD_PARITY_DIR is set, every *.npz of that folder too.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import asib, features, logits, methods, relational, review, stages

ADAPTERS = {
    name: adapter
    for module in (methods, logits, features, relational, review, stages, asib)
    for name, adapter in module.ADAPTERS.items()
}

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def cases():
    own = sorted((Path(__file__).parent / "data" / "parity").glob("*.npz"))
    found = [pytest.param(path, id=path.stem) for path in own]
    if folder := os.environ.get("KD_PARITY_DIR"):
        further = sorted(Path(folder).glob("*.npz"))
        assert further, f"KD_PARITY_DIR holds no case: {folder}"
        found += [pytest.param(path, id=f"further-{path.stem}", marks=pytest.mark.shared) for path in further]
    return found


def run_case(path):
    """Return (found, expected): the loss and its gradient by input name."""
    with np.load(path) as arrays:
        case = {name: arrays[name] for name in arrays.files}
    meta = json.loads(str(case.pop("meta")))
    if meta["method"] not in ADAPTERS:
        pytest.fail(f"{path.name}: no adapter for method '{meta['method']}', known are {', '.join(sorted(ADAPTERS))}")
    gradients = {name.removeprefix("out/grad/"): value for name, value in case.items() if name.startswith("out/grad/")}
    inputs = {
        name.removeprefix("in/"): torch.from_numpy(value).requires_grad_(name.removeprefix("in/") in gradients)
        for name, value in case.items()
        if name.startswith("in/")
    }
    loss = ADAPTERS[meta["method"]](inputs, meta["params"])
    found = torch.autograd.grad(loss, [inputs[name] for name in gradients])
    by_name = dict(zip(gradients, (gradient.numpy() for gradient in found), strict=True))
    return {"loss": loss.item(), **by_name}, {"loss": float(case["out/loss"]), **gradients}


@pytest.mark.parametrize("path", cases())
def test_loss_and_gradient_equal_the_reference(path):
    found, expected = run_case(path)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, **CLOSE, err_msg=f"{path.name}: {name}")


def test_every_adapter_has_a_case():
    covered = {param.values[0].stem.split("-")[0] for param in cases()}
    assert set(ADAPTERS) <= covered


def test_a_case_of_an_unknown_method_fails_and_names_it(tmp_path):
    path = tmp_path / "mystery-a.npz"
    np.savez(path, meta=json.dumps({"method": "mystery", "params": {}}))
    with pytest.raises(pytest.fail.Exception, match="no adapter for method 'mystery', known are"):
        run_case(path)
