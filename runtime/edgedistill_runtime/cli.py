"""`edgedistill-run`: the commands of the board.  No decisions are made here, only said.

Exit codes: 0 within budget, 1 over budget, 2 cannot run, 3 inconclusive or invalid.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import click

from edgedistill_runtime import __version__
from edgedistill_runtime.errors import EdgeDistillError

if TYPE_CHECKING:
    from edgedistill_runtime.bench import BenchResult
    from edgedistill_runtime.evaluate import Evaluation
    from edgedistill_runtime.inputs import Item
    from edgedistill_runtime.manifest import Control, Manifest
    from edgedistill_runtime.store import Change

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="EDGEDISTILL_STATE",
    show_envvar=True,
    help="Folder of the installed bundles.  [default: /var/lib/edgedistill for root]",
)
MAX_SENTENCE = 1000
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON line, last on stdout.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__)
def cli() -> None:
    """Run EdgeDistill bundles on this board, and prove their budget.

    A bundle (model.edge) is written by `edgedistill fit` on the host.  Exit codes: 0 within budget,
    1 over budget, 2 cannot run, 3 inconclusive or invalid.
    """


@cli.command()
@BUNDLE
@click.option("--latency-ms", type=float, help="Override the limit at the budget's percentile.")
@click.option("--percentile", type=click.IntRange(1, 99), help="Percentile of --latency-ms.")
@click.option("--peak-ram-mib", type=float, help="Override the limit of the process's peak memory.")
@click.option("--size-mib", type=float, help="Override the limit of the bundle's size.")
@click.option("--cold-start-ms", type=float, help="Limit from process start to the first result.")
@click.option("--energy-mj", type=float, help="Limit of an inference, over the idle board's.")
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0.1, max=86_400),
    default=30,
    show_default=True,
    help="Most time spent on the latency runs.",
)
@click.option(
    "--sustained",
    "sustained_minutes",
    type=click.FloatRange(min=0, max=1440),
    default=0,
    metavar="MINUTES",
    help="Load the board for so long first: the figure of a warm board.",
)
@click.option(
    "--rate",
    "rate_hz",
    type=click.FloatRange(min=0.01, max=10_000),
    metavar="HZ",
    help="Calls a second.  [default: one after the other]",
)
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what was promised and measured to this file.",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Sign the certificate with this SSH key.",
)
@JSON
def bench(
    bundle: Path,
    max_seconds: float,
    sustained_minutes: float,
    rate_hz: float | None,
    certificate: Path | None,
    key: Path | None,
    as_json: bool,
    **overrides: float | None,
) -> None:
    """Measure a bundle on this machine against its budget.

    Golden outputs must agree first.  Then latency, memory, cold start and energy, each in processes
    of its own.  Exit 0 PASS, 1 FAIL, 3 INCONCLUSIVE or INVALID.
    """
    from edgedistill_runtime import store
    from edgedistill_runtime.bench import Settings
    from edgedistill_runtime.bench import bench as measure

    for name, value in overrides.items():
        if value is not None and not 0 < value < math.inf:
            raise click.BadParameter(
                "a limit must be over 0", param_hint=f"--{name.replace('_', '-')}"
            )
    if key is not None and certificate is None:
        raise click.UsageError("--key signs a certificate; give --certificate FILE too")
    if certificate is not None:
        from edgedistill_runtime import certificate as certificates

        certificates.refuse_other_files(certificate)
    how = Settings(max_seconds, sustained_minutes, rate_hz)
    result = measure(store.locate(bundle), overrides, settings=how)
    _print_bench(result)
    if certificate is not None:
        certificates.write(certificate, result, key)
        _say(f"wrote {certificate}{' and its signature' if key else ''}")
    if as_json:
        click.echo(result.to_json())
    sys.exit(result.exit_code)


@cli.command()
@click.argument("packs", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of the results.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=1),
    default=360,
    show_default=True,
    help="Most time spent; the most useful networks come first.",
)
@click.option("--allow-busy", is_flag=True, help="Measure although other programs are running.")
def calibrate(packs: Path, out: Path, threads: int, max_seconds: float, allow_busy: bool) -> None:
    """Measure how fast this board's kernels are, for the host to fit.

    PACKS is a folder that `edgedistill calibrate --packs` wrote there.  What is measured goes to
    the file OUT at once: started again, an interrupted calibration goes on where it was.
    """
    from edgedistill_runtime.calibrate import calibrate as measure

    def progress(done: int, count: int, seconds: float) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{done} of {count} measured, {seconds:.0f} s", nl=False, err=True)

    measured = measure(packs, out, threads, max_seconds, allow_busy, progress)
    _say(f"{measured} networks measured; take {out} to the host: edgedistill calibrate --results")


def _words(context: click.Context, option: click.Parameter, value: str | None) -> list[str] | None:
    """A command line's words, as a shell would take them apart."""
    if value is None:
        return None
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no command line ({error})") from None
    if not words:
        raise click.BadParameter("give a command, such as 'arecord -q -t raw'")
    return words


