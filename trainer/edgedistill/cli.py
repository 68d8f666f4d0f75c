"""`edgedistill`: the commands of the host.  No decisions are made here, only said.

Exit codes: 0 within budget (or estimated to be), 1 over budget or outside the accuracy gate,
2 cannot run.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from edgedistill import __version__
from edgedistill_runtime.cli import run_command

if TYPE_CHECKING:
    from edgedistill.boards import Address
    from edgedistill.calibrate import Calibration
    from edgedistill.deploy import Deployment, Outcome
    from edgedistill.estimate import Estimate
    from edgedistill.profiles import DeviceProfile
    from edgedistill.report import FitResult
    from edgedistill.search import Plan

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON line, last on stdout.")

Command = TypeVar("Command", bound=Callable[..., Any])


def _size(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> int | tuple[int, int] | None:
    """Of "64" or "48x64"."""
    if value is None:
        return None
    sides = value.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise click.BadParameter(f"{value!r} is no size; give a side (64) or HEIGHTxWIDTH (48x64)")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _numbers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, ...]:
    """Of "0.5,0.4"."""
    try:
        numbers = tuple(float(part) for part in value.split(",")) if value else ()
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise click.BadParameter(f"{value!r} is not numbers with commas between, such as 0.5,0.4")
    return numbers


def _several(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Options that commands share, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


COLUMNS = _several(
    click.option("--text-column", help="Column of the texts.  [default: found]"),
    click.option("--label-column", help="Column of the labels.  [default: found]"),
    click.option("--group-column", help="Column of groups that no split may share."),
)
WHEELS = click.option(
    "--wheels",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder to take the board's wheels from.  [default: the package index]",
)
BUNDLE_OPTIONS = _several(
    click.option("--name", help="Name of the bundle.  [default: from data and profile]"),
    click.option("--version", type=click.IntRange(0), help="Version of the bundle.  [default: 1]"),
)
LIMITS = _several(
    click.option("--latency-ms", type=float, help="Limit of one call, at --percentile."),
    click.option("--percentile", type=int, help="50, 95 or 99.  [default: 95]"),
    click.option("--peak-ram-mib", type=float, help="Limit of the process's peak memory."),
    click.option("--size-mib", type=float, help="Limit of the bundle's size."),
    click.option(
        "--cold-start-ms", type=float, help="Limit from process start to the first result."
    ),
    click.option(
        "--energy-mj", type=float, help="Limit of an inference, over what the idle board takes."
    ),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__)
def cli() -> None:
    """Distil a large teacher into a small student that fits a board's latency and memory budget.

    `edgedistill fit --profile rpi4` makes a bundle; `edgedistill-run bench` proves it on the board.
    """


@cli.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--profile", help="Device profile: a built-in name (see `profiles`) or a TOML file.")
@click.option(
    "--task",
    metavar="NAME",
    help="image-, audio-, sensor- or text-classification; else the data's.",
)
@click.option(
    "--data",
    help="'digits'; a folder of folders, one a class, of images, .wav or .csv files; an .npz with "
    "x and y; a table of texts (.csv, .tsv, .jsonl, .parquet) or of sensor readings (.csv); a "
    "folder of tables, or a data set of `datasets`.",
)
@COLUMNS
@click.option(
    "--label-separator", help="What stands between several labels of a text; makes it multi-label."
)
@click.option("--unlabelled", metavar="FILE", help="More texts, for soft targets alone.")
@click.option("--max-length", type=int, help="Most tokens of a text.  [default: 64]")
@click.option(
    "--image-size",
    callback=_size,
    metavar="N|HxW",
    help="Size that images are brought to.  [default: their own, or 64]",
)
@click.option(
    "--image-fit",
    metavar="crop|pad|stretch",
    help="What happens to images of another shape.  [default: crop]",
)
@click.option(
    "--image-colours",
    metavar="auto|grey|rgb",
    help="Colours of a sample; auto is grey where all images are.  [default: auto]",
)
@click.option("--sample-rate-hz", type=int, help="Of sound, on the board.  [default: 16000]")
@click.option(
    "--window-s",
    type=float,
    help="Sound that is classified at once.  [default: the longest clip, up to 2]",
)
@click.option(
    "--hop-s", type=float, help="From one window of sound to the next.  [default: the window]"
)
@click.option("--mel-bands", type=int, help="Bands of the spectrogram of sound.  [default: 40]")
@click.option(
    "--window", type=int, help="Steps of sensor readings classified at once.  [default: 128]"
)
@click.option("--hop", type=int, help="Steps from one window to the next.  [default: half of it]")
@click.option("--metric", metavar="accuracy|f1_macro", help="[default: accuracy]")
@click.option(
    "--class-weights", metavar="none|balanced", help="Of the hard labels.  [default: none]"
)
@click.option(
    "--teacher",
    help="'auto' (trained here), a folder or hub id of transformers, module:function, or an .onnx "
    "file.  [default: auto]",
)
@click.option("--trust-remote-code", is_flag=True, default=None, help="Run a hub teacher's code.")
@click.option(
    "--calibrate/--no-calibrate",
    default=None,
    help="Make a score of 0.8 right in about 80 of 100 cases.  [default: calibrate]",
)
@click.option(
    "--unknown",
    metavar="SHARE",
    type=float,
    help='Answer "unknown" where needed for this share of right answers.  [default: 0, never]',
)
@click.option("--top-k", type=int, help="Labels in an answer's `top`.  [default: 1]")
@BUNDLE_OPTIONS
@click.option(
    "--student",
    metavar="FAMILY",
    help="convnet (images, sound, sensors), vit (images, sound), transformer or static (texts).  "
    "[default: all of the task's]",
)
@click.option(
    "--trials",
    metavar="N",
    type=int,
    help="Distil the N best candidates briefly, and go on with the best.  [default: 0, none]",
)
@click.option(
    "--storage",
    metavar="URL|FILE",
    help="Where several workers share the trials: sqlite:///trials.db, or a journal's file.",
)
@click.option(
    "--distill",
    metavar="METHOD",
    help="soft, hint-then-soft, attention, relation, assistant or finetune.  [default: soft]",
)
@click.option(
    "--control",
    metavar="SEEDS",
    type=int,
    help="Train so many students with and without the teacher, and report the gain.  [default: 0]",
)
@LIMITS
@click.option(
    "--min-retention", type=float, help="Least share of the teacher's metric.  [default: 0.95]"
)
@click.option("--precision", metavar="auto|float32|float16|int8|int4", help="[default: auto]")
@click.option(
    "--backend",
    metavar="auto|onnx|tflite",
    help="Form of the model.  [default: ONNX, or TFLite where the board runs only that]",
)
@click.option(
    "--target",
    metavar="local|ssh://…",
    help="Measure the best candidates and the bundle there.  [default: predictions alone]",
)
@click.option(
    "--target-seconds",
    metavar="S",
    type=float,
    help="After so long no further candidate is measured.  [default: 300]",
)
@click.option(
    "--wheels",
    metavar="DIR",
    help="Folder to take the target's wheels from.  [default: the package index]",
)
@click.option("--device", metavar="auto|cpu|cuda|mps", help="Where to train.  [default: auto]")
@click.option("--mixed-precision", metavar="no|bf16|fp16", help="Of training.  [default: no]")
@click.option("--cache-mib", type=int, help="Most for a teacher's features.  [default: 2048]")
@click.option("--log", metavar="tensorboard", help="Curves of training, under OUT/work.")
@click.option("--seed", type=click.IntRange(0), help="Seed of everything random.  [default: 0]")
@click.option("--out", metavar="DIR", help="Folder of the results.  [default: build/DATA-PROFILE]")
@click.option(
    "--fresh", is_flag=True, help="Forget finished stages of an earlier run in that folder."
)
@click.option(
    "--plan", "plan_only", is_flag=True, help="List the candidates and their cost; train nothing."
)
@JSON
def fit(recipe: Path | None, fresh: bool, plan_only: bool, as_json: bool, **options: Any) -> None:
    """Pick a student inside a board's budget, distil it, quantize, export, check and pack it.

    RECIPE is a TOML file; every option can stand in it under the same name, with _ for -, and so
    can [training], [teacher_training], spec and [[stages]] (docs/distillation.md).  Options win
    over the recipe, the recipe wins over the profile.  With a profile alone, scikit-learn's digits
    are fitted.

    Writes OUT/model.edge, OUT/report.json and the test split.  A run that was interrupted continues
    where it was when it is started again.  `accelerate launch --multi_gpu --num_processes N -m
    edgedistill.cli fit …` trains in N processes, on CPUs too.

    With --target, the best candidates are measured there before one is trained, and the bundle at
    the end (docs/search.md); with --plan as well, the measured figures stand beside the predicted.

    \b
    Exit codes: 0 the budget is kept (or estimated to be), 1 it is not, 2 cannot run, 3 the target's
    runs do not decide it.
    """
    from edgedistill.pipeline import fit as run
    from edgedistill.pipeline import measured_plan, plan
    from edgedistill.recipe import Recipe

    made = Recipe.build(recipe, options)
    if plan_only and made.target:
        with _Drawing() as progress:
            found = measured_plan(made, fresh=fresh, progress=progress)
        _print_measured_plan(found, made.target)
    elif plan_only:
        found = plan(made)
        _print_plan(found)
    if plan_only:
        if as_json:
            click.echo(json.dumps(found.to_json()))
        found.require()
        return
    if os.environ.get("RANK", "0") != "0":  # a helper that accelerate started; the first one speaks
        sys.exit(run(made, fresh=fresh).exit_code)
    with _Drawing() as progress:
        result = run(made, fresh=fresh, progress=progress)
    _print_result(result)
    if as_json:
        click.echo(json.dumps(result.report, ensure_ascii=False))
    sys.exit(result.exit_code)


@cli.command()
@click.argument("data", required=False)
@click.option("--profile", default="rpi4", show_default=True, help="Device profile, as in fit.")
@COLUMNS
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("recipe.toml"),
    show_default=True,
    help="The recipe to write.",
)
@click.option("--force", is_flag=True, help="Replace a recipe that is there.")
def init(
    data: str | None,
    profile: str,
    out: Path,
    force: bool,
    text_column: str | None,
    label_column: str | None,
    group_column: str | None,
) -> None:
    """Look at DATA (as fit's --data), and write a commented recipe that `edgedistill fit` takes.

    Without DATA: what they may look like.
    """
    from edgedistill import scaffold
    from edgedistill.data import Columns

    if data is None:
        _say(scaffold.DATA_MAY_BE)
        sys.exit(2)
    columns = Columns(text_column or "", label_column or "", group_column or "")
    made = scaffold.propose(data, profile, columns)
    scaffold.write(out, made.recipe, force)
    for line in made.found:
        click.echo(line)
    click.echo(f"wrote {out}; next: {scaffold.next_command(out)}")


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--task", metavar="KIND-classification", required=True, help="image-, audio-, sensor- or text-."
)
@click.option("--profile", required=True, help="Device profile, as in fit.")
@click.option(
    "--labels",
    metavar="FILE|a,b,c",
    required=True,
    help="Names of the classes, in the order of the model's output: a file with one a line, or a "
    "JSON list, or the names themselves.",
)
@click.option(
    "--data",
    default="",
    help="The labelled test split, as fit's --data: its accuracy is measured, and the golden "
    "samples are taken from it.",
)
@COLUMNS
@click.option(
    "--preprocess",
    default="",
    metavar="STEPS.toml|json",
    help="Steps from a sample to the model's input.  [default: what its shape asks for]",
)
@click.option(
    "--mean",
    callback=_numbers,
    metavar="A,B,C",
    help="Subtracted from each channel (of images, of pixels of 0 to 1).  [default: 0]",
)
@click.option(
    "--std",
    callback=_numbers,
    metavar="A,B,C",
    help="What each channel is divided by.  [default: 1]",
)
@click.option("--tokenizer", default="", metavar="FILE", help="tokenizer.json of a text's model.")
@click.option("--max-length", type=int, help="Most tokens of a text.  [default: 64]")
@click.option(
    "--image-fit",
    metavar="crop|pad|stretch",
    help="What happens to images of another shape.  [default: crop]",
)
@click.option("--sample-rate-hz", type=int, help="Of sound.  [default: 16000]")
@click.option(
    "--window-s", type=float, help="Sound that is classified at once.  [default: from its input]"
)
@click.option(
    "--hop-s", type=float, help="From one window of sound to the next.  [default: the window]"
)
@click.option("--hop", type=int, help="Steps from one window of readings to the next.")
@click.option("--metric", metavar="accuracy|f1_macro", help="[default: accuracy]")
@BUNDLE_OPTIONS
@LIMITS
@click.option("--seed", type=click.IntRange(0), help="Of the golden samples.  [default: 0]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("model.edge"),
    show_default=True,
    help="The bundle to write.",
)
@JSON
def pack(
    model: Path,
    labels: str,
    preprocess: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    tokenizer: str,
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a bundle of MODEL, an .onnx or .tflite file that was trained elsewhere.

    The model gets preprocessing, golden samples and a budget, and is judged by what is predicted
    for the board (docs/packing-your-own-model.md).

    \b
    Exit codes: 0 the budget is kept (or estimated to be), 1 it is not, 2 cannot run.
    """
    from edgedistill.external import Order
    from edgedistill.external import pack as run
    from edgedistill.recipe import Recipe

    recipe = Recipe.build(None, options)
    result = run(Order(model, labels, recipe, preprocess, mean, std, tokenizer, out))
    r = result.report
    for note in r["notes"]:
        _say(note)
    steps = ", ".join(step["op"] for step in r["preprocess"])
    _say(f"{r['task']}, {r['precision']}: {r['params']:,} parameters, {r['macs']:,} MACs; {steps}")
    _say(f"{r['metric']} {r['value']:.4f} over {r['test_samples']:,} samples")
    _print_budget(result)
    if as_json:
        click.echo(json.dumps(r, ensure_ascii=False))
    sys.exit(result.exit_code)


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--profile", required=True, help="Device profile, as in fit.")
@click.option("--threads", type=click.IntRange(1, 256), help="Of the engine.  [default: profile's]")
@click.option(
    "--length",
    type=click.IntRange(1, 65_536),
    help="What a dimension that the model leaves open is, such as the tokens of a text.  "
    "[default: 64]",
)
@JSON
def estimate(
    model: Path, profile: str, threads: int | None, length: int | None, as_json: bool
) -> None:
    """What MODEL (.onnx, .tflite or .edge, made here or not) will cost on a board.

    Latency with its interval, peak memory, cold start, size, and what the layers cost by class.
    Of a bundle the latency is that of a whole call; of a model file it is the engine's alone.
    """
    from edgedistill.estimate import estimate as price

    found = price(model, profile, threads=threads, length=length)
    _print_estimate(found)
    if as_json:
        click.echo(json.dumps(found.to_json()))


@cli.command()
@click.option("--save", metavar="NAME", help="Name of the profile that is written for you.")
@click.option(
    "--target",
    metavar="local|ssh://…",
    help="Calibrate this machine, or a board over SSH.  [default: local, without --results]",
)
@WHEELS
@click.option(
    "--packs",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Only write what a board measures.",
)
@click.option(
    "--results",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What `edgedistill-run calibrate` wrote on a board.",
)
@click.option(
    "--profile",
    help="Profile that the new one is a copy of.  [default: host, or the board's own]",
)
@click.option("--threads", type=click.IntRange(1, 256), help="Of the engine.  [default: profile's]")
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=1),
    default=360,
    show_default=True,
    help="Most time spent on measuring.",
)
@click.option("--allow-busy", is_flag=True, help="Measure although other programs are running.")
@click.option("--fresh", is_flag=True, help="Forget what an interrupted calibration measured.")
@JSON
def calibrate(
    save: str | None,
    target: str | None,
    wheels: Path | None,
    packs: Path | None,
    results: Path | None,
    profile: str | None,
    threads: int | None,
    max_seconds: float,
    allow_busy: bool,
    fresh: bool,
    as_json: bool,
) -> None:
    """Measure how fast a board's kernels are, and save it as a device profile.

    \b
    This machine:   edgedistill calibrate --target local --save my-pc
    A board:        edgedistill calibrate --target ssh://pi@garden --save my-rpi4
    Without SSH:    edgedistill calibrate --packs packs
                    copy packs/ to the board, and there:
                    edgedistill-run calibrate packs --out results.jsonl
                    copy results.jsonl back, and here:
                    edgedistill calibrate --results results.jsonl --profile rpi4 --save my-rpi4
    Then:           edgedistill fit --profile my-rpi4

    An interrupted calibration goes on where it was when it is started again.
    """
    from edgedistill import calibrate as calibration

    if sum(given is not None for given in (target, packs, results)) > 1:
        raise click.UsageError("--target, --packs and --results exclude one another")
    if target not in (None, "local") and not target.startswith("ssh://"):
        raise click.BadParameter(
            f"{target!r} is not 'local' or ssh://user@host; for a board that cannot be reached, "
            "use --packs and --results",
            param_hint="--target",
        )
    address = None if target in (None, "local") else _address(target)
    if wheels is not None and address is None:
        raise click.UsageError("--wheels needs a board, --target ssh://…")
    if packs is None and save is None:
        raise click.UsageError("give the new profile a name with --save")
    if results is not None and profile is None:
        raise click.UsageError("--results needs the --profile of its board")
    with _Drawing() as progress:
        if packs is not None:
            calibration.write_packs(packs, progress)
            _say(f"wrote {packs}; on the board: edgedistill-run calibrate {packs.name} --out FILE")
            return
        assert save is not None
        if results is not None:
            made = calibration.from_results(save, results, profile=str(profile), progress=progress)
        elif address is not None:
            made = calibration.calibrate_board(
                save,
                address,
                profile=profile,
                threads=threads,
                max_seconds=max_seconds,
                allow_busy=allow_busy,
                fresh=fresh,
                wheels=wheels,
                progress=progress,
            )
        else:
            made = calibration.calibrate(
                save,
                profile=profile or "host",
                threads=threads,
                max_seconds=max_seconds,
                allow_busy=allow_busy,
                fresh=fresh,
                progress=progress,
            )
    _print_calibration(made)
    if as_json:
        click.echo(json.dumps(made.to_json()))


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", metavar="ssh://…", required=True, help="The board.")
@LIMITS
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0.1),
    default=30,
    show_default=True,
    help="Most time spent on the latency runs.",
)
@WHEELS
@click.option("--no-cache", is_flag=True, help="Leave nothing on the board, not even the wheels.")
@JSON
def bench(
    bundle: Path,
    target: str,
    max_seconds: float,
    wheels: Path | None,
    no_cache: bool,
    as_json: bool,
    **limits: float | None,
) -> None:
    """Measure BUNDLE against its budget on a board, over SSH (docs/over-ssh.md).

    The board needs python3 (3.11 or newer) and nothing else.  Exit codes and output are those of
    `edgedistill-run bench` there; 2 too where the board cannot be reached or used.
    """
    from edgedistill.boards import Board
    from edgedistill.deploy import bench as measure

    def heard(kind: str, text: str) -> None:
        click.echo(text, nl=False, err=kind == "err")

    options = [f"--{k.replace('_', '-')}={v}" for k, v in limits.items() if v is not None]
    options += [f"--max-seconds={max_seconds}", *(["--json"] if as_json else [])]
    with Board(_address(target), keep=not no_cache) as board:
        exit_code = measure(board, bundle, options, max_seconds, wheels, heard)
    sys.exit(exit_code)


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", metavar="ssh://…", help="The board.")
@click.option(
    "--targets", metavar="FILE[:TAG]", help="A boards.toml: all of it, or those so tagged."
)
@click.option("--as", "name", metavar="NAME", help="Install under this name.  [default: its own]")
@click.option("--allow-downgrade", is_flag=True, help="Take an older version than one before.")
@click.option(
    "--service",
    metavar="ARGUMENTS",
    help="Let systemd run it, now and at every boot, as `edgedistill-run service NAME ARGUMENTS`.",
)
@click.option(
    "--max-failures",
    metavar="N",
    type=click.IntRange(1),
    help="Start no more boards once N failed.  [default: go on]",
)
@click.option(
    "--at-once",
    metavar="N",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Most boards at the same time.",
)
@WHEELS
@JSON
def deploy(
    bundle: Path,
    target: str | None,
    targets: str | None,
    name: str | None,
    allow_downgrade: bool,
    service: str | None,
    max_failures: int | None,
    at_once: int,
    wheels: Path | None,
    as_json: bool,
) -> None:
    """Install BUNDLE on one board, or on all of a fleet, and let it run there (docs/over-ssh.md).

    Each board tries it first: one that fails, or whose connection drops, keeps what ran before.

    \b
    Exit codes: 0 it runs on all boards; with --target that of `edgedistill-run install` there;
    with --targets 1 if it failed on any; 2 cannot start.
    """
    from edgedistill import deploy as deploying
    from edgedistill.boards import Member, read

    if (target is None) == (targets is None):
        raise click.UsageError("give either --target or --targets")
    members = [Member(target, _address(target))] if target is not None else read(str(targets))
    order = deploying.Order(bundle, name, allow_downgrade, wheels, _words(service))
    made = deploying.deploy(order, members, max_failures, at_once, _print_outcome)
    if targets is not None:
        _print_fleet(made)
    if as_json:
        click.echo(json.dumps(made.to_json()))
    codes = [outcome.exit_code or 0 for outcome in made.boards]
    sys.exit(codes[0] if target is not None else int(not made.ok))


