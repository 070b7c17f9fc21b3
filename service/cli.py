"""`dain`: one command for every part. A part is imported when its command is used."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem

from service import __version__


class Entry(NamedTuple):
    """A command: where it is, which extra of the project brings what it needs, and what `dain --help` says of it."""

    module: str
    attribute: str
    extra: str
    help: str


COMMANDS = {
    "bench": Entry("worker.bench.cli", "bench", "worker", "Measure how fast this machine is."),
    "cancel": Entry("service.commands", "cancel", "", "Stop a job, or remove one that is over."),
    "completion": Entry("service.completion", "completion", "", "Have your shell complete commands on Tab."),
    "compress": Entry(
        "dain_core.compression.cli", "compress", "train", "Make a model faster, at a measured loss."
    ),
    "doctor": Entry(
        "service.doctor.cli", "doctor", "", "Say what is wrong or slow here, and what to do about it."
    ),
    "edge": Entry("service.up", "edge", "embedded", "Run the whole service on a small machine."),
    "eval": Entry("dain_core.evaluation.cli", "evaluate", "worker", "Compare made frames with true ones."),
    "export": Entry("dain_core.export.cli", "export", "export", "Write a model as ONNX for other runtimes."),
    "fetch": Entry("service.commands", "fetch", "", "Wait for a job, and fetch its result."),
    "interpolate": Entry("worker.cli", "interpolate", "worker", "Make a video smoother right here."),
    "jobs": Entry("service.commands", "jobs", "", "List the jobs of a service, newest first."),
    "keys": Entry("service.key_commands", "keys", "service", "Make, list, revoke and rotate API keys."),
    "submit": Entry("service.commands", "submit", "", "Send a video to a service, and fetch the result."),
    "train": Entry("dain_core.training.cli", "train", "train", "Train weights of your own."),
    "tune": Entry(
        "dain_core.compression.tune", "tune", "worker", "Choose the precision of each block on this device."
    ),
    "up": Entry("service.up", "up", "embedded", "Run the whole service here."),
    "weights": Entry("dain_core.weights.cli", "weights", "worker", "List, check and fetch weights."),
    "workers": Entry("service.commands", "workers", "", "List the workers of a service."),
}


#: What people type who know other programs.
MEANT = {
    "add": "submit", "download": "fetch", "get": "fetch", "list": "jobs", "ls": "jobs", "ps": "jobs",
    "run": "interpolate", "serve": "up", "server": "up", "start": "up", "status": "jobs", "stop": "cancel",
    "upload": "submit",
}  # fmt: skip


class Commands(click.Group):
    """The commands of `COMMANDS`. `dain --help` imports none of them: some need PyTorch, which takes seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        entry = COMMANDS.get(name)
        return entry and load(name, entry)

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
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"`dain {name}` needs {error.name}, which is not installed. "
            f"`pip install '.[{entry.extra}]'` in the project's folder brings it."
        ) from None
    return command


def _show_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"dain {__version__}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Commands and options on Tab: dain completion --help",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
              help="Show the version, and end.")  # fmt: skip
def cli() -> None:
    """Make video smoother: depth-aware frame interpolation, as a service or right here."""


def main() -> None:
    """Runs `dain`. What a service refuses, and what a network does wrong, ends as one sentence."""
    try:
        cli(prog_name="dain")
    except Exception as error:
        client = sys.modules.get("service.client")  # its errors can only come where it was imported
        if client is None or not isinstance(error, client.ClientError):
            raise
        raise SystemExit(f"dain: {error}") from None


if __name__ == "__main__":
    main()
