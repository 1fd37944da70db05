"""``pixvoice`` in processes forked from one that has imported all: they start at once, and can be killed at any call.

A program, because forks of a test process would inherit its threads.  It reads its orders as JSON, one a line, and
answers each with a line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any


class Forked:
    """The test's end of the program: ``ask`` gives an order and waits for its answer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, order: str, **arguments: Any) -> Any:
        """What the function ``order`` of this file returns."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps([order, arguments]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, "the forking program ended; its standard error says why"
        return json.loads(line)


@contextmanager
def forked() -> Iterator[Forked]:
    """The program, as long as this is open."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Forked(process)
        assert process.stdin
        process.stdin.close()


def together(arguments: list[str], processes: int, sharding: bool = False) -> list[tuple[int, str]]:
    """Exit status and words of each of ``processes`` that run one command as ``torchrun`` starts them.

    With ``sharding`` they can shard a model.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / str(n) for n in range(processes)]
        begin = _take_the_cpu_for_a_gpu if sharding else _nothing
        ranks = {_fork(arguments, file, {**world, "RANK": n, "LOCAL_RANK": n}, begin): n for n, file in enumerate(said)}
        statuses: dict[int, int] = {}
        while len(statuses) < processes:
            ended, status = os.wait()
            statuses[ranks[ended]] = os.waitstatus_to_exitcode(status)
            if status:  # the launcher ends the others
                for other, rank in ranks.items():
                    if rank not in statuses:
                        os.kill(other, signal.SIGTERM)
        return [(statuses[n], file.read_text()) for n, file in enumerate(said)]


def calls(arguments: list[str]) -> int:
    """How many times the command calls a function, or comes back from one."""
    with tempfile.NamedTemporaryFile("r") as counted:
        assert _wait(_fork(arguments, begin=lambda: _count(counted.name))) == 0
        return int(counted.read())


def killed_at_call(arguments: list[str], call: int) -> int:
    """Exit status of the command, which is killed at a call of a function; that may come too late."""
    return _wait(_fork(arguments, begin=lambda: _die_at(call)))


def killed_at_byte(arguments: list[str], byte: int) -> int:
    """Exit status of the command, which is killed in the middle of a write, behind a file's byte number ``byte``."""
    return _wait(_fork(arguments, begin=lambda: _die_writing(byte)))


def _nothing() -> None:
    pass


def _fork(
    arguments: list[str],
    said: Path = Path(os.devnull),
    environment: Mapping[str, Any] = MappingProxyType({}),
    begin: Callable[[], None] = _nothing,
) -> int:
    from pixvoice import cli

    pid = os.fork()
    if pid:
        return pid
    try:
        os.environ.update({key: str(value) for key, value in environment.items()})
        for stream in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        begin()
        status = cli.run(arguments)
        sys.stderr.flush()
        os._exit(status)
    except BaseException:
        traceback.print_exc()
        os._exit(70)


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _count(path: str) -> None:
    seen = 0

    def count(*_: Any) -> None:
        nonlocal seen
        seen += 1

    exit_at_once = os._exit

    def write_and_exit(status: int) -> None:
        Path(path).write_text(str(seen))
        exit_at_once(status)

    os._exit = write_and_exit  # type: ignore[assignment]
    sys.setprofile(count)


def _die_at(call: int) -> None:
    left = call

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)


def _die_writing(byte: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python would make an error of it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (byte, byte))


def _take_the_cpu_for_a_gpu() -> None:
    """Accelerate shards on accelerators only, though torch's own FSDP and gloo do on a CPU too."""
    import torch.distributed
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


def main() -> None:
    """Import what trainings need, then obey."""
    import pixvoice.training.describer
    import pixvoice.training.full_describer
    import pixvoice.training.recognizer
    import pixvoice.training.runs
    import pixvoice.training.unit_describer
    import pixvoice.training.units  # noqa: F401

    for line in sys.stdin:
        order, arguments = json.loads(line)
        print(json.dumps(globals()[order](**arguments)), flush=True)


if __name__ == "__main__":
    main()
