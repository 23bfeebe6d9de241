"""The command line: options in, one message out. All work is done elsewhere."""

import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from alignlab.errors import UserError
from alignlab.stages import METHODS, stages

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help="Train, judge and compare the two ways of aligning a language model with preferences.")  # fmt: skip

JUPYTER = Path(__file__).parent / "lab" / "jupyter"  # settings of JupyterLab for learners: without the instructor's tools

Size = Annotated[str, typer.Option(help="tiny (bundled world, any CPU), smol (SmolLM2-135M) or hub (your model and data)")]
Model = Annotated[str | None, typer.Option(help="directory or hub name of a causal LM; with --data makes the size hub")]
Data = Annotated[str | None, typer.Option(help="preference pairs: a file (JSON Lines, JSON, CSV, Parquet), a folder, or a hub name")]
Demonstrations = Annotated[str | None, typer.Option(help="demonstrations for SFT; without, it learns the chosen completions")]
Beta = Annotated[float | None, typer.Option(help="price of a nat of KL, for PPO and DPO; larger stays nearer to the SFT model")]
PpoBeta = Annotated[float | None, typer.Option(help="the same for PPO alone; >= 0")]
DpoBeta = Annotated[float | None, typer.Option(help="the same for DPO alone; > 0")]
Seed = Annotated[int, typer.Option(help="of every stage", min=0, max=2**63 - 1)]
Out = Annotated[Path | None, typer.Option(help="folder of the run; the same command continues where it was stopped")]
Fast = Annotated[bool, typer.Option("--fast", help="the whole path in a small version")]
Strict = Annotated[bool, typer.Option("--strict", help="refuse rows with nothing to teach, instead of leaving them out")]
Limit = Annotated[int | None, typer.Option(help="read only the first N rows of --data", min=1)]
Split = Annotated[str | None, typer.Option(help="split of a hub set or folder; train by default")]
Config = Annotated[str | None, typer.Option(help="config of a hub set")]
Columns = Annotated[str | None, typer.Option(help="names of the columns where they differ: prompt=question,chosen=good")]
MaxNewTokens = Annotated[int | None, typer.Option(help="longest answer sampled, in tokens; by default as the data's answers are", min=1)]
LearningRate = Annotated[float | None, typer.Option(help="of this stage's AdamW", min=0)]
Epochs = Annotated[int | None, typer.Option(help="of this stage", min=1)]

COLUMNS = ("prompt", "chosen", "rejected", "completion", "system")


class Terminated(BaseException):
    """SIGTERM: the machine or the scheduler wants this process to end."""


class Stopped(BaseException):
    """A run that was stopped from outside: what was kept, and the exit code."""

    def __init__(self, words: str, code: int):
        super().__init__(words)
        self.code = code


# ---------------------------------------------------------------------------------------------- commands


@app.command()
def run(
    size: Size = "tiny", model: Model = None, data: Data = None, demonstrations: Demonstrations = None, beta: Beta = None,
    ppo_beta: PpoBeta = None, dpo_beta: DpoBeta = None, seed: Seed = 0, out: Out = None, fast: Fast = False, strict: Strict = False,
    limit: Limit = None, split: Split = None, config: Config = None, columns: Columns = None, max_new_tokens: MaxNewTokens = None,
) -> None:  # fmt: skip
    """Both pipelines from one start, judged on one reward-KL plane, with a report."""
    from alignlab.encoding import last_message
    from alignlab.files import write_whole
    from alignlab.lab import report, view

    source = _source(strict, limit, split, config, columns, max_new_tokens)
    with _pipeline(size, model, data, demonstrations, beta, ppo_beta, dpo_beta, seed, out, fast, source) as pipeline:
        comparison = pipeline.compare()
        folder = pipeline.run.folder
        pipeline.run.write_json("comparison.json", comparison)
        page = report.page(comparison, list(pipeline.run.metrics()), pipeline.run.config)
        write_whole(folder / "report.html", page)
    print(f"\n{report.table(comparison)}\n")
    for words in report.verdict(comparison):
        print(words)
    for sample in comparison["samples"][:3]:
        prompt = last_message(sample["prompt"])
        print(f"\n{prompt}")
        for name in comparison["policies"]:
            label = view.NAMES[name]
            print(f"  {label:11}{sample[name]['gold']:6.2f}  {sample[name]['text']}")
    print(f"\nreport: {folder / 'report.html'}\nall files: {folder}")


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

    comparisons = {str(folder): _comparison(folder / "comparison.json") for folder in runs}
    kinds = sorted({f"{comparison['size']} judged by {comparison['judge']['kind']}" for comparison in comparisons.values()})
    if len(kinds) > 1:
        raise UserError(f"these runs have different scales ({', '.join(kinds)}); compare like with like")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name a file for the figure, such as {out / 'comparison.png'}")
    for name, comparison in comparisons.items():
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


