"""`dain wait` and `dain fetch`, and where the results of jobs go."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from tempfile import TemporaryFile

import click

from service.client import Client, ClientError, Job, Unreachable
from service.commands import text
from service.commands.connection import connected, exit_code, of_each, teller
from service.commands.following import Following, leave
from service.commands.options import jobs_argument, json_option, server
from service.commands.progress import Report, report
from service.exits import Exit
from service.jobs.formats import container_of


@click.command()
@jobs_argument
@json_option("each job that is over, one a line,")
@server
def wait(job_ids: tuple[str, ...], as_json: bool, url: str, token: str | None) -> None:
    """Wait until jobs are over. Ctrl-C leaves them as they are.

    The exit code says how they ended: 0 well, 5 failed, 6 cancelled; of several it is that of the first that did not
    end well.
    """

    def ended(client: Client, said: Report, job: Job) -> Exit:
        tell(said, job, as_json)
        return outcome(job)

    _follow(job_ids, url, token, ended)


@click.command()
@jobs_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="File, or folder, for the result; of several jobs a folder, which is made.  [here]",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@json_option("each job that is over, one a line, with the file's `path`,")
@server
def fetch(
    job_ids: tuple[str, ...], output: str | None, overwrite: bool, as_json: bool, url: str, token: str | None
) -> None:
    """Wait for jobs, and fetch their results. Ctrl-C leaves the jobs as they are.

    What has arrived of a result is kept, so that the next try goes on from there.
    """
    target = check_output(output, (), overwrite, len(job_ids))
    if target is None:
        target = Path()
        check_writable(target)

    def ended(client: Client, said: Report, job: Job) -> Exit:
        return fetched(client, said, job, target, (), overwrite, as_json)

    _follow(job_ids, url, token, ended)


def _follow(
    job_ids: tuple[str, ...], url: str, token: str | None, ended: Callable[[Client, Report, Job], Exit]
) -> None:
    said = report()
    with connected(url, token, teller(said.say)) as client, said:
        following = Following(client, said)

        def follow(job_id: str) -> None:
            job = client.job(job_id)
            following.add(job, job.filename)

        try:
            following.exit = of_each(job_ids, follow, said.say)
            following.finish(lambda job: ended(client, said, job))
        except KeyboardInterrupt:
            leave(client, list(following.live), said)
            sys.exit(Exit.INTERRUPTED)
        except Unreachable:
            leave(client, list(following.live), said)
            raise
    sys.exit(following.exit)


def outcome(job: Job) -> Exit:
    """The exit code by a job that is over."""
    return {"succeeded": Exit.DONE, "cancelled": Exit.JOB_CANCELLED}.get(job.status, Exit.JOB_FAILED)


def tell(said: Report, job: Job, as_json: bool, path: Path | None = None) -> None:
    """Says how a job ended, and to which file its result went."""
    for sentence in text.sentences(job.notes):
        said.say(f"Note: {sentence}")
    if job.error:
        said.say(f"Error: {job.filename}: {job.error.get('detail', 'The job failed.')}")
    if as_json:
        said.result(json.dumps({**job.document, **({} if path is None else {"path": str(path)})}))
    elif path is not None and job.output is not None:
        said.result(f"{path}: {job.output.frames} frames at {job.output.frame_rate} fps")
    else:
        said.result(f"{job.id} {job.status}")


def fetched(
    client: Client,
    said: Report,
    job: Job,
    target: Path,
    clips: Collection[Path],
    overwrite: bool,
    as_json: bool,
) -> Exit:
    """Fetches the result of a job that is over to the file or folder `target`, and never to one of the `clips`."""
    if job.status != "succeeded" or job.output is None:
        tell(said, job, as_json)
        return outcome(job)
    kind = Path(job.output.filename).suffix
    if not target.is_dir() and container_of(target.suffix) != container_of(kind):
        said.say(f"Note: the result is a {kind} file, which the name {target.name} does not say.")

    def show(received: int, total: int) -> None:
        more = f"{text.size(received)} of {text.size(total)}"
        said.show(job.id, job.filename, "fetching", received / total if total else None, more)

    try:
        for path in _places(target, job.output.filename, clips, overwrite):
            try:
                client.download(job.id, path, overwrite=overwrite, on_progress=show)
                break
            except FileExistsError:
                if path == target:
                    raise
                # else another command was faster: the next name may be free
    except OSError as error:
        kept = f"the service still has the result: dain fetch {job.id} -o OTHER"
        said.say(f"Error: {path} cannot be written: {error.strerror}; {kept}")
        return Exit.FAILED
    except Unreachable:
        raise  # which is borne for a while
    except ClientError as error:
        said.say(f"Error: {job.filename}: {error}")
        return exit_code(error)
    tell(said, job, as_json, path)
    return Exit.DONE


def check_output(output: str | None, clips: Collection[Path], overwrite: bool, count: int) -> Path | None:
    """The file or folder `output`. Refuses, before anything is sent, what the results of `count` jobs cannot become.

    Of several jobs, and where a slash ends the name, it is a folder, which is made.
    """
    if output is None:
        return None
    path, is_folder = Path(output), count > 1 or output.endswith(os.sep)
    if not path.is_dir():
        fault = ""
        if not path.parent.is_dir():
            fault = f"there is no folder {path.parent}: make it first"
        elif is_folder:
            fault = _make_folder(path)
        elif _is_one_of(path, clips):
            fault = f"{path} is CLIP itself, which is never replaced: name another file"
        elif path.exists() and not path.is_file():
            fault = f"{path} is a device, a pipe or the like, which is never replaced: name a file"
        elif os.path.lexists(path) and not overwrite:
            fault = f"{path} exists: name another file, or replace it with --overwrite"
        if fault:
            raise click.BadParameter(fault, param_hint="--output")
    check_writable(path if path.is_dir() else path.parent)
    return path


def check_writable(folder: Path) -> None:
    """Refuses, before anything is sent, a folder that the result could not be written to."""
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fault = (
            f"the folder {folder} cannot be written to ({error.strerror}): name another place for the result"
        )
        raise click.BadParameter(fault, param_hint="--output") from None


def _make_folder(path: Path) -> str:
    """Makes a folder; returns why it cannot be made, or nothing."""
    try:
        path.mkdir()
    except OSError as error:
        return f"{path} cannot be made a folder for the results ({error.strerror}): name another"
    return ""


def _places(target: Path, filename: str, clips: Collection[Path], overwrite: bool) -> Iterator[Path]:
    """The files for the result: `target` itself, or, in the folder `target`, names like `filename` that are free."""
    if not target.is_dir():
        yield target
        return
    path = first = target / Path(filename).name
    for number in itertools.count(2):
        if not os.path.lexists(path) or (overwrite and not _is_one_of(path, clips)):
            yield path
        path = first.with_stem(f"{first.stem}-{number}")


def _is_one_of(path: Path, clips: Collection[Path]) -> bool:
    """Whether `path` is one of the videos, by whatever name or link."""
    return path.exists() and any(clip.exists() and path.samefile(clip) for clip in clips)
