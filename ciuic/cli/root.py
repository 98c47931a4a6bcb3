"""The command ``ciuic`` itself: its options, where each subcommand lives, and how a process ends."""

from __future__ import annotations

import importlib
import io
import os
import sys

import click

from ciuic.cli import failures
from ciuic.cli.session import Session

COMMANDS = {
    "init": ("setup", "Make an empty repository"),
    "snap": ("snap", "Ask a running training for a snapshot"),
    "log": ("history", "List snapshots as a graph"),
    "show": ("history", "Print one snapshot"),
    "ls": ("contents", "List what a snapshot holds"),
    "diff": ("comparison", "Compare two snapshots in numbers"),
    "bisect": ("bisect", "Find the first bad snapshot"),
    "checkout": ("refs", "Choose where the next run resumes"),
    "branch": ("refs", "List, make or delete branches"),
    "note": ("notes", "Write down what is worth remembering of a snapshot"),
    "tag": ("refs", "List, make or delete tags"),
    "reset": ("refs", "Move a branch to another snapshot"),
    "reflog": ("history", "List where a ref has pointed"),
    "cat": ("contents", "Print a tensor or a value"),
    "export": ("files", "Write safetensors or torch files"),
    "import": ("files", "Make a snapshot of such a file"),
    "prune": ("prune", "Give up what a policy lets go, or one snapshot's state"),
    "gc": ("upkeep", "Free what nothing needs any more"),
    "repack": ("upkeep", "Store anew what rests on what nothing needs"),
    "fsck": ("upkeep", "Check the repository"),
    "repair": ("repair", "Save what can be saved of a damaged one"),
    "doctor": ("doctor", "Look at what a run depends on here"),
    "stats": ("stats", "Show what is stored and what was saved"),
    "run": ("supervision", "Run a command again until it is done"),
    "runs": ("supervision", "List such runs, and what they said"),
    "verify-resume": ("resume_check", "Interrupt a script, and compare the bits"),
    "demo": ("setup", "Watch a training die and resume"),
    "completion": ("setup", "Print the shell's completion script"),
}
"""Command → summary, and module of this package: imported when the command is called, not before."""

OTHER_WORDS = {
    "commit": "snap",
    "help": "--help",
    "restore": "checkout",
    "status": "log",
    "switch": "checkout",
    "verify": "fsck",
    "version": "--version",
}
"""What hands that know git or another tool type → what it is called here."""

COMPLETION_VARIABLE = "_CIUIC_COMPLETE"


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ciuic.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command: {args[0]}{_suggestion(args[0])}")
        return super().resolve_command(ctx, args)


def _suggestion(word: str) -> str:
    from difflib import get_close_matches

    close = [OTHER_WORDS[word]] if word in OTHER_WORDS else get_close_matches(word, COMMANDS, n=1)
    return f". Did you mean {close[0]}?" if close else ""


def _show_version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"ciuic {version('ciuic')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "directory", metavar="DIR", type=click.Path(), help="Run as if started in DIR.")
@click.option("--repo", "repository", metavar="DIR", type=click.Path(), help="The repository: exactly this folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    metavar="auto|always|never",
    default="auto",
    help="Colour the output. auto: on a terminal, unless NO_COLOR is set.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print results only, no remarks.")
@click.option("-v", "--verbose", count=True, help="Print more; twice: tracebacks of errors too.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version.",
)
@click.pass_context
def root(
    ctx: click.Context,
    directory: str | None,
    repository: str | None,
    as_json: bool,
    color: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Git for training state: look at, compare, branch, roll back and clean up the snapshots of a run.

    The repository is --repo, or else the one that -C, CIUIC_REPO or the current folder leads to: that folder,
    its .ciuic or snapshots, or the same of a parent.
    """
    ctx.obj = Session(directory, repository, as_json, color, quiet, verbose)


def run(arguments: list[str]) -> int:
    """Run one command and report what goes wrong on stderr; returns the exit code, never raises."""
    if COMPLETION_VARIABLE in os.environ:
        from click.shell_completion import shell_complete

        return shell_complete(root, {}, "ciuic", COMPLETION_VARIABLE, os.environ[COMPLETION_VARIABLE])
    _spell_out_what_stdout_cannot_say()
    working_directory = os.getcwd() if "-C" in arguments else None
    session: Session | None = None
    try:
        with root.make_context("ciuic", [*arguments] or ["--help"]) as ctx:
            try:
                root.invoke(ctx)
                code = 0
            finally:
                session = ctx.obj
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.exceptions.NoArgsIsHelpError as asked:  # a group alone, `ciuic bisect`, is a question as `ciuic` is
        click.echo(asked.format_message())
        code = 0
    except (Exception, KeyboardInterrupt) as error:
        code = failures.report(error, session, as_json="--json" in arguments)
    finally:
        if working_directory is not None:
            os.chdir(working_directory)
    return code


def _spell_out_what_stdout_cannot_say() -> None:
    """Characters that the locale's encoding lacks come out as \\u2026, as on stderr, and no command fails of them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
