"""Commands that look into what runs leave behind: `pixelis operations`, `pixelis shards`, `pixelis buffer`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pipelines.terminal import console

operations_app = typer.Typer(help="Visual operations: list them, try one.", no_args_is_help=True, rich_markup_mode=None)
shards_app = typer.Typer(help="Shards of clips and trajectories.", no_args_is_help=True, rich_markup_mode=None)
buffer_app = typer.Typer(help="The service's experience buffer.", no_args_is_help=True, rich_markup_mode=None)
Buffer = Annotated[Path, typer.Argument(help="Folder of the buffer, such as runs/ttrl/experiences-128.")]


def say(text: str) -> None:
    """Print one line as it is."""
    typer.echo(text)


@operations_app.command("list")
def operations_list(
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schemas instead.")] = False,
) -> None:
    """List every operation, plugins included."""
    from components.shared.operations.command import list_rows, schemas_json

    if schema:
        say(schemas_json())
        return
    table = Table("operation", "what it does", "example arguments", "source")
    for row in list_rows():
        table.add_row(row.name, row.description, row.example, row.source)
    console().print(table)


@operations_app.command("run")
def operations_run(
    name: Annotated[str, typer.Argument(help="Operation, such as ZOOM_IN.")],
    image: Annotated[list[Path], typer.Option(help="Picture or video; repeatable.")],
    args: Annotated[str, typer.Option(help="Arguments as a JSON object.")] = "{}",
    output: Annotated[Path | None, typer.Option(help="Where the drawing goes (PNG or JPEG).")] = None,
) -> None:
    """Try one operation on a picture or video."""
    from components.shared.operations.command import run_operation

    result = run_operation(name, image, args, output)
    if not result.ok:
        say(json.dumps(asdict(result.error) if result.error else {}, indent=2, default=str))
        raise typer.Exit(3)
    say(result.text)
    if output:
        say(f"drawing: {output}")


@shards_app.command("verify")
def shards_verify(artifact: Annotated[Path, typer.Argument(help="Artifact with an index.json.")]) -> None:
    """Check size, digest and count of every shard."""
    from components.shared.samples import verify_artifact

    index = verify_artifact(artifact)
    for split, shards in index.shards.items():
        say(f"{split}: {sum(shard.count for shard in shards)} samples in {len(shards)} shards, all as recorded")


@buffer_app.command("stat")
def buffer_stat(
    directory: Buffer,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures here instead.")] = None,
) -> None:
    """Show counts, sizes, ages and damage.

    Works beside a running service.
    """
    from components.shared.runtime.artifacts import atomic_write
    from components.ttrl.buffer.tools import stat, stat_page

    if html:
        atomic_write(html, stat_page(directory))
        say(str(html))
    else:
        say(json.dumps(stat(directory), indent=2, default=str))


@buffer_app.command("verify")
def buffer_verify(directory: Buffer) -> None:
    """Read every byte and compare all checksums; never writes."""
    from components.ttrl.buffer.tools import verify

    report = verify(directory)
    say(json.dumps(asdict(report), indent=2))
    report.refuse_damage(directory)


@buffer_app.command("dump")
def buffer_dump(
    directory: Buffer,
    identity: Annotated[list[str] | None, typer.Option("--id", help="Only this record; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many records.", min=1)] = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="With the embeddings.")] = False,
) -> None:
    """Print records as JSON, one a line."""
    from components.ttrl.buffer.tools import dump

    for item in dump(directory, ids=identity, limit=limit, vectors=vectors):
        say(json.dumps(item, ensure_ascii=False, default=str))


@buffer_app.command("repair")
def buffer_repair(directory: Buffer) -> None:
    """Make a damaged buffer whole again.

    What cannot be read is left out; broken files are kept aside.
    """
    from components.ttrl.buffer.tools import repair

    say(json.dumps(asdict(repair(directory)), indent=2))


@buffer_app.command("compact")
def buffer_compact(
    directory: Buffer, everything: Annotated[bool, typer.Option("--all", help="Rewrite every segment.")] = False
) -> None:
    """Rewrite segments with dead bytes."""
    from components.ttrl.buffer.tools import compact

    say(f"{compact(directory, everything=everything):,} bytes freed")


@buffer_app.command("export")
def buffer_export(directory: Buffer, target: Annotated[Path, typer.Argument(help="File to write.")]) -> None:
    """Write all live records into one file.

    Ends with 8 where damage kept some out of it; those that can be read are in it.
    """
    from components.ttrl.buffer.tools import export_buffer

    say(f"{export_buffer(directory, target)} records in {target}")


@buffer_app.command("import")
def buffer_import(
    directory: Buffer,
    source: Annotated[Path, typer.Argument(help="File of an earlier export.", exists=True, dir_okay=False)],
) -> None:
    """Add the records of an exported file.

    Those already there stay as they are.
    """
    from components.ttrl.buffer.tools import import_buffer

    say(f"{import_buffer(directory, source)} records imported")
