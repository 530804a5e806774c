"""Commands for operators, and for callers of services: services, policies, tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.request import documents_in
from orchestrator.cli.terminal import AsJson, At, connect, line, show_json, table
from orchestrator.errors import ConfigurationError

__all__ = ["add_operations"]


_Bundle = Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder of a trained policy.")]


def add_operations(app: typer.Typer) -> None:
    """Add the commands to a program."""
    app.command()(services)
    app.command()(call)
    policies = typer.Typer(
        no_args_is_help=True, help="Policies: which one decides, and which ones are tried."
    )
    for step in (shadow, canary, activate, fallback, decisions):
        policies.command()(step)
    policies.command("list")(list_policies)
    app.add_typer(policies, name="policy")
    tokens = typer.Typer(no_args_is_help=True, help="Tokens: who may ask the server, and for what.")
    for name, command in (("create", create), ("ls", list_tokens), ("rm", remove)):
        tokens.command(name)(command)
    app.add_typer(tokens, name="token")


def services(
    name: Annotated[str | None, typer.Argument(metavar="[SERVICE]", help="Only this one.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="YAML with rules of services: they are set first."),
    ] = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """List services, or show one. What answers for a service is a job of its name.

    Example: quartermaster services -f summarise.yaml
    """
    rules = [] if file is None else documents_in(file)
    with connect(at) as client:
        for each in rules:
            client.add_service(**each)
        found = client.services() if name is None else [client.service(name)]
    _rows(found if name is None else found[0], found, as_json, "no services")


def call(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Whom.")],
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="Where.")] = "",
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Body; @FILE: that file's content, @-: standard input."),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--request", "-X", help="POST where there is a body, else GET.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="'Name: value'; may be repeated.")
    ] = None,
    at: At = None,
) -> None:
    """Send a request to a service through the mesh, and print the answer as it comes.

    Example: quartermaster call summarise /v1/text -d '{"text": "..."}'
    """
    headers = {}
    for one in header or []:
        name, colon, value = one.partition(":")
        if not colon:
            raise ConfigurationError(f"header '{one}': it has no value; write 'Name: value'")
        headers[name.strip()] = value.strip()
    body = _content(data)
    how = method or ("GET" if data is None else "POST")
    with (
        connect(at) as client,
        client.call(service, path, method=how, body=body, headers=headers) as parts,
    ):
        for part in parts:
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()


def _content(data: str | None) -> bytes:
    if data is None or not data.startswith("@"):
        return (data or "").encode()
    if data == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"file '{data[1:]}': {error.strerror}; give one") from error


def list_policies(at: At = None, as_json: AsJson = False) -> None:
    """Say which policy is in charge, and which ones are tried.

    Example: quartermaster policy list
    """
    with connect(at) as client:
        _facts(client.policy(), as_json)


def shadow(bundle: _Bundle, at: At = None, as_json: AsJson = False) -> None:
    """Have a policy decide beside the one in charge, without consequences.

    Example: quartermaster policy shadow results/lublin/ppo
    """
    with connect(at) as client:
        _facts(client.set_policy("shadow", bundle=_place(bundle)), as_json)


def canary(
    bundle: _Bundle,
    share: Annotated[
        float, typer.Option("--share", min=0, max=1, help="Share of the decision points.")
    ] = 0.1,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Have a policy decide at a share of the decision points.

    Example: quartermaster policy canary results/lublin/ppo --share 0.2
    """
    with connect(at) as client:
        _facts(client.set_policy("canary", bundle=_place(bundle), share=share), as_json)


def activate(bundle: _Bundle, at: At = None, as_json: AsJson = False) -> None:
    """Put a policy in charge.

    Example: quartermaster policy activate results/lublin/ppo
    """
    with connect(at) as client:
        _facts(client.set_policy("activate", bundle=_place(bundle)), as_json)


def fallback(
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "",
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Put the fallback rule back in charge, at once.

    Example: quartermaster policy fallback --reason "queue grows"
    """
    with connect(at) as client:
        _facts(client.set_policy("fallback", reason=reason), as_json)


def decisions(
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """List what policies have decided, the newest first.

    Example: quartermaster policy decisions --limit 5
    """
    with connect(at) as client:
        found = client.decisions(limit)
    _rows(found, found, as_json, "nothing was decided yet")


def create(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    role: Annotated[str, typer.Option("--role", help="viewer, submitter or operator.")] = "viewer",
    hours: Annotated[
        float | None, typer.Option("--expires-hours", min=0, help="For how long; else for ever.")
    ] = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. It is told this once.

    Example: quartermaster token create ci --role submitter --expires-hours 720
    """
    with connect(at) as client:
        made = client.create_token(name, role, hours)
    if as_json:
        show_json(made)
    else:
        line(str(made["token"]))


def list_tokens(at: At = None, as_json: AsJson = False) -> None:
    """List tokens: names and roles, never their texts.

    Example: quartermaster token ls
    """
    with connect(at) as client:
        found = client.tokens()
    _rows(found, found, as_json, "no tokens")


def remove(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Have a token known no more.

    Example: quartermaster token rm ci
    """
    with connect(at) as client:
        answer = client.remove_token(name)
    if as_json:
        show_json(answer)
    else:
        line(f"token {name} removed")


def _place(bundle: str) -> str:
    """A bundle of this machine by its whole path, as the server may stand elsewhere."""
    place = Path(bundle)
    return str(place.resolve()) if place.exists() else bundle


def _rows(value: Any, rows: list[Any], as_json: bool, empty: str) -> None:
    """Print a list whose columns are what the server says of its first row."""
    if as_json:
        show_json(value)
        return
    columns = [name for name in (rows[0] if rows else {}) if not isinstance(rows[0][name], dict)]
    cells = ([_cell(name, row.get(name)) for name in columns] for row in rows)
    table([_label(name).upper() for name in columns], cells, empty)


_MOMENTS = ("time_ms", "created_ms", "expires_ms", "since_ms", "now_ms")  # since the epoch


def _label(name: str) -> str:
    return (name.removesuffix("_ms") if name in _MOMENTS else name).replace("_", " ")


def _cell(name: str, value: Any) -> Any:
    if name not in _MOMENTS or value is None:
        return value
    from orchestrator.cli.tables import moment

    return moment(value)


def _facts(value: dict[str, Any], as_json: bool) -> None:
    """Print what is known of one thing."""
    if as_json:
        show_json(value)
        return
    from orchestrator.cli.tables import facts

    facts((_label(name), _cell(name, each)) for name, each in value.items())
