"""`dain`: one command for every part. A part is imported when its command is used."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from service import __version__
from service.exits import Exit


class Entry(NamedTuple):
    """A command: where it is, which extra of the project brings what it needs, and what `dain --help` says of it."""

    module: str
    attribute: str
    extra: str
    help: str


SECTIONS: dict[str, dict[str, Entry]] = {
    "Videos and jobs of a service": {
        "submit": Entry(
            "service.commands.submit", "submit", "", "Send videos to a service, and fetch the results."
        ),
        "jobs": Entry("service.commands.jobs", "jobs", "", "List the jobs of a service, newest first."),
        "show": Entry("service.commands.jobs", "show", "", "Show all about a job."),
        "logs": Entry("service.commands.logs", "logs", "", "Show what happened to a job."),
        "wait": Entry("service.commands.results", "wait", "", "Wait until jobs are over."),
        "fetch": Entry("service.commands.results", "fetch", "", "Wait for jobs, and fetch their results."),
        "cancel": Entry("service.commands.jobs", "cancel", "", "Stop jobs."),
        "delete": Entry("service.commands.jobs", "delete", "", "Remove jobs with their results."),
        "workers": Entry("service.commands.workers", "workers", "", "List the workers of a service."),
    },
    "A service of your own": {
        "up": Entry("service.up", "up", "embedded", "Run the whole service here."),
        "edge": Entry("service.up", "edge", "embedded", "Run the whole service on a small machine."),
        "keys": Entry("service.commands.keys", "keys", "service", "Make, list, revoke and rotate API keys."),
        "doctor": Entry(
            "service.doctor.cli", "doctor", "", "Say what is wrong or slow here, and what to do about it."
        ),
    },
    "Without a service": {
        "interpolate": Entry("worker.cli", "interpolate", "worker", "Make videos smoother right here."),
        "compare": Entry(
            "worker.compare", "compare", "worker", "Show two videos in one, and how much they differ."
        ),
        "bench": Entry("worker.bench.cli", "bench", "worker", "Measure how fast this machine is."),
        "eval": Entry(
            "dain_core.evaluation.cli", "evaluate", "worker", "Compare made frames with true ones."
        ),
    },
    "Models": {
        "weights": Entry("dain_core.weights.cli", "weights", "worker", "List, check and fetch weights."),
        "train": Entry("dain_core.training.cli", "train", "train", "Train weights of your own."),
        "tune": Entry(
            "dain_core.compression.tune_cli",
            "tune",
            "worker",
            "Choose the precision of each block on this device.",
        ),
        "compress": Entry(
            "dain_core.compression.cli", "compress", "train", "Make a model faster, at a measured loss."
        ),
        "export": Entry(
            "dain_core.export.cli", "export", "export", "Write a model as ONNX for other runtimes."
        ),
    },
    "This command": {
        "completion": Entry(
            "service.commands.completion", "completion", "", "Have your shell complete commands on Tab."
        ),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}

#: What people type who know other programs.
MEANT = {
    "add": "submit", "download": "fetch", "get": "fetch", "info": "show", "list": "jobs", "ls": "jobs",
    "ps": "jobs", "remove": "delete", "rm": "delete", "run": "interpolate", "serve": "up", "server": "up",
    "start": "up", "status": "show", "stop": "cancel", "upload": "submit",
}  # fmt: skip


class Commands(click.Group):
    """The commands of `COMMANDS`. `dain --help` imports none of them: some need PyTorch, which takes seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, COMMANDS))
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{widest}}", entry.help) for name, entry in section.items()])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        entry = COMMANDS.get(name)
        return entry and load(name, entry)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ImportError as error:  # of what a command imports once it runs
            raise _unable(str(ctx.invoked_subcommand), error) from None
        except (KeyboardInterrupt, click.Abort):
            click.echo("\nInterrupted.", err=True)
            ctx.exit(Exit.INTERRUPTED)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        wrong = args[0]
        if wrong in COMMANDS or wrong.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        near = [MEANT[wrong]] if wrong in MEANT else difflib.get_close_matches(wrong, COMMANDS)
        meant = f"Did you mean {' or '.join(near)}?" if near else "`dain --help` lists those there are."
        raise click.UsageError(f"There is no command {wrong!r}. {meant}", ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=entry.help)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found or click.Command.shell_complete(self, ctx, incomplete)  # which knows the options


def load(name: str, entry: Entry) -> click.Command:
    """The command itself; ClickException where a package that it needs is not installed."""
    try:
        command: click.Command = getattr(import_module(entry.module), entry.attribute)
    except ImportError as error:
        raise _unable(name, error) from None
    return command


def _unable(name: str, error: ImportError) -> click.ClickException:
    """Why a command cannot run: a package is missing, or a library is of another version."""
    if isinstance(error, ModuleNotFoundError):
        return click.ClickException(
            f"`dain {name}` needs {error.name}, which is not installed. "
            f"`pip install '.[{COMMANDS[name].extra}]'` in the project's folder brings it."
        )
    return click.ClickException(f"{error}. `dain doctor` says what else does not match.")


def _show_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"dain {__version__}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`dain COMMAND -h` explains a command.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
              help="Show the version, and end.")  # fmt: skip
def cli() -> None:
    """Make video smoother: depth-aware frame interpolation, as a service or right here."""


def main() -> None:
    """Runs `dain`."""
    cli(prog_name="dain")


if __name__ == "__main__":
    main()