def _words(line: str | None) -> tuple[str, ...] | None:
    try:
        return None if line is None else tuple(shlex.split(line))
    except ValueError as error:
        raise click.BadParameter(f"{line!r}: {error}", param_hint="--service") from None


def _address(target: str | None) -> Address:
    from edgedistill.boards import Address

    return Address.parse(target or "")


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="An SSH key: private, or public with the private one in an agent.",
)
def sign(bundle: Path, key: Path) -> None:
    """Sign BUNDLE with an SSH key, so that boards can tell whose it is.

    An old signature is replaced; the bundle's id stays.  Needs ssh-keygen.
    """
    from edgedistill_runtime.signing import sign_bundle

    opened = sign_bundle(bundle, key)
    _say(f"{bundle}: {opened.manifest.name} version {opened.manifest.version} is signed")


@cli.command()
@click.argument("name", required=False)
@JSON
def profiles(name: str | None, as_json: bool) -> None:
    """List the device profiles, or show one (NAME or a TOML file) with its sources."""
    from edgedistill.profiles import DeviceProfile, names

    if name is not None:
        _print_profile(DeviceProfile.load(name), as_json)
        return
    known = [DeviceProfile.load(each) for each in names()]
    for profile in known:
        engine = profile.engine("onnx") or profile.engine("tflite")
        what = f"{engine.name} {engine.version}" if engine else "no engine"
        if as_json:
            continue
        click.echo(f"{profile.name:16} {profile.board.name:34} {profile.isa:20} {what}")
    if as_json:
        click.echo(
            json.dumps([{"name": p.name, "board": p.board.name, "isa": p.isa} for p in known])
        )