@cli.command()
@BUNDLE
@click.argument("inputs", nargs=-1)
@click.option(
    "--source-cmd",
    metavar="COMMAND",
    callback=_words,
    help="Classify what this command writes to its stdout, as long as it runs.  No shell reads "
    "it: for pipes and variables give sh -c '…'.",
)
@click.option(
    "--framing",
    metavar="NAME",
    help="What the command writes.  [default: by the bundle, the first of its line above]",
)
@click.option(
    "--when-late",
    type=click.Choice(["drop", "wait"]),
    help="If it writes faster than can be classified: drop all but the newest and count them, or "
    "let it wait.  [default: wait for texts, else drop]",
)
@click.option(
    "--source-timeout",
    type=click.FloatRange(min=0, max=86_400),
    metavar="SECONDS",
    help="Give up if it writes nothing for so long; 0 is never.  "
    "[default: 30 for images and audio, else 0]",
)
@click.option("--once", is_flag=True, help="End after the first sample that was classified.")
def predict(
    bundle: Path,
    inputs: tuple[str, ...],
    source_cmd: list[str] | None,
    framing: str | None,
    when_late: str | None,
    source_timeout: float | None,
    once: bool,
) -> None:
    """Classify INPUTS: files of what the model takes, folders of them, or - for JSON Lines.

    Images: image files and .npy.  Audio: .wav and .npy.  Sensors: .csv (a header line, a column a
    channel, a line a step) and .npy.  Texts: .txt with a text a line.  Each also as .jsonl, with
    {"id": "…", "input": [[…]]} or {"id": "…", "input": "text"} a line.  A recording that is longer
    than the model's window is classified window by window.

    Prints one JSON object a line; a bad input is an object with "error", and the exit code is then
    2.

    Instead of INPUTS, --source-cmd takes a camera's, microphone's or sensor's command:

    \b
      predict MODEL --source-cmd 'rpicam-vid -n -t 0 --codec mjpeg -o -'
      predict MODEL --source-cmd 'arecord -q -f S16_LE -r 16000 -c 1 -t raw'

    It ends with the command, or cleanly on SIGTERM and Ctrl-C, and the command with it.  --framing:

    \b
      images: images (JPEG or PNG, one after the other), rgb24:WIDTHxHEIGHT
      audio:  s16le (at the bundle's rate), s16le:CHANNELS (their mean is taken)
      sensor: csv (a line a step), f32le (a float a channel, step by step)
      text:   lines
    """
    _check_predict(click.get_current_context().params)
    from edgedistill_runtime.errors import InputError
    from edgedistill_runtime.inputs import read_items
    from edgedistill_runtime.model import load
    from edgedistill_runtime.service import Serving

    model = load(bundle)
    spec, failed = model.manifest.sample, False
    with contextlib.ExitStack() as stack:
        items: Iterable[Item]
        if source_cmd is None:
            service = stack.enter_context(Serving(signal.SIGTERM))
            items = (item for name in inputs for item in read_items(name, sys.stdin.buffer, spec))
        else:
            from edgedistill_runtime.streams import Source

            service = stack.enter_context(Serving(signal.SIGTERM, signal.SIGINT))
            source = Source(
                *(source_cmd, spec, framing or "auto", when_late, source_timeout),
                undisturbed=service.undisturbed,
            )
            items = stack.enter_context(source)
        for item in items:
            row: dict[str, Any] = {"id": item.id}
            if item.dropped is not None:
                row["dropped"] = item.dropped
            try:
                if item.sample is None:
                    raise InputError(str(item.error))
                row |= dataclasses.asdict(service.call(model.predict, item.sample))
            except InputError as error:
                row["error"] = str(error)
            service.write(json.dumps(row))
            failed |= "error" in row
            if once and "error" not in row:
                return
    sys.exit(2 if failed else 0)


