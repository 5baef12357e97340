"""Two processes over gloo: sums, gradients, agreement and order; alone, everything is the identity."""

import json
import os
import socket
import subprocess
import sys

import torch

from components.shared.learning.group import Group


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def work(folder: str) -> None:
    group = Group("cpu")
    one, two = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))
    one.grad = torch.full((3,), group.rank + 1.0)
    if group.rank == 0:  # the other rank's part of the batch did not touch this parameter
        two.grad = torch.ones(2, 2)
    group.sum_gradients([one, two])
    found = {
        "size": group.size,
        "writes": group.writes,
        "share": list(group.share([0, 1, 2, 3, 4])),
        "gather": group.gather([item * 10 for item in group.share([0, 1, 2, 3, 4])]),
        "total": group.total(group.rank + 0.1, 5),
        "agreed": group.agreed({"from": group.rank}),
        "grads": [one.grad.tolist(), two.grad.tolist()],
    }
    group.wait()
    with open(f"{folder}/{group.rank}.json", "w") as file:
        json.dump(found, file)
    group.close()


def test_two_processes(tmp_path):
    started, port = [], str(free_port())
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        started.append(subprocess.Popen([sys.executable, __file__, str(tmp_path)], env=environment))
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [item["share"] for item in found] == [[0, 2, 4], [1, 3]]
    assert [item["writes"] for item in found] == [True, False]
    for item in found:
        assert item["size"] == 2
        assert item["gather"] == [0, 10, 20, 30, 40]
        assert item["total"] == [0.1 + 1.1, 10]
        assert item["agreed"] == {"from": 0}
        assert item["grads"] == [[3.0] * 3, [[1.0] * 2] * 2]


def test_alone_nothing_is_changed():
    group = Group("cpu")
    items = [1, 2, 3]
    assert (group.size, group.writes, group.device) == (1, True, "cpu")
    assert group.share(items) is items
    assert group.gather(items) == items
    assert group.total(0.1, 2) == [0.1, 2]
    assert group.agreed("x") == "x"


if __name__ == "__main__":
    work(sys.argv[1])