def _print_profile(profile: DeviceProfile, as_json: bool) -> None:
    import msgspec

    tables = msgspec.to_builtins(profile)
    if as_json:
        click.echo(json.dumps(tables, ensure_ascii=False))
        return
    click.echo(f"{profile.name}: {profile.board.name}, {profile.board.soc}, {profile.isa}")
    if profile.board.notes:
        click.echo(f"  {profile.board.notes}")
    for place, cluster in enumerate(profile.cluster):
        clock = f" at {cluster.mhz} MHz" if cluster.mhz else ""
        _sourced(profile, f"{cluster.count} × {cluster.core}{clock}", f"cluster.{place}.count")
    for table in ("memory", "power"):
        for key, value in tables[table].items():
            if value is not None:
                _sourced(profile, f"{table}.{key} {value:g}", f"{table}.{key}")
    for system in profile.os:
        engines = ", ".join(f"{e.name} {e.version}" for e in system.engines) or "no engine"
        click.echo(f"  {system.name}: {engines}" + (f" ({system.note})" if system.note else ""))
    for row in profile.published:
        click.echo(
            f"  published: {row.engine} {row.model} {row.precision}, {row.threads} threads: "
            f"{row.latency_ms:g} ms  [{row.source}]"
        )
    limits = {k: v for k, v in tables["budget"].items() if v is not None}
    click.echo("  default budget: " + ", ".join(f"{k} {v:g}" for k, v in limits.items()))