def _check_predict(given: Mapping[str, Any]) -> None:
    """Raises UsageError if the parameters of `predict` do not go together."""
    if given["source_cmd"] is None:
        if not given["inputs"]:
            raise click.UsageError("Missing argument 'INPUTS...', or --source-cmd COMMAND")
        for name in ("framing", "when_late", "source_timeout"):
            if given[name] is not None:
                option = f"--{name.replace('_', '-')}"
                raise click.UsageError(f"{option} is about a command; give --source-cmd too")
    elif given["inputs"]:
        raise click.UsageError("give INPUTS or --source-cmd, not both")


@cli.command()
@BUNDLE
@click.argument("split", type=click.Path(path_type=Path))
@JSON
def evaluate(bundle: Path, split: Path, as_json: bool) -> None:
    """The metric of a bundle over a labelled SPLIT, on this machine.

    SPLIT is a .jsonl with {"input": …, "label": "name"} a line (a list of names where a sample may
    have several), or but for texts an .npz with x and y.
    """
    from edgedistill_runtime.evaluate import evaluate as measure

    result = measure(bundle, split)
    _say(f"{result.metric} {result.value:.4f} over {result.samples} samples{_answered(result)}")
    if as_json:
        click.echo(result.to_json())


@cli.command()
@BUNDLE
@JSON
def inspect(bundle: Path, as_json: bool) -> None:
    """What a bundle is and promises.  Checks its files, and needs no engine."""
    from edgedistill_runtime import bundle as bundles
    from edgedistill_runtime.signing import standing
    from edgedistill_runtime.store import locate, pinned_signers

    opened = bundles.read(locate(bundle))
    if as_json:
        click.echo(json.dumps({"id": opened.id, **dataclasses.asdict(opened.manifest)}))
        return
    m = opened.manifest
    limits = {k: v for k, v in dataclasses.asdict(m.budget).items() if v is not None}
    for name, value in {
        "name": f"{m.name}, version {m.version}",
        "id": opened.id,
        "task": f"{m.task}, {len(m.labels)} labels",
        "sample": _sample(m),
        "steps": _steps(m.preprocess),
        "answer": _steps(m.postprocess),
        "model": f"{m.backend.name}, {m.precision}, {m.backend.threads} thread(s)",
        "size": f"{opened.size / 2**20:.3f} MiB in {len(m.files) + 1} files",
        m.accuracy.metric: f"{m.accuracy.student:.4f} ({_teacher(m.accuracy.teacher)}, "
        f"{m.accuracy.samples} test samples)",
        "control": _control(m.accuracy.control),
        "budget": f"{m.board.profile}: " + ", ".join(f"{k} {v:g}" for k, v in limits.items()),
        "signed": standing(opened, pinned_signers()),
    }.items():
        click.echo(f"{name:9} {value}")


