"""The `aps-deploy` command: a plain `predict` at once, everything else through `aps_deploy.cli`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from aps_deploy.plain_predict import parse_plainly


def main() -> None:
    """Run the command line of this process."""
    # On Windows Typer opens patterns such as *.png into file names, which no shell there does.
    if os.name != "nt":
        code = predict_plainly(sys.argv[1:])
        if code is not None:
            sys.exit(code)
    from aps_deploy.cli import app

    app(prog_name="aps-deploy")


def predict_plainly(arguments: Sequence[str]) -> int | None:
    """Run a `predict` whose line is plain and return its exit code; None, and nothing done, for any other line."""
    chosen = parse_plainly(arguments)
    if chosen is None:
        return None
    from aps_deploy.edge import ending, prepare_messages

    try:
        prepare_messages(verbose=0)
        as_json = chosen.pop("as_json")
        from aps_deploy.predict import predict

        print(predict(**chosen).to_text(as_json=as_json), flush=True)
    except BrokenPipeError:
        # Whoever read stdout went away. What is still to be written must not fail again at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        known = ending(error)
        if known is None:
            raise
        print(known.line, file=sys.stderr)
        return known.exit_code
    return 0


if __name__ == "__main__":
    main()