def _sourced(profile: DeviceProfile, text: str, path: str) -> None:
    click.echo(f"  {text}  [{profile.source(path)}]")


def _print_plan(found: Plan) -> None:
    """The Pareto front: what a slower, larger or weaker student would buy."""
    budget = found.budget
    _say(
        f"{', '.join(found.families)} for {found.profile}: {len(found.fitting)} of {found.size} "
        "candidates fit"
    )
    if not found.fitting:
        return
    first, shown = found.fitting[0], found.shown()
    _say(f"{len(found.front)} of them are beaten by none in latency, size and expectation:")
    _say("  expected  parameters   p50 ms    bound  RAM MiB     MiB  tightest          spec")
    for c in shown:
        name, slack = min(c.slack(budget).items(), key=lambda x: x[1], default=("none", 1.0))
        _say(
            f"{'>' if c == first else ' '} {c.expected:>8.3f} {c.parameters:>11,} "
            f"{c.latency.p50_ms:>8.3f} {c.latency.bound_ms:>8.3f} {c.costs['peak_ram_mib']:>8.1f} "
            f"{c.costs['size_mib']:>7.4f}  {name + f' {slack:.0%}':<17} {c.precision} {c.spec}"
        )
    if len(found.front) > len(shown):
        _say("  … and more between them (all of them with --json)")
    _say(f"chosen (>): {first.family}, {first.latency.standing}")
    _say(
        "slack of it: "
        + ", ".join(f"{name} {slack:.0%}" for name, slack in first.slack(budget).items())
    )
    if found.binding:
        limit = getattr(budget, found.binding)
        _say(f"binding: {found.binding} {limit:g} keeps out most candidates")


