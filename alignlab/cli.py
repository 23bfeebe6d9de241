"""The command line: options in, one message out. All work is done elsewhere."""

import importlib.metadata
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignlab.errors import UserError
from alignlab.stages import METHODS, stages
from alignlab.terminal import progress, say

app = typer.Typer(pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})

JUPYTER = Path(__file__).parent / "lab" / "jupyter"  # settings of JupyterLab for learners: without the instructor's tools

INPUT, SETTINGS, READING = "What is aligned", "Settings", "How --data is read"  # the groups of options in --help


def _seed(number: int) -> int:
    if not 0 <= number < 2**63:
        raise typer.BadParameter(f"must be at least 0 and below 2**63, got {number}")
    return number


def _option(group: str, words: str, *names: str, **more):
    return typer.Option(*names, help=words, rich_help_panel=group, **more)


Size = Annotated[str, _option(INPUT, "tiny (bundled world, any CPU), smol (SmolLM2-135M) or hub (your model and data)")]
Model = Annotated[str | None, _option(INPUT, "directory or hub name of a causal LM; with --data makes the size hub")]
Data = Annotated[str | None, _option(INPUT, "preference pairs: a file (JSON Lines, JSON, CSV, Parquet), a folder, or a hub name")]
Demonstrations = Annotated[str | None, _option(INPUT, "demonstrations for SFT; without, it learns the chosen completions")]
Beta = Annotated[float | None, _option(SETTINGS, "price of a nat of KL, for every method; larger stays nearer to the SFT model")]
PpoBeta = Annotated[float | None, _option(SETTINGS, "the same for PPO alone; >= 0")]
DpoBeta = Annotated[float | None, _option(SETTINGS, "the same for DPO alone; > 0")]
Methods = Annotated[str, _option(SETTINGS, f"whose policies are judged, with commas: any of {', '.join(METHODS)}")]
Seed = Annotated[int, _option(SETTINGS, "of every stage, at least 0", callback=_seed)]
Out = Annotated[Path | None, _option(SETTINGS, "folder of the run; the same command continues where it was stopped")]
Fast = Annotated[bool, _option(SETTINGS, "the whole path in a small version", "--fast")]
Strict = Annotated[bool, _option(READING, "refuse rows with nothing to teach, instead of leaving them out", "--strict")]
Limit = Annotated[int | None, _option(READING, "read only the first N rows of --data", min=1)]
Split = Annotated[str | None, _option(READING, "split of a hub set or folder; train by default")]
Config = Annotated[str | None, _option(READING, "config of a hub set")]
Columns = Annotated[str | None, _option(READING, "names of the columns where they differ: prompt=question,chosen=good")]
MaxNewTokens = Annotated[int | None, _option(SETTINGS, "longest answer sampled, in tokens; by default as the data's answers are", min=1)]
LearningRate = Annotated[float | None, _option(SETTINGS, "of this stage's AdamW", min=0)]
Epochs = Annotated[int | None, _option(SETTINGS, "of this stage", min=1)]

SWEEP_OUT = "file of the results; by default data/sweeps/NAME.json, and with --fast one in the sweep's folder"
COLUMNS = ("prompt", "chosen", "rejected", "completion", "system")


class Interrupted(BaseException):
    """Ctrl-C, or SIGTERM: the user, the machine or the scheduler wants this process to end."""

    def __init__(self, number: int):
        super().__init__(number)
        self.code = 128 + number


class Stopped(BaseException):
    """A run that was stopped from outside: what was kept, and the exit code."""

    def __init__(self, words: str, code: int):
        super().__init__(words)
        self.code = code


# ---------------------------------------------------------------------------------------------- commands


def _version(asked: bool) -> None:
    if asked:
        print(f"alignlab {importlib.metadata.version('alignlab')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def begin(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and stop", callback=_version, is_eager=True)] = False,
) -> None:
    """Train, judge and compare the two ways of aligning a language model with preferences."""
    if context.invoked_subcommand is None and (words := context.get_help()):  # none where rich has printed it
        print(words)


