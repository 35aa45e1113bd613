"""`prompt …`: the prompt database, its revisions, and editing a prompt without losing what was written."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core import storage
from fleetshell_tools.core.errors import BadArgument, ConfigError, NotFound, UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.prompt_file import Prompt, check_content, check_description, check_name, parse
from fleetshell_tools.core.prompts import Editor, PromptStore
from fleetshell_tools.core.text import clean, one_line

NAME = Arg("name", metavar="NAME", help="the prompt's name: letters, digits, - and _")
TEXT = "text, @FILE, or - for standard input"


@command(
    "prompt save",
    NAME,
    Arg("--description", metavar="D", required=True, help=f"one line that says what it is for ({TEXT})"),
    Arg("--content", metavar="C", required=True, help=f"the prompt; {{name}} is an argument ({TEXT})"),
    JSON,
    example='fleetshell prompt save check-logs --description "Errors of a day" --content "Look for errors in the logs of {server}"',
)
def save(args: argparse.Namespace, home: Home) -> int:
    """Save a prompt, or give an existing one a new text; the text before is kept as a revision."""
    if args.description == args.content == "-":
        raise UsageError("Only one of --description and --content can be read from standard input.")
    description, content = _given(args.description).strip(), _given(args.content)
    prompt, _ = _store(home).save(args.name, description, content, by=_operator(home, "prompt save"))
    return _done(args, prompt, f"Prompt '{args.name}' saved successfully")


@command("prompt list", JSON, example="fleetshell prompt list")
def list_prompts(args: argparse.Namespace, home: Home) -> int:
    """List the saved prompts; those whose file is damaged are shown after them, with the reason."""
    prompts, problems = _store(home).all()
    if args.json:
        shown: list[dict[str, Any]] = [_as_json(prompt) for prompt in prompts]
        disabled = [{"name": name, "disabled": True, "reason": reason} for name, reason in problems.items()]
        output.print_json(
            [{key: value for key, value in item.items() if key != "content"} for item in shown] + disabled
        )
        return 0
    if prompts:
        rows = [
            [prompt.name, prompt.description, ", ".join(prompt.arguments), prompt.updated_at, prompt.author]
            for prompt in prompts
        ]
        print(output.table(["Name", "Description", "Arguments", "Updated", "By"], rows))
    elif not problems:
        print("No prompts are saved yet. Save one with `fleetshell prompt save`.")
    if problems:
        print(
            f"{chr(10) if prompts else ''}Disabled, because the file is damaged (`fleetshell prompt edit NAME` opens it):"
        )
        for name, reason in problems.items():
            print(f"  {output.paint('✗', 'red')} {one_line(name)}: {one_line(reason, 500)}")
    return 0


@command(
    "prompt show",
    NAME,
    Arg("--revision", type=int, metavar="N", help="an earlier revision, from `prompt history`"),
    Arg("--raw", action="store_true", help="print the content alone, byte for byte"),
    JSON,
    example="fleetshell prompt show check-logs",
)
def show(args: argparse.Namespace, home: Home) -> int:
    """Show a prompt."""
    store = _store(home)
    prompt = store.get(args.name) if args.revision is None else store.revision(args.name, args.revision)
    if args.json:
        output.print_json(_as_json(prompt))
        return 0
    content = clean(prompt.content) if sys.stdout.isatty() else prompt.content
    if args.raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(content.encode())
        return 0
    facts = {
        "Name": prompt.name, "Title": prompt.title, "Description": prompt.description, "Arguments": ", ".join(prompt.arguments),
        "Created": prompt.created_at, "Updated": prompt.updated_at,
        "Revision": f"{prompt.revision}{f', by {prompt.author}' if prompt.author else ''}",
    }  # fmt: skip
    for label, fact in facts.items():
        if fact:
            print(f"{label + ':':<13}{one_line(fact, 500)}")
    print(f"\n{content}", end="" if content.endswith("\n") else "\n")
    return 0


@command(
    "prompt edit",
    NAME,
    Arg("--description", metavar="D", help=f"the new description, without an editor ({TEXT})"),
    Arg("--content", metavar="C", help=f"the new content, without an editor ({TEXT})"),
    JSON,
    example="fleetshell prompt edit check-logs",
)
def edit(args: argparse.Namespace, home: Home) -> int:
    """Edit a prompt in $VISUAL or $EDITOR: its description on the first line, an empty line, its content."""
    store, by = _store(home), _operator(home, "prompt edit")
    if args.description is None and args.content is None:
        return _edit_in_editor(store, home, args.name, by)
    if args.description == args.content == "-":
        raise UsageError("Only one of --description and --content can be read from standard input.")
    description = None if args.description is None else _given(args.description).strip()
    content = None if args.content is None else _given(args.content)
    prompt = store.edit(args.name, description, content, by=by)
    return _done(args, prompt, f"Prompt '{args.name}' updated successfully")


def _edit_in_editor(store: PromptStore, home: Home, name: str, by: Editor) -> int:
    try:
        prompt = store.get(name)
    except ConfigError as error:
        output.warn(f"{error.message} This opens the damaged file itself.")
        return _mend(store, home, name, by)
    import tempfile

    from fleetshell_tools.cli import editing

    before = f"{one_line(prompt.description, 500)}\n\n{prompt.content}"
    # The copy that `editing` compares with, and beside which it keeps a text that could not be saved.
    folder = Path(tempfile.mkdtemp(prefix=f".prompt-{name}-", dir=home.path))
    path = folder / f"{name}.txt"
    try:
        storage.write_atomic(path, before)

        def put(text: str) -> None:
            description, content = _parts(_without_added_newline(text, before))
            saved = store.edit(name, description, content, by=by, expected_revision=prompt.revision)
            unchanged = saved.revision == prompt.revision
            print("Nothing was changed." if unchanged else f"Saved {store.path(name)}, revision {saved.revision}.")

        return editing.edit(path, home.path, _check, put)
    finally:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: a text that was kept aside lies in it
            folder.rmdir()


def _mend(store: PromptStore, home: Home, name: str, by: Editor) -> int:
    """Edit the file of a damaged prompt as it is."""
    from fleetshell_tools.cli import editing

    path = store.path(name)

    def put(text: str) -> None:
        by.record("prompt_mended", prompt=name)
        storage.write_atomic(path, text)
        print(f"Saved {path}.")

    def check(text: str) -> None:
        parse(text.encode(), name, path)

    return editing.edit(path, home.path, check, put)


def _without_added_newline(text: str, before: str) -> str:
    """Most editors end a file with a newline; where the content had none, that is no change."""
    return text[:-1] if text.endswith("\n") and not before.endswith("\n") else text


def _parts(text: str) -> tuple[str, str]:
    """Description and content of what was written in the editor.

    Raises:
        BadArgument: It has not that form, or a part can't be saved.
    """
    description, _, rest = text.partition("\n")
    gap, _, content = rest.partition("\n")
    if gap.strip():
        raise BadArgument("The second line must be empty: it stands between the description and the content.")
    return check_description(description.strip()), check_content(content)


def _check(text: str) -> None:
    try:
        _parts(text)
    except BadArgument as error:
        raise ConfigError(error.message) from None


@command(
    "prompt delete",
    NAME,
    Arg("--forget", action="store_true", help="delete its revisions too, so that nothing can bring it back"),
    Arg("--yes", action="store_true", help="do not ask"),
    example="fleetshell prompt delete check-logs",
)
def delete(args: argparse.Namespace, home: Home) -> int:
    """Delete a prompt; `prompt rollback` can bring it back, but not with --forget. Without a terminal it does not ask."""
    store = _store(home)
    store.revisions(check_name(args.name))
    if output.interactive() and not args.yes and not output.confirm(f"Delete the prompt {args.name}?"):
        print("Nothing was deleted.")
        return 1
    store.delete(args.name, by=_operator(home, "prompt delete"), forget=args.forget)
    print(f"Prompt '{args.name}' deleted successfully")
    return 0


@command("prompt history", NAME, JSON, example="fleetshell prompt history check-logs")
def history(args: argparse.Namespace, home: Home) -> int:
    """List the revisions of a prompt, the newest last; those of a deleted prompt are still there."""
    store, found, rows = _store(home), [], []
    for number in store.revisions(args.name):
        try:
            prompt = store.revision(args.name, number)
        except ConfigError as error:
            found.append({"revision": number, "disabled": True, "reason": error.message})
            rows.append([str(number), "", "", "", f"damaged: {error.message}"])
            continue
        size = len(prompt.content.encode())
        found.append({"revision": number, "updated_at": prompt.updated_at, "author": prompt.author or None, "bytes": size,
                      "description": prompt.description})  # fmt: skip
        rows.append([str(number), prompt.updated_at, prompt.author, str(size), prompt.description])
    if args.json:
        output.print_json(found)
    else:
        print(output.table(["Revision", "Saved", "By", "Bytes", "Description"], rows))
    return 0


@command(
    "prompt diff",
    NAME,
    Arg("old", metavar="OLD", type=int, nargs="?", help="a revision (default: the one before the newest)"),
    Arg("new", metavar="NEW", type=int, nargs="?", help="a revision (default: the newest)"),
    JSON,
    example="fleetshell prompt diff check-logs 1 3",
)
def diff(args: argparse.Namespace, home: Home) -> int:
    """Show what changed between two revisions of a prompt."""
    store = _store(home)
    numbers = store.revisions(args.name)
    new = numbers[-1] if args.new is None else args.new
    earlier = [number for number in numbers if number < new]
    if args.old is None and not earlier:
        raise NotFound(f'The prompt "{args.name}" has no revision before {new}.')
    old = earlier[-1] if args.old is None else args.old
    import difflib

    before, after = (_lines(store.revision(args.name, number)) for number in (old, new))
    labels = (f"{args.name} revision {old}", f"{args.name} revision {new}")
    lines = list(difflib.unified_diff(before, after, labels[0], labels[1], lineterm=""))
    if args.json:
        output.print_json({"name": args.name, "old": old, "new": new, "diff": "\n".join(lines)})
        return 0
    for line in lines:
        colour = {"+": "green", "-": "red", "@": "dim"}.get(line[:1])
        shown = clean(line) if sys.stdout.isatty() else line
        print(output.paint(shown, colour) if colour else shown)
    if not lines:
        print(f"The revisions {old} and {new} have the same text.")
    return 0


def _lines(prompt: Prompt) -> list[str]:
    return [prompt.description, "", *prompt.content.split("\n")]


@command(
    "prompt rollback",
    NAME,
    Arg("revision", metavar="REVISION", type=int, nargs="?", help="which one (default: the one before)"),
    JSON,
    example="fleetshell prompt rollback check-logs 1",
)
def rollback(args: argparse.Namespace, home: Home) -> int:
    """Make an earlier revision the newest one; this also brings back a deleted prompt."""
    prompt = _store(home).rollback(args.name, args.revision, by=_operator(home, "prompt rollback"))
    return _done(args, prompt, f"Prompt '{args.name}' rolled back; its text is now revision {prompt.revision}")


def _store(home: Home) -> PromptStore:
    home.check()
    return PromptStore(home.path / "prompts")


def _operator(home: Home, name: str) -> Editor:
    """Whoever types the command; what they change is recorded first."""
    config = home.config()

    def record(event: str, **fields: Any) -> None:
        from fleetshell_tools.offline import record as write

        write(home, config, event, name, **fields)

    return Editor("operator", record)


def _given(value: str) -> str:
    """An option's text: as it is, from `@FILE`, or from standard input for `-`.

    Raises:
        UsageError: It can't be read, or is no text.
    """
    if value != "-" and not value.startswith("@"):
        return value
    try:
        raw = sys.stdin.buffer.read() if value == "-" else Path(value[1:]).expanduser().read_bytes()
        return raw.decode()
    except OSError as error:
        raise UsageError(
            f"{value[1:] or 'The file after @'} can't be read: {error.strerror}. A text that begins with @ is given by -."
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{'Standard input' if value == '-' else value[1:]} is not UTF-8 text (byte {error.start})."
        ) from None


def _as_json(prompt: Prompt) -> dict[str, Any]:
    return {
        "name": prompt.name, "description": prompt.description, "content": prompt.content, "arguments": prompt.arguments,
        "created_at": prompt.created_at, "updated_at": prompt.updated_at, "revision": prompt.revision, "author": prompt.author or None,
    }  # fmt: skip


def _done(args: argparse.Namespace, prompt: Prompt, sentence: str) -> int:
    if args.json:
        output.print_json(_as_json(prompt))
    else:
        print(sentence)
    return 0


COMMANDS = (save, list_prompts, show, edit, delete, history, diff, rollback)