def _print_measured_plan(found: Plan, target: str) -> None:
    """What was predicted of the finalists, and what the target says."""
    percentile = found.budget.percentile
    _say(
        f"{', '.join(found.families)} for {found.profile}: {len(found.measured)} of {found.size} "
        f"candidates measured on {target}, untrained; {len(found.fitting)} of them fit"
    )
    if not found.measured:
        return
    first = found.measured[0].measured
    _say(f"{(first and first.board) or 'board unknown'}, {first and first.engine}:")
    _say("           predicted         measured")
    _say(
        f"  expected   p50 ms    bound   p50 ms      p{percentile}  RAM MiB     MiB  over"
        "              spec"
    )
    for c in found.measured:
        if c.measured is None:
            continue
        over = ", ".join(c.over(found.budget)) or "-"
        _say(
            f"{'>' if found.fitting[:1] == (c,) else ' '} {c.expected:>8.3f} "
            f"{c.latency.p50_ms:>8.3f} {c.costs['latency_ms']:>8.3f} {c.p50_ms:>8.3f} "
            f"{c.held['latency_ms']:>8.3f} {c.held['peak_ram_mib']:>8.1f} "
            f"{c.held['size_mib']:>7.4f}  {over:<17} {c.precision} {c.spec}"
        )


def _print_estimate(found: Estimate) -> None:
    latency = found.latency
    what = "a whole call" if found.whole_call else "the engine's call"
    _say(
        f"{found.model} on {found.profile}: {found.engine}, {found.precision}, "
        f"{found.threads} thread(s)"
    )
    _say(
        f"latency    {latency.p50_ms:.3f} ms p50, {latency.low_ms:.3f} to {latency.bound_ms:.3f} "
        f"({latency.standing}; {what}); p95 at most {latency.bound_at(95):.3f}"
    )
    _say(f"memory     {found.peak_ram_mib:.1f} MiB peak, at most {found.peak_ram_bound_mib:.1f}")
    cold = (
        "unknown: not calibrated"
        if found.cold_start_ms is None
        else f"{found.cold_start_ms:.0f} ms"
    )
    _say(f"cold start {cold}")
    _say(
        f"size       {found.size_mib:.3f} MiB, {found.parameters:,} parameters, {found.macs:,} MACs"
    )
    energy = "unknown" if found.energy_mj is None else f"{found.energy_mj:.1f} mJ a call"
    _say(f"energy     {energy}")
    _say(f"basis      {latency.basis}")
    if latency.unseen:
        _say(f"unseen     {', '.join(latency.unseen)}: the interval is wider for them")
    _say("  share       ms  count          MACs  kernels")
    for row in found.table:
        _say(
            f"  {row.share:>5.1%} {row.ms:>8.3f} {row.count:>6} {row.macs:>13,}  {row.kernels}"
            + ("" if row.measured else " (not measured)")
        )


