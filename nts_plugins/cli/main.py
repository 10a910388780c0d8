# SPDX-License-Identifier: Apache-2.0
"""The ``nts`` command. Each subcommand is a dataclass in a module of its own with ``run() -> int``, the exit code.

Those modules import nothing heavy at their top, so that ``nts --help`` answers at once.
"""

import signal
import sys
import warnings
from typing import Optional, Sequence

import tyro

from nts_plugins.cli.align_codec import AlignCodec
from nts_plugins.cli.bench import Bench
from nts_plugins.cli.compare_geometry import CompareGeometry
from nts_plugins.cli.doctor import Doctor
from nts_plugins.cli.export import Export
from nts_plugins.cli.features import Features
from nts_plugins.cli.mesh import Mesh
from nts_plugins.cli.predict import Predict
from nts_plugins.cli.query import Query
from nts_plugins.cli.sample import Sample
from nts_plugins.cli.tune_codec import TuneCodec
from nts_plugins.errors import InputError

COMMANDS = {
    "sample": Sample,
    "predict": Predict,
    "features": Features,
    "query": Query,
    "tune-codec": TuneCodec,
    "align-codec": AlignCodec,
    "export": Export,
    "mesh": Mesh,
    "compare-geometry": CompareGeometry,
    "bench": Bench,
    "doctor": Doctor,
}
"""Name of the subcommand to its class; the class's docstring is its help."""

USER_ERROR, INTERRUPTED = 2, 130


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Parse arguments, run the command, and return the exit code.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="nts",
        description="Tools beside nerfstudio's own ns-train, ns-eval, ns-render, ns-export and ns-viewer.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        return command.run()
    except InputError as error:
        print(f"nts: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("nts: interrupted; nothing half-written is left.", file=sys.stderr)
        return INTERRUPTED


def entrypoint() -> None:
    """What the installed ``nts`` runs. A polite kill unwinds like Ctrl-C, so that unfinished work is cleaned up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # nerfstudio calls torch by old names; whoever runs a command can do nothing about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="nerfstudio")
    sys.exit(main())
