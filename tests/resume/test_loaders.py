"""A run that is interrupted again and again gives the batches, losses and weights of one that is not, bit for bit."""

import pytest
import resumed_training as training
from resumed_training import EPOCHS, LOADERS, WORKERS

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it


def compare(tmp_path, loader):
    expected = training.whole(tmp_path / "whole", loader, max_epochs=EPOCHS)
    steps = len(expected.steps)
    an_epoch = steps // EPOCHS
    stops = [(an_epoch - 1, False), (2 * an_epoch - 2, True)]
    seen = training.in_pieces(tmp_path / "pieces", loader, stops, max_epochs=EPOCHS)
    assert training.first_difference(seen, expected) is None
    assert sorted(seen.steps) == list(range(steps))


@pytest.mark.parametrize("name", LOADERS)
def test_every_loader(tmp_path, name):
    """Dropout, gradients being accumulated, AMP with its scaler, a schedule, batch statistics and an average of the
    weights, over several epochs, with noise from each generator; stopped in mid epoch, at an epoch's last step, and
    between a step's work and its end."""
    compare(tmp_path, LOADERS[name])


@pytest.mark.parametrize("name", WORKERS)
def test_workers(tmp_path, name):
    """The same with processes that load batches ahead, and draw random numbers of their own."""
    compare(tmp_path, WORKERS[name])