def _print_calibration(made: Calibration) -> None:
    rates = made.rates
    for precision, q in rates.quality.items():
        _say(
            f"{precision:8} on {q['networks']} networks left out of the fit: mean error "
            f"{q['mean_error']:.1%}, {q['within_10']:.0%} within 10 %, {q['within_20']:.0%} within "
            "20 %"
        )
    jitter = ", ".join(f"p{p} {value:.2f}" for p, value in rates.jitter.items())
    _say(f"bound    {rates.bound:.2f} times the prediction; over the least time: {jitter}")
    _say(f"wrote {made.profile}; next: edgedistill fit --profile {made.profile.stem}")


def _print_outcome(outcome: Outcome) -> None:
    """A line as soon as a board is done."""
    _say(f"{outcome.board}: {outcome.status} in {outcome.seconds:.1f} s: {outcome.reason}")


def _print_fleet(made: Deployment) -> None:
    _say("")
    _say(f"{'board':<20}{'status':<13}{'exit':>5}{'seconds':>9}{'copied':>8}  host")
    for x in made.boards:
        code = "-" if x.exit_code is None else str(x.exit_code)
        _say(f"{x.board:<20}{x.status:<13}{code:>5}{x.seconds:>9.1f}{len(x.copied):>8}  {x.host}")
    counts = ", ".join(f"{n} {status}" for status, n in made.to_json()["count"].items() if n)
    _say(f"{len(made.boards)} board(s): {counts}")


