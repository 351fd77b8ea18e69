"""Process groups on the GPU backends: one limit for all processes, kept entries of their own."""

import machines
import sharded
import sharded_device
import torch

from sinkhorn_ot import sinkhorn


def test_devices_agree_within_tol(host_library, tmp_path, monkeypatch):
    monkeypatch.setenv(machines.BUILT, str(host_library))
    parts = sharded.run(tmp_path, 2, sharded_device.on_a_device)
    for name, case in sharded_device.CASES.items():
        alone = sinkhorn(case.input(), backend="cpu", **{**case.options, "tol": 1e-9})
        first, second = (part[name] for part in parts)
        assert first.converged
        assert torch.equal(first.g, second.g)
        # each counts the reads of its own rows: a mass may underflow in one process alone
        violations = [[one.marginal_violation for one in r.history] for r in (first, second)]
        assert violations[0] == violations[1]
        labels = torch.cat((first.labels, second.labels))
        assert (labels == alone.labels).double().mean() > 0.998, name
        plan_mass = torch.cat((first.f, second.f)) - alone.f
        assert abs(plan_mass).mean() < 5e-3, name
    assert [part["nan"] for part in parts] == [
        "ValueError: rank 1: logits[700, 0] is nan (the first bad row is 700); logits must be "
        "finite, or -inf to forbid a pairing: look for a diverged network or an unnormalised input"
    ] * 2
