import math

import numpy as np
import pytest

from famseg.biometry import standards

WEEKS = (14, 20, 28, 36, 40)
HC = [(97.88, 5.58), (172.48, 7.44), (260.36, 8.94), (319.40, 10.76), (333.95, 12.92)]
FL = [13.11, 31.29, 51.28, 66.40, 72.13]
ALL = (standards.HC, standards.BPD, standards.OFD, standards.FL)


def test_golden_values():
    found = [(standards.HC.mean(g), standards.HC.sd(g)) for g in WEEKS]
    assert np.array(found) == pytest.approx(np.array(HC), abs=0.005)
    assert [standards.FL.mean(g) for g in WEEKS] == pytest.approx(FL, abs=0.005)


@pytest.mark.parametrize("g", range(14, 41))
def test_the_standards_fit_together(g):
    bpd, ofd, hc = (s.mean(g) for s in (standards.BPD, standards.OFD, standards.HC))
    assert math.pi * (bpd + ofd) / 2 == pytest.approx(hc, rel=0.03)
    assert 0.75 < bpd / ofd < 0.9


@pytest.mark.parametrize("standard", ALL)
def test_growth_and_its_spread_increase(standard):
    weeks = np.arange(14, 40.5, 0.5)
    assert (np.diff([standard.mean(g) for g in weeks]) > 0).all()
    spread = np.array([standard.sd(g) for g in weeks])
    assert (spread / [standard.mean(g) for g in weeks] > 0.02).all()
    assert (spread < 14).all()


@pytest.mark.parametrize("standard", ALL)
def test_z_scores_centiles_and_values(standard):
    mean, sd = standard.mean(25), standard.sd(25)
    assert standard.z_score(mean + 2 * sd, 25) == pytest.approx(2)
    assert standard.centile(mean - 1.88079 * sd, 25) == pytest.approx(3, abs=1e-4)
    assert standard.value(standard.centile(1.02 * mean, 25), 25) == pytest.approx(1.02 * mean)


@pytest.mark.parametrize("weeks", [13.99, 40.01, 0.0, -3.0, math.nan])
@pytest.mark.parametrize("standard", ALL)
def test_nothing_is_extrapolated(standard, weeks):
    found = [standard.mean(weeks), standard.sd(weeks), standard.z_score(100, weeks), standard.centile(100, weeks)]
    assert np.isnan([*found, standard.value(50, weeks)]).all()
    assert not standards.covered(weeks)