def _print_result(result: FitResult) -> None:
    r = result.report
    student, teacher, quantized = r["student"], r["teacher"], r["teacher_quantized"]
    _say("")
    _say(f"{'':18}{r['metric']:>10}{'size MiB':>10}{'p50 ms here':>13}{'params':>12}{'MACs':>13}")
    for name, row, latency_ms in (
        ("teacher", teacher, r["host"]["teacher_latency_ms"]),
        ("teacher, int8", quantized, quantized and quantized["latency_ms"]),
        (
            f"student, {r['precision']}",
            student | {"size_mib": r["size_mib"]},
            r["host"]["model_latency_ms"],
        ),
    ):
        if row is not None:
            _say(
                f"{name:18}{row['metric']:>10.4f}{_or_dash(row['size_mib'], '.3f'):>10}"
                f"{_or_dash(latency_ms, '.4f'):>13}{_or_dash(row.get('params'), ','):>12}"
                f"{_or_dash(row.get('macs'), ','):>13}".rstrip(" -")
            )
    _say(
        f"retention {r['retention']:.4f} on {r['test_samples']} test samples; "
        f"{r['precision']}: {r['precision_reason']}"
    )
    if r["control"]:
        _say(r["control"]["sentence"])
    _say(r["payback"]["sentence"])
    _print_budget(result)