@cli.command()
@BUNDLE
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Check too that this certificate of `bench` is this bundle's, and its signature.",
)
@click.option(
    "--signers",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Who may have signed it (an OpenSSH allowed_signers file).  [default: those pinned here]",
)
@JSON
def verify(bundle: Path, certificate: Path | None, signers: Path | None, as_json: bool) -> None:
    """Check a bundle's files, its model, and its golden outputs on this machine."""
    from edgedistill_runtime.model import load

    if signers is not None and certificate is None:
        raise click.UsageError("--signers is about a certificate; give --certificate FILE too")
    certified = None
    if certificate is not None:
        from edgedistill_runtime import bundle as bundles
        from edgedistill_runtime.certificate import check, signature_path
        from edgedistill_runtime.store import locate, pinned_signers

        if signers is None and signature_path(certificate).exists():
            signers = pinned_signers()
        certified = check(certificate, bundles.read(locate(bundle)).id, signers)
    model = load(bundle)
    difference = model.check_golden()
    m = model.manifest
    _say(
        f"{m.name} version {m.version}: {len(m.files)} files as packed; {m.golden.count} golden "
        f"outputs within {difference:.2g} (at most {m.golden.atol:.2g}) "
        f"on {model.engine} {model.engine_version}"
    )
    row: dict[str, Any] = {"id": model.bundle_id, "golden_difference": difference}
    if certified is not None:
        by = f"signed by {certified.signer}" if certified.signer else "not signed"
        _say(
            f"certificate of {certified.date}: {certified.verdict}, {certified.standing} on "
            f"{certified.board or 'an unnamed board'}; {by}"
        )
        row["certificate"] = dataclasses.asdict(certified)
    if as_json:
        click.echo(json.dumps(row))


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@JSON
def doctor(bundle: Path | None, as_json: bool) -> None:
    """Whether this board can run bundles, or this BUNDLE, and what to do where it cannot.

    Exit 2 if something keeps it from running.
    """
    from edgedistill_runtime import doctor as doctors

    findings = doctors.examine(bundle)
    for finding in findings:
        advice = f"; {finding.advice}" if finding.advice else ""
        _say(f"{finding.level:8} {finding.name:12} {finding.found}{advice}")
    code = doctors.exit_code(findings)
    _say("\nit cannot run here" if code else "\nnothing keeps it from running here")
    if as_json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        click.echo(json.dumps({"runs": not code, "findings": rows}))
    sys.exit(code)


