from types import SimpleNamespace

import pytest
from torch.utils.data import DistributedSampler

from famseg.data.sampler import EvaluationSampler, LateLoader, TrainSampler

INDICES = list(range(100, 126))  # 26


def trainer(epoch=0, done=0, rank=0, world_size=1):
    batches = SimpleNamespace(current=SimpleNamespace(completed=done))
    epochs = SimpleNamespace(current=SimpleNamespace(processed=epoch))
    loop = SimpleNamespace(epoch_progress=epochs, epoch_loop=SimpleNamespace(batch_progress=batches))
    return SimpleNamespace(fit_loop=loop, global_rank=rank, world_size=world_size)


def keys(batch_size=4, seed=0, **progress):
    return list(TrainSampler(INDICES, batch_size, seed, trainer(**progress)))


def test_an_epoch_has_full_batches_of_different_samples():
    assert len(keys()) == 24 == len(TrainSampler(INDICES, 4, 0))
    assert len({index for _, index, _ in keys()}) == 24
    assert {epoch for epoch, _, _ in keys(epoch=3)} == {3}


def test_order_follows_from_seed_and_epoch():
    assert keys(epoch=1) == keys(epoch=1)
    orders = [[index for _, index, _ in keys(seed=seed, epoch=epoch)] for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("done", [0, 1, 5, 6])
def test_a_resumed_epoch_goes_on_after_what_is_done(done):
    assert keys(epoch=2, done=done) == keys(epoch=2)[4 * done :]


def test_length_does_not_shrink_when_resumed():
    assert len(TrainSampler(INDICES, 4, 0, trainer(done=5))) == 24


def test_two_processes_see_the_batches_of_one_with_the_same_total():
    one = keys(batch_size=6)
    two = [keys(batch_size=3, rank=rank, world_size=2) for rank in (0, 1)]
    for batch in range(4):
        both = two[0][3 * batch : 3 * batch + 3] + two[1][3 * batch : 3 * batch + 3]
        assert sorted(both) == sorted(one[6 * batch : 6 * batch + 6])


def test_two_processes_resume_alike():
    for rank in (0, 1):
        whole = keys(batch_size=3, rank=rank, world_size=2)
        assert keys(batch_size=3, rank=rank, world_size=2, done=2) == whole[6:]


def test_weights_say_how_often_an_epoch_shows_a_sample():
    weights = [2.0, 0.5, 1.0, 0.25] * 6 + [1.0, 1.0]
    epochs = [list(TrainSampler(INDICES, 4, 0, trainer(epoch), weights)) for epoch in range(40)]
    assert {len(epoch) for epoch in epochs} == {24} == {len(TrainSampler(INDICES, 4, 0, weights=weights))}
    shown = [sum(index == 104 + i for epoch in epochs for _, index, _ in epoch) / 40 for i in range(4)]
    assert shown == pytest.approx([2 * 24 / 24.5, 0.5, 1, 0.25], abs=0.2)
    assert {copy for epoch in epochs for _, index, copy in epoch if index == 100} == {0, 1}


def test_a_weighted_epoch_is_resumed_alike():
    weights = [1.5] * 26
    whole = list(TrainSampler(INDICES, 4, 0, trainer(2), weights))
    assert list(TrainSampler(INDICES, 4, 0, trainer(2, done=3), weights)) == whole[12:]
    assert len(whole) == 36


def test_without_a_trainer_the_epoch_is_set_by_hand():
    sampler = TrainSampler(INDICES, 4, 0)
    sampler.set_epoch(5)
    assert list(sampler) == keys(epoch=5)


def test_evaluation_sees_each_sample_once_in_order():
    assert list(EvaluationSampler(INDICES)) == INDICES
    parts = [list(EvaluationSampler(INDICES, trainer(rank=rank, world_size=3))) for rank in range(3)]
    assert sorted(parts[0] + parts[1] + parts[2]) == INDICES
    assert len(EvaluationSampler(INDICES, trainer(rank=2, world_size=3))) == len(parts[2]) == 8


def test_more_processes_than_samples_leaves_some_empty():
    assert list(EvaluationSampler([7], trainer(rank=1, world_size=2))) == []


def test_lightning_would_leave_them_alone():
    """It replaces samplers of other types on several devices, and with them order and resume."""
    assert isinstance(TrainSampler(INDICES, 4, 0), DistributedSampler)
    assert isinstance(EvaluationSampler(INDICES), DistributedSampler)


@pytest.mark.parametrize("workers", [0, 1])
def test_late_loader_asks_the_sampler_when_the_first_batch_is_wanted(workers):
    progress = trainer(epoch=9)
    sampler = TrainSampler(INDICES, 4, 0, progress)
    batches = iter(LateLoader(dict(enumerate(INDICES)), sampler=sampler, batch_size=4, num_workers=workers))
    progress.fit_loop.epoch_progress.current.processed = 1
    with pytest.raises(KeyError, match=r"\(1, "):  # the key that reached the data set
        next(batches)
