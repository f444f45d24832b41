"""The command line. Heavy imports happen inside the verbs, so that `--help` is quick."""

from rhlens.cli import compare as compare
from rhlens.cli import doctor as doctor
from rhlens.cli import patch as patch
from rhlens.cli.options import MethodName as MethodName
from rhlens.cli.options import PhaseName as PhaseName
from rhlens.cli.options import numbers as numbers
from rhlens.cli.run import run as run
from rhlens.cli.verbs import app as app
from rhlens.cli.zoo import app as zoo_app

app.add_typer(zoo_app, name="zoo")


def main() -> None:
    """The console script."""
    run(app)
