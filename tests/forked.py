"""`edgedistill ARGUMENTS` in forks of one process that has made the imports.

Those take half the time of a short fit.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]


def run(arguments: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` of the command line, with its output as text."""
    process = server()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        request = {"arguments": arguments, "env": env, "cwd": os.getcwd()}
        process.stdin.write(json.dumps(request | {"out": str(out), "err": str(err)}) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        command = ["edgedistill", *arguments]
        return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())


@functools.cache
def server() -> subprocess.Popen[str]:
    """One for each process that runs tests, ready; it ends when its stdin does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )

    def end() -> None:
        process.communicate()

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _serve() -> None:
    _import()
    _say("ready")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        _say(str(code))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _import() -> None:
    """What a fit imports, and the exporter's table of operators.  Nothing here starts a thread."""
    import accelerate  # noqa: F401
    import onnxruntime  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import edgedistill.pipeline  # noqa: F401
    from edgedistill.export import onnx

    onnx.export(torch.nn.Linear(2, 2), (2,))


def _become(request: dict[str, object]) -> NoReturn:
    from edgedistill.cli import main

    code: object = 1
    try:
        for number, path in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
            handle = os.open(str(path), flags, 0o600)
            os.dup2(handle, number)
            os.close(handle)
        os.environ.clear()
        os.environ.update(request["env"])  # type: ignore[call-overload]
        os.chdir(str(request["cwd"]))
        sys.argv = ["edgedistill", *request["arguments"]]  # type: ignore[misc]
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve()
