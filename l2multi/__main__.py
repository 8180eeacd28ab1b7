"""The command ``l2multi``, also as ``python -m l2multi``; an interrupt is one line, always."""

import os
import sys


def main() -> int:
    """Run the command; the exit code."""
    try:
        try:
            from l2multi.cli import main as command
        except ModuleNotFoundError as error:
            if error.name not in ("typer", "rich"):
                raise
            told = f"the command needs typer and rich ({error}); try: pip install '.[cli]'"
            print(f"l2multi: error: {told}", file=sys.stderr)
            return 1
        return command()
    except KeyboardInterrupt:
        return interrupted()
    finally:
        import signal  # not above, for whatever takes time shall be inside

        # Only the interpreter's end is left, where an interrupt would print a traceback.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted() -> int:
    """Say so, and return the exit code."""
    print("l2multi: interrupted; no file is left half written", file=sys.stderr)
    return 130


def is_command() -> bool:
    """Whether this process was started as the command, as far as can be told while modules are
    imported."""
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    return name in ("l2multi", "l2multi.exe") or (name == "-m" and "l2multi" in sys.orig_argv)


if __name__ == "__main__":
    sys.exit(main())