@contextmanager
def _pipeline(size, model, data, demonstrations, beta, ppo_beta, dpo_beta, seed, out, fast, source, changes=None):
    """Check all options before anything is written, then open the run and keep other processes out of it.

    `changes` holds settings of single stages, {stage: {name: value or None}}.
    """
    own_betas = {"ppo": ppo_beta, "dpo": dpo_beta}
    from transformers.utils.logging import disable_progress_bar

    from alignlab.files import disk_error
    from alignlab.pipeline import Pipeline
    from alignlab.recipes import choose
    from alignlab.runs import Run, check_folder

    disable_progress_bar()  # of loading, which would stand between ours
    if out is not None:
        check_folder(out)
    recipe = choose(size, model, data, demonstrations, fast, source, tqdm.write)
    name = [recipe.name, *(["fast"] if fast else [])]
    for stage in dict.fromkeys((*recipe.methods, *(changes or {}))):
        config, own = recipe.config(stage), own_betas.get(stage)
        if hasattr(config, "beta") and (value := beta if own is None else own) is not None:
            config.beta = value
            name.append(f"{stage}-beta{value:g}")
        for key, value in (changes or {}).get(stage, {}).items():
            if value is not None:
                setattr(config, key, value)
                name.append(f"{stage}-{key}{value:g}")
        if complaint := stages()[stage].check(config):
            raise UserError(complaint)
    recipe.set_seed(seed)
    folder = out or Path("runs") / "-".join([*name, f"seed{seed}"])
    opened = Run(folder, {**recipe.describe(), "seed": seed})
    with opened.held():
        try:
            yield Pipeline(opened, recipe, seed, *_progress())
        except (KeyboardInterrupt, Terminated) as stop:
            raise Stopped(opened.kept(), 143 if isinstance(stop, Terminated) else 130) from None
        except Exception as error:
            opened.abandon()
            if line := disk_error(folder, error):
                raise line from error
            raise


def _progress():
    """What shows the steps of a stage as a bar with the time left, and what says a line above it."""
    bars: dict[str, tqdm] = {}

    def watch(metrics: dict) -> None:
        stage = metrics["stage"]
        if stage not in bars and metrics["step"] + 1 == metrics["steps"]:
            return  # done at once: there is nothing to wait for
        if stage not in bars:
            bars[stage] = tqdm(total=metrics["steps"], desc=f"{stage:>9}", unit="", leave=True, dynamic_ncols=True)
        shown = {key: f"{metrics[key]:.2f}" for key in ("loss", "reward", "accuracy", "kl") if key in metrics}
        bars[stage].set_postfix(shown, refresh=False)
        if not metrics.get("partial"):
            bars[stage].update(metrics["step"] + 1 - bars[stage].n)
        if bars[stage].n == metrics["steps"]:
            bars.pop(stage).close()

    return watch, tqdm.write


def main() -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # whatever the terminal or file can write, a run must not end over it
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        sys.exit(_complain(error))
    except Stopped as stop:
        print(f"\n{stop}", file=sys.stderr)
        sys.exit(stop.code)
    except (KeyboardInterrupt, typer.Abort, Terminated) as stop:
        print("\nstopped; nothing was written", file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    except Exception as error:
        if hasattr(error, "format_message"):  # the command line's own complaints about options
            sys.exit(_complain(error.format_message()))
        raise
    sys.exit(code or 0)


def _terminate(number, frame) -> None:
    raise Terminated


def _complain(message) -> int:
    print(f"alignlab: {' '.join(str(message).split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