@app.command()
def run(
    size: Size = "tiny", model: Model = None, data: Data = None, demonstrations: Demonstrations = None, beta: Beta = None,
    ppo_beta: PpoBeta = None, dpo_beta: DpoBeta = None, seed: Seed = 0, out: Out = None, fast: Fast = False, strict: Strict = False,
    limit: Limit = None, split: Split = None, config: Config = None, columns: Columns = None, max_new_tokens: MaxNewTokens = None,
    methods: Methods = "ppo,dpo",
) -> None:  # fmt: skip
    """Both pipelines from one start, judged on one reward-KL plane, with a report."""
    from alignlab.files import write_whole
    from alignlab.lab import report

    source = _source(strict, limit, split, config, columns, max_new_tokens)
    chosen = _methods(methods)
    with _pipeline(size, model, data, demonstrations, beta, ppo_beta, dpo_beta, seed, out, fast, source, methods=chosen) as pipeline:
        folder, commands = pipeline.run.folder, list(pipeline.run.metrics("commands.jsonl"))
        made_by = {"versions": commands[-1]["versions"], "command": commands[-1]["command"], "date": commands[-1]["at"]}
        comparison = pipeline.compare() | made_by
        pipeline.run.write_json("comparison.json", comparison)
        page = report.page(comparison, list(pipeline.run.metrics()), pipeline.run.config, commands)
        write_whole(folder / "report.html", page)
    print(f"\n{report.table(comparison)}\n")
    console = Console(highlight=False, markup=False, emoji=False)
    for words in report.verdict(comparison):
        console.print(words, soft_wrap=not console.is_terminal)
    _print_answers(console, comparison["samples"][:3], [*comparison["policies"]])
    print(f"\nreport: {folder / 'report.html'}\nall files: {folder}")


def _print_answers(console: Console, samples: list[dict], policies: list[str]) -> None:
    """Every policy's answer to the same prompts, with its reward, as wide as the terminal."""
    from alignlab.encoding import last_message
    from alignlab.lab import view

    for sample in samples:
        answers = Table.grid(padding=(0, 2, 0, 0))
        for name in policies:
            answer = sample[name]
            answers.add_row(Text(f"  {view.NAMES[name]}"), Text(f"{answer['gold']:z.2f}", justify="right"), Text(answer["text"]))
        print()
        console.print(Text(last_message(sample["prompt"])), answers, sep="\n")


def _stage_command(name: str, words: str) -> None:
    def command(
        size: Size = "tiny", model: Model = None, data: Data = None, demonstrations: Demonstrations = None, beta: Beta = None,
        ppo_beta: PpoBeta = None, dpo_beta: DpoBeta = None, seed: Seed = 0, out: Out = None, fast: Fast = False, strict: Strict = False,
        limit: Limit = None, split: Split = None, config: Config = None, columns: Columns = None, max_new_tokens: MaxNewTokens = None,
        learning_rate: LearningRate = None, epochs: Epochs = None,
    ) -> None:  # fmt: skip
        source = _source(strict, limit, split, config, columns, max_new_tokens)
        own = {"learning_rate": learning_rate, "epochs": epochs}
        with _pipeline(size, model, data, demonstrations, beta, ppo_beta, dpo_beta, seed, out, fast, source, {name: own}) as pipeline:
            pipeline.make(name)
        print(f"done: {pipeline.run.folder / name}")

    command.__doc__ = words
    app.command(name)(command)


for _name in ("sft", "reward", *METHODS):
    _stage_command(_name, f"The stage {_name} alone, after what it needs.")