def _print_budget(result: FitResult) -> None:
    """What closes a run: every limit, the verdict, the bundle."""
    _say("")
    _say(f"{'budget':16}{'limit':>10}{'value':>10}  {'standing':<20}ok")
    for x in result.budget:
        ok = {True: "yes", False: "NO", None: "?"}[x.ok]
        value = "-" if x.value is None else f"{x.value:.4g}"
        _say(f"{x.name:16}{x.limit:>10.4g}{value:>10}  {x.standing:<20}{ok}")
    _say("")
    _say(f"{result.verdict}: {result.report['reason']}")
    _say(f"wrote {result.bundle}")


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


class _Drawing:
    """Progress on stderr: a line a stage, and time left where the end is known."""

    def __enter__(self) -> _Drawing:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.start = time.monotonic()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("        {task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.1f}/{task.total}, left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task: Any = None
        self.done = 0.0
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)

    def stage(self, name: str, detail: str = "") -> None:
        self._drop()
        self._print(f"{time.monotonic() - self.start:6.1f} s  {name:9} {detail}")

    def note(self, text: str) -> None:
        self._print(f"          {text}")

    def advance(self, done: float, total: int) -> None:
        if self.task is None or done < self.done:
            self._drop()
            self.task = self.bar.add_task("training", total=total)
        self.done = done
        self.bar.update(self.task, completed=done)

    def _drop(self) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False)


def _say(text: str) -> None:
    click.echo(text, err=True)


def main() -> NoReturn:
    """Entry point of `edgedistill`."""
    run_command(cli, "edgedistill")


if __name__ == "__main__":
    main()
