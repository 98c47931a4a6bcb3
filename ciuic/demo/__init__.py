"""The guided tour: a training script that is killed and resumed, and the commands to look at it with."""

from ciuic.demo.tour import run

__all__ = ["run"]