@cli.command()
@click.argument("bundle")
@click.option("--as", "name", metavar="NAME", help="Install under this name.  [default: its own]")
@click.option("--allow-downgrade", is_flag=True, help="Take an older version than one before.")
@click.option(
    "--signers",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take only bundles by these signers, from now on (an OpenSSH allowed_signers file).",
)
@STATE
@JSON
def install(
    bundle: str,
    name: str | None,
    allow_downgrade: bool,
    signers: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Install BUNDLE (a file, or - for stdin) on this board, and let it run.

    It is tried first, in a process of its own: golden outputs, and memory against its budget.  If
    anything goes wrong, the one before runs as it did.  `predict NAME` and load("NAME") find it.
    """
    from edgedistill_runtime import store
    from edgedistill_runtime.errors import BundleError

    try:
        with _source(bundle) as source:
            change = store.Store(store.state_folder(state)).install(
                source, name, allow_downgrade, signers
            )
    except BundleError as error:
        raise BundleError(f"{bundle}: {error}") from None
    _print_change(change, as_json)


@cli.command("list")
@STATE
@JSON
def list_(state: Path | None, as_json: bool) -> None:
    """What is installed on this board, and which version runs."""
    from edgedistill_runtime import store

    opened = store.Store(store.state_folder(state))
    rows = [(name, opened.state(name)) for name in opened.names()]
    rows = [(name, found) for name, found in rows if found.active is not None]
    for name, found in rows if not as_json else []:
        for entry in found.kept:
            role = "active" if entry is found.active else "previous"
            by = f", signed by {entry.signer}" if entry.signer else ""
            click.echo(
                f"{name:24} {role:9} version {entry.version}, {entry.id[:12]}, "
                f"{entry.size / 2**20:.3f} MiB{by}"
            )
    if not rows:
        _say(f"nothing is installed in {opened.folder}")
    if as_json:
        bundles = [{"name": name, **dataclasses.asdict(found)} for name, found in rows]
        click.echo(json.dumps({"state": str(opened.folder), "bundles": bundles}))


@cli.command()
@click.argument("name")
@click.argument("id_", metavar="ID")
@STATE
@JSON
def activate(name: str, id_: str, state: Path | None, as_json: bool) -> None:
    """Let the kept bundle of NAME run whose id begins with ID (see `list`)."""
    from edgedistill_runtime import store

    _print_change(store.Store(store.state_folder(state)).activate(name, id_), as_json)


@cli.command()
@click.argument("name")
@STATE
@JSON
def rollback(name: str, state: Path | None, as_json: bool) -> None:
    """Let the bundle of NAME run that ran before."""
    from edgedistill_runtime import store

    _print_change(store.Store(store.state_folder(state)).rollback(name), as_json)


@cli.command()
@click.argument("name")
@click.argument("id_", metavar="[ID]", required=False)
@STATE
def remove(name: str, id_: str | None, state: Path | None) -> None:
    """Remove all bundles of NAME, or only the one before, whose id begins with ID."""
    from edgedistill_runtime import store

    gone = store.Store(store.state_folder(state)).remove(name, id_)
    _say(f"removed {len(gone)} of {name}: {', '.join(i[:12] for i in gone) or 'nothing was left'}")


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--install", "to_install", is_flag=True, help="Write it to /etc/systemd/system too.")
@click.option("--now", is_flag=True, help="And let systemd run it: now, and whenever it boots.")
@click.option(
    "--extra-ram-mib",
    type=click.FloatRange(min=0),
    default=0,
    show_default=True,
    help="Memory over the budget, for what else runs in the service, such as a camera's command.",
)
def service(
    name: str, arguments: tuple[str, ...], to_install: bool, now: bool, extra_ram_mib: float
) -> None:
    """Print a systemd unit that runs `predict NAME ARGUMENTS`, with the options of `predict`.

    NAME is an installed bundle; its budget is the unit's limit of memory.  A --source-cmd needs
    absolute paths, and may read only what stands in it of folders such as /home.
    """
    from edgedistill_runtime import service as services
    from edgedistill_runtime import store

    if now and not to_install:
        raise click.UsageError("--now is for a unit that is written; give --install too")
    with predict.make_context("edgedistill-run predict", [name, *arguments]) as context:
        _check_predict(context.params)  # not run: what predict would refuse is refused here
    found = store.of(name)
    manifest = found.open_active(name).manifest
    if context.params["framing"] is not None:
        from edgedistill_runtime.streams import framing

        framing(context.params["framing"], manifest.sample)
    budget = manifest.budget
    if budget.peak_ram_mib is None:
        _say("no limit of memory: the bundle has none in its budget (peak_ram_mib)")
    unit = services.unit(name, arguments, found.folder, budget.peak_ram_mib, extra_ram_mib)
    click.echo(unit, nl=False)
    if to_install:
        path = services.install(unit, name)
        if now and services.start(path):
            _say(f"written: {path}\nit runs; see systemctl status {path.name}")
        else:
            absent = "; systemd does not run here" if now else ""
            command = f"systemctl daemon-reload && systemctl enable --now {path.name}"
            _say(f"written: {path}{absent}\nnow: {command}")


def _source(bundle: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if bundle == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    from edgedistill_runtime.errors import BundleError

    if os.path.exists(bundle) and not os.path.isfile(bundle):  # a pipe's name would block
        raise BundleError("not a file; give the path of a bundle (model.edge)")
    return open(bundle, "rb")


def _print_change(change: Change, as_json: bool) -> None:
    found = change.health
    memory = "" if found.peak_ram_mib is None else f", {found.peak_ram_mib:.1f} MiB at its peak"
    _say(
        f"{change.name} version {change.active.version} ({change.active.id[:12]}) runs; golden "
        f"outputs within {found.golden_difference:.2g} on {found.engine}{memory}"
    )
    if found.warning is not None:
        _say(f"warning: {found.warning}")
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(change)))


def _sample(m: Manifest) -> str:
    if m.sample.kind == "text":
        step = m.preprocess[0]
        return f"text, {step.get('max_length')} tokens of {step.get('max_characters')} characters"
    shape = str(list(m.sample.shape))
    if m.sample.any_size:
        shape = f"of any size, {m.sample.shape[2]} channel(s)"
    text = f"{m.sample.kind}, {m.sample.dtype} {shape}"
    if m.sample.rate_hz is not None:
        text += f", {m.sample.rate_hz:g} a second ({m.sample.shape[-1] / m.sample.rate_hz:g} s)"
    return text if m.sample.hop is None else f"{text}, a window every {m.sample.hop}"


def _steps(steps: tuple[dict[str, Any], ...]) -> str:
    """Their names, each with the arguments that are one word or number."""
    texts = []
    for step in steps:
        plain = [f"{k} {v}"[:80] for k, v in step.items() if k != "op" and not _is_nested(v)]
        texts.append(str(step.get("op"))[:80] + (f" ({', '.join(plain)})" if plain else ""))
    return ", ".join(texts) or "none"


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict)


def _answered(result: Evaluation) -> str:
    if result.answered is None:
        return ""
    if result.answered_metric is None:
        return "; none over the threshold"
    return (
        f"; {result.answered:.1%} over the threshold, accuracy {result.answered_metric:.4f} there"
    )


def _teacher(metric: float | None) -> str:
    return "no teacher" if metric is None else f"teacher {metric:.4f}"


def _control(c: Control | None) -> str:
    if c is None:
        return "not measured"
    return f"gain {c.gain:+.4f} over no teacher ({c.low:+.4f} to {c.high:+.4f}, {c.seeds} seeds)"


def _print_bench(result: BenchResult) -> None:
    timing = result.latency_ms
    _say(
        f"golden   outputs agree within {result.golden_difference:.2g} ({result.engine})\n"
        f"latency  p50 {timing['p50']:.4f}  p95 {timing['p95']:.4f}  p99 {timing['p99']:.4f} ms  "
        f"({timing['runs']} runs after {timing['warm_up_runs']} to warm up, worth "
        f"{timing['effective_runs']:g}, in {len(timing['processes'])} processes)\n"
        f"memory   {result.peak_ram_mib:.1f} MiB at its peak"
    )
    energy = result.energy_mj
    if energy is not None and energy["meter"] is not None:
        _say(
            f"energy   {energy['net']:.4g} mJ over idle, {energy['gross']:.4g} mJ in all "
            f"({energy['meter']})"
        )
    _say(
        f"board    {result.board or 'unknown'}{' (emulated)' if result.emulated else ''}, "
        f"budget of {result.profile}"
    )
    for note in result.notes:
        _say(f"note     {note}")
    _say(f"\n{'budget':<18}{'limit':>10}{'value':>10}  {'standing':<19}ok")
    for line in result.budget:
        ok = {True: "yes", False: "NO", None: "?"}[line.ok]
        value = "-" if line.value is None else f"{line.value:.4g}"
        _say(f"{line.name:<18}{line.limit:>10.4g}{value:>10}  {line.standing:<19}{ok}")
    _say(f"\n{result.verdict}: {result.reason}")


def _say(text: str) -> None:
    click.echo(text, err=True)


def main() -> NoReturn:
    """Entry point of `edgedistill-run`."""
    run_command(cli, "edgedistill-run")


def run_command(command: click.Group, program: str) -> NoReturn:
    """Run a command line; every expected error becomes one sentence on stderr and an exit code."""
    try:
        with command.make_context(program, sys.argv[1:]) as context:
            command.invoke(context)  # not main(): it makes a closed pipe exit 1, "over budget"
        code = 0
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except click.ClickException as error:
        code = _fail(program, error.format_message(), 2)
    except EdgeDistillError as error:
        code = _fail(program, str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more
        code = 141  # as if SIGPIPE had ended it; no verdict was heard
    except MemoryError:
        code = _fail(program, "out of memory", 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(program, f"{where}{error.strerror or error}", 2)
    sys.exit(code)


def _fail(program: str, sentence: str, code: int) -> int:
    line = " ".join(sentence.split())
    _say(f"{program}: {line if len(line) <= MAX_SENTENCE else line[:MAX_SENTENCE] + '…'}")
    return code


if __name__ == "__main__":
    main()
