"""What starts things: the graph of a study, its jobs, the engine, GPUs, plans, the command line."""

import sys


def run_command() -> int:
    """The command `hrsa`; its exit code. A Ctrl-C while the command loads is said as one that comes later."""
    try:
        from hrsa.study.runtime import spare_collector

        spare_collector()
        from hrsa.workflow.commands import main
    except KeyboardInterrupt:
        from hrsa.study.errors import GOES_ON

        sys.stderr.write(f"\nhrsa: interrupted; {GOES_ON}\n")
        return 130
    return main()