def _comparison(path: Path) -> dict:
    from alignlab.files import read_json

    comparison = read_json(path)
    needed = {"size", "judge", "betas", "curves", "policies"}
    if not isinstance(comparison, dict) or not needed <= set(comparison):
        raise UserError(f"{path}: not what `alignlab run` writes; run again")
    return comparison


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders of finished runs")],
    out: Annotated[Path, typer.Option(help="where the figure goes")] = Path("comparison.png"),
) -> None:
    """Table and reward-KL figure of several runs."""
    from alignlab.lab import report, view

    runs = list(dict.fromkeys(runs))
    short = {folder.resolve().name for folder in runs}
    names = [folder.resolve().name if len(short) == len(runs) else str(folder) for folder in runs]
    comparisons = {name: _comparison(folder / "comparison.json") for name, folder in zip(names, runs, strict=True)}
    kinds = sorted({f"{comparison['size']} judged by {comparison['judge']['kind']}" for comparison in comparisons.values()})
    if len(kinds) > 1:
        raise UserError(f"these runs have different scales ({', '.join(kinds)}); compare like with like")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name a file for the figure, such as {out / 'comparison.png'}")
    for name, comparison in zip(runs, comparisons.values(), strict=True):
        print(f"{name} ({report.betas(comparison)})\n{report.table(comparison)}\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(view.png(view.runs_figure(comparisons)))
    print(f"figure: {out}")


@app.command()
def lab(folder: Annotated[Path, typer.Argument(help="your copy of the notebooks; made if it is not there")] = Path("workbook")) -> None:
    """The workbook in JupyterLab, in a copy of your own."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise UserError("JupyterLab is not installed; install alignlab with its extra: pip install 'alignlab[lab]'")
    from alignlab.lab.lessons import working_copy

    made = working_copy(folder)
    print(f"{folder}: {len(made)} notebooks copied" if made else f"{folder}: your copy; delete a notebook there to get it afresh")
    places = os.pathsep.join([str(JUPYTER), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])])
    environment = os.environ | {"JUPYTER_CONFIG_PATH": places}
    signal.signal(signal.SIGINT, lambda *seen: None)  # Ctrl-C is for JupyterLab, which asks before it stops
    raise typer.Exit(subprocess.call([sys.executable, "-m", "jupyterlab", str(folder)], env=environment))


@app.command()
def sweep(
    name: Annotated[str | None, typer.Argument(help="of the sweep; without one, the sweeps are listed", show_default=False)] = None,
    dask: Annotated[str | None, typer.Option(help="address of a Dask scheduler, whose workers measure the points")] = None,
    fast: Fast = False,
    out: Annotated[Path | None, typer.Option(help=SWEEP_OUT)] = None,
) -> None:
    """The grid of a lab notebook, measured on all cores; the same command continues where it was stopped."""
    from alignlab.tools import sweep as sweeps

    if name not in sweeps.NAMES:
        for each in map(sweeps.find, sweeps.NAMES):
            print(f"{each.name}: {each.words}; {len(each.points)} points")
    if name is None:
        return
    chosen = sweeps.find(name)
    try:
        path, measured = sweeps.run(chosen, shlex.join(["alignlab", *sys.argv[1:]]), fast, out, dask)
    except (KeyboardInterrupt, Interrupted) as stop:
        raise Stopped(sweeps.kept(chosen, fast), stop.code if isinstance(stop, Interrupted) else 130) from None
    total = len(chosen.grid(fast))
    print(f"{measured} of {total} points measured" if measured else f"all {total} points were there")
    print(f"results: {path}")


@app.command()
def doctor() -> None:
    """This machine: what will run, how long it takes, what is missing."""
    from alignlab.doctor import examine

    print("\n".join(examine()))


# ---------------------------------------------------------------------------------------------- from options to a pipeline


def _source(strict, limit, split, config, columns, max_new_tokens):
    """How the user's data is to be read."""
    from alignlab.recipe import Source

    names = {}
    for pair in columns.split(",") if columns else []:
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if ours not in COLUMNS or not equals or not theirs:
            raise UserError(f"--columns must be OURS=THEIRS with ours one of {', '.join(COLUMNS)}, got {pair!r}")
        names[ours] = theirs
    return Source(split=split, config=config, columns=names or None, limit=limit, strict=strict, max_new_tokens=max_new_tokens)


def _methods(words: str) -> tuple[str, ...]:
    """The methods that are named, each once, in this order."""
    names = tuple(dict.fromkeys(name.strip() for name in words.split(",")))
    if unknown := [name for name in names if name not in METHODS]:
        raise UserError(f"--methods must name any of {', '.join(METHODS)}, with commas between them, got {unknown[0]!r}")
    return names


@contextmanager
def _pipeline(size, model, data, demonstrations, beta, ppo_beta, dpo_beta, seed, out, fast, source, changes=None, methods=None):
    """Check all options before anything is written, then open the run and keep other processes out of it.

    `changes` holds settings of single stages, {stage: {name: value or None}}; `methods` are those judged, if not the recipe's.
    """
    from transformers.utils.logging import disable_progress_bar

    from alignlab.doctor import circumstances
    from alignlab.files import disk_error
    from alignlab.pipeline import Pipeline
    from alignlab.recipes import choose
    from alignlab.runs import Run, check_folder

    disable_progress_bar()  # of loading, which would stand between ours
    if out is not None:
        check_folder(out)
    recipe = choose(size, model, data, demonstrations, fast, source, say)
    name = [recipe.name, *(["fast"] if fast else [])]
    if methods not in (None, recipe.methods):
        recipe.methods = methods
        name += methods
    name += _set(recipe, beta, {"ppo": ppo_beta, "dpo": dpo_beta}, changes or {})
    recipe.set_seed(seed)
    folder = out or Path("runs") / "-".join([*name, f"seed{seed}"])
    opened = Run(folder, {**recipe.describe(), "seed": seed})
    with opened.held():
        try:
            opened.log(circumstances(shlex.join(["alignlab", *sys.argv[1:]]), seed, fast), "commands.jsonl")
            with progress() as (watch, line):
                yield Pipeline(opened, recipe, seed, watch, line)
        except (KeyboardInterrupt, Interrupted) as stop:
            raise Stopped(opened.kept(), stop.code if isinstance(stop, Interrupted) else 130) from None
        except Exception as error:
            opened.abandon()
            if line := disk_error(folder, error):
                raise line from error
            raise


def _set(recipe, beta, own_betas, changes) -> list[str]:
    """Put the options into the settings of the stages; returns what the folder's name tells of them."""
    told, configs = [], {stage: recipe.config(stage) for stage in dict.fromkeys((*recipe.methods, *changes))}  # before any is changed
    if left_out := [stage for stage, own in own_betas.items() if own is not None and stage not in configs]:
        raise UserError(f"--{left_out[0]}-beta needs {left_out[0]} among --methods")
    for stage, config in configs.items():
        own = own_betas.get(stage)
        if hasattr(config, "beta") and (value := beta if own is None else own) is not None:
            config.beta = value
            told.append(f"{stage}-beta{value:g}")
        for key, value in changes.get(stage, {}).items():
            if value is not None:
                if not hasattr(config, key):
                    raise UserError(f"{stages()[stage].title} has no --{key.replace('_', '-')}; leave it out")
                setattr(config, key, value)
                told.append(f"{stage}-{key}{value:g}")
        if complaint := stages()[stage].check(config):
            raise UserError(complaint)
    return told


def main() -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # whatever the terminal or file can write, a run must not end over it
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    try:
        code = app(prog_name="alignlab", standalone_mode=False)
    except UserError as error:
        sys.exit(_complain(error))
    except Stopped as stop:
        print(f"\n{stop}", file=sys.stderr)
        sys.exit(stop.code)
    except (KeyboardInterrupt, typer.Abort, Interrupted) as stop:
        print("\nstopped; nothing was written", file=sys.stderr)
        sys.exit(stop.code if isinstance(stop, Interrupted) else 130)
    except Exception as error:
        if hasattr(error, "format_message"):  # the command line's own complaints about options
            sys.exit(_complain(error.format_message()))
        raise
    sys.exit(code or 0)


def _interrupt(number, frame) -> None:
    """No KeyboardInterrupt, which typer would turn into a silent exit; a second signal ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    raise Interrupted(number)


def _complain(message) -> int:
    print(f"alignlab: {' '.join(str(message).split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
