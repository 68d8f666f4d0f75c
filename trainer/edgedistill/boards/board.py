"""A board that is connected: what it is, and the runtime's command line there."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from edgedistill.boards import wheels
from edgedistill.boards.address import Address
from edgedistill.boards.connection import BoardError, Connection, printable
from edgedistill.boards.needs import needs_of
from edgedistill.boards.wheels import Facts, Needs, WheelError
from edgedistill_runtime import bundle

BUNDLE = "model.edge"
MAX_REPLY = 16 << 20
RUN_SECONDS = 600.0
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Ran:
    """How a command of the runtime ended on the board."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def sentence(self) -> str:
        """What it said last, for people."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        said = lines[-1] if lines else f"it ended with {self.exit_code} and said nothing"
        return said.removeprefix("edgedistill-run: ")


class Board:
    """Raises BoardError, from everything, where the board or the connection fails.

        with Board(Address.parse("ssh://pi@garden")) as board:
            board.provide(Needs("onnx"))
            board.put("model.edge", Path("model.edge"))
            print(board.run("bench", "model.edge").exit_code)

    Leaves nothing on the board but the cache of wheels, and not even that without `keep`.
    """

    def __init__(self, address: Address, keep: bool = True) -> None:
        self.address = address
        self._keep = keep
        self._connection = Connection(address)
        try:
            self.facts = self._facts()
        except BaseException:
            self.close()
            raise

    def provide(self, needs: Needs, folder: Path | None = None) -> list[str]:
        """Make the runtime run there.  -> names of the wheels that had to be copied"""
        try:
            files = wheels.find(self.facts, needs, folder)
        except WheelError as error:
            raise BoardError(f"{self.address}: {error}") from None
        by_digest = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in files}
        self._connection.send("wheels", digests=list(by_digest), keep=self._keep)
        missing = self._reply("missing")
        if not isinstance(missing, list) or not set(missing) <= set(by_digest):
            raise BoardError(f"{self.address} answers strangely; stopped")
        for digest in missing:
            path = by_digest[digest]
            size = path.stat().st_size
            with zipfile.ZipFile(path) as file:
                unpacked = sum(entry.file_size for entry in file.infolist())
            self._connection.send(
                "wheel", _chunks(path), digest=digest, size=size, unpacked=unpacked
            )
            self._connection.receive(RUN_SECONDS)
        return [by_digest[digest].name for digest in missing]

    def put(self, path: str, source: Path) -> None:
        """Copy a file into the board's fresh folder, where commands run.

        It has no answer: what went wrong with it is raised by what is asked next.
        """
        self._connection.send("put", _chunks(source), path=path, size=source.stat().st_size)

    def bring(self, path: Path, folder: Path | None = None) -> str:
        """Make a bundle, and users' own inputs for it, run there.  -> its name for `run`

        folder: as for `provide`.  Raises BundleError for a file that is none.
        """
        self.provide(needs_of(bundle.read(path).manifest, to_predict=True), folder)
        self.put(BUNDLE, path)
        return BUNDLE

    def hold(self) -> bool:
        """Whether the board is this connection's alone, until it closes, among those that ask."""
        self._connection.send("hold")
        return self._reply("held") is True

    def drop(self, paths: list[str]) -> None:
        """Remove copied files that are no longer needed."""
        self._connection.send("drop", paths=paths)

    def run(
        self,
        *words: str,
        stdin: Path | None = None,
        seconds: float = RUN_SECONDS,
        heard: Callable[[str, str], None] = lambda kind, text: None,
        follow: str | None = None,
        offset: int = 0,
        grown: Callable[[bytes], None] = lambda data: None,
        root: Mapping[str, str] | None = None,
    ) -> Ran:
        """`edgedistill-run WORDS` on the board, to its end.

        heard: told what it says as it says it, with "out" or "err".
        root: with these variables, as root: by sudo without a password, if it logs in as another.
        follow, offset, grown: a file it writes, from where on, and who is told its bytes.
        """
        size = 0 if stdin is None else stdin.stat().st_size
        data = iter(()) if stdin is None else _chunks(stdin)
        self._connection.send(
            *("run", data),
            words=list(words),
            size=size,
            follow=follow,
            offset=offset,
            root=None if root is None else dict(root),
        )
        texts = {"out": bytearray(), "err": bytearray()}
        while True:
            head, data_ = self._connection.receive(seconds)
            kind = head["kind"]
            if kind == "exit" and type(head.get("status")) is int:
                return self._ran(head["status"], texts)
            if kind == "file":
                grown(data_)
            elif kind in texts:
                texts[kind] += data_
                if len(texts[kind]) > MAX_REPLY:
                    raise BoardError(
                        f"{self.address} says more than {MAX_REPLY >> 20} MiB; stopped"
                    )
                heard(kind, printable(data_))
            else:
                raise BoardError(f"{self.address} answers strangely; stopped")

    def _ran(self, status: int, texts: dict[str, bytearray]) -> Ran:
        if status < 0:
            raise BoardError(
                f"{self.address}: edgedistill-run was ended by signal {-status}"
                + (", as it is when memory runs out; see dmesg there" if status == -9 else "")
            )
        return Ran(status, printable(bytes(texts["out"])), printable(bytes(texts["err"])))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _facts(self) -> Facts:
        names = [*wheels.NAMES, *wheels.EXTRAS.values()]
        self._connection.send("facts", names=names)
        try:
            return Facts.from_json(self._reply("facts"))  # type: ignore[arg-type]
        except (ValueError, KeyError, TypeError):
            raise BoardError(f"{self.address} answers strangely; stopped") from None

    def _reply(self, kind: str) -> object:
        head, data = self._connection.receive()
        try:
            if head["kind"] == kind:
                return json.loads(data)
        except (ValueError, RecursionError):
            pass
        raise BoardError(f"{self.address} answers strangely; stopped")


def _chunks(path: Path) -> Iterator[bytes]:
    """Exactly as many bytes as were announced, whatever becomes of the file meanwhile."""
    left = path.stat().st_size
    with path.open("rb") as file:
        while left:
            data = file.read(min(left, _CHUNK))
            if not data:
                raise BoardError(f"{path} became shorter while it was copied; try again")
            left -= len(data)
            yield data
